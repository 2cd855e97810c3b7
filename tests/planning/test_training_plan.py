"""Plans of training: errors before compiling, costs read off programs, and one small slice."""

import dataclasses
import importlib.util
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from livecc_jax.cli import main
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.errors import ConfigError
from livecc_jax.model.attention import attend, use_backend
from livecc_jax.model.flops import forward_flops
from livecc_jax.model.lora import LoraConfig
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import abstract_params
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.compiled_plan import bytes_per_device
from livecc_jax.planning.cost import count_flops
from livecc_jax.planning.hlo import parse_out_of_memory, read_program
from livecc_jax.planning.search import estimate_candidate, mesh_candidates
from livecc_jax.planning.training import (
    abstract_training_state,
    nominal_row,
    resolve_training_mesh,
)
from livecc_jax.train.config import ComputeConfig, Config, DataConfig, OptimConfig

V5P = Topology.parse("v5p:4x4x4")
SMALL_SLICE_BYTES = 43_698_920  # a chip, libtpu 0.0.42.1
SEVEN = Config(preset="7b", data=DataConfig(tokens=32768, windows=96, rows_per_step=256))


@pytest.mark.parametrize(
    ("text", "slices", "message"),
    [
        ("v9:4x4", 1, "v9:4x4"),
        ("v5p", 1, "and a shape, such as v5p:4x4x4"),
        ("v5p:4x4", 1, "a v5p slice has 3 dimensions"),
        ("v5e:16x16", 0, "--slices must be at least 1"),
    ],
)
def test_unknown_topologies_are_refused(text, slices, message):
    with pytest.raises(ConfigError, match=message):
        Topology.parse(text, slices)


@pytest.mark.parametrize(
    ("changes", "topology", "message"),
    [
        ({"mesh": MeshConfig(tensor=8)}, V5P, r"text\.heads is 28, .* mesh\.tensor = 8"),
        ({"mesh": MeshConfig(context=5)}, V5P, r"mesh\.context=5"),
        ({"data": DataConfig(rows_per_step=250)}, V5P, r"data\.rows_per_step .* 250"),
        ({"optim": OptimConfig(accumulate=3)}, V5P, r"data\.rows_per_step is 256, .*accumulate = 3"),
        ({"compute": ComputeConfig(remat="some")}, V5P, r"compute\.remat 'some'"),
        ({"compute": ComputeConfig(freeze=("tower",))}, V5P, r"compute\.freeze names 'tower'"),
        ({}, Topology.parse("v5e:16x16", 2), r"mesh\.data=1 is not a multiple of the 2 slices"),
    ],
)
def test_invalid_configs_are_refused_before_compiling(changes, topology, message):
    with pytest.raises(ConfigError, match=message):
        resolve_training_mesh(dataclasses.replace(SEVEN, **changes), preset("7b"), topology)


def test_command_errors_are_one_sentence(tmp_path, capsys, monkeypatch):
    config = tmp_path / "config.py"
    config.write_text("from livecc_jax.train.config import Config\nconfig = Config(preset='7b')\n")
    assert main(["plan", str(config), "--topology", "v5p:4x4x4", "--mesh.tensor", "3"]) == 2
    assert "mesh.tensor=3" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "libtpu", None)  # as if it were not installed
    argv = ["plan", str(config), "--topology", "v5p:4x4x4", "--data.rows_per_step", "64"]
    assert main(argv) == 2
    assert "libtpu, which is missing: pip install 'jax[tpu]'" in capsys.readouterr().err


def test_flops_are_counted_with_loops_recomputation_and_kernels():
    """Products of known sizes under scan and checkpoint; splash kernels by the blocks they visit."""
    weights = jax.ShapeDtypeStruct((5, 32, 32), jnp.float32)
    x = jax.ShapeDtypeStruct((8, 32), jnp.float32)

    def loss(weights, x):
        body = jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None))
        return jnp.sum(jax.lax.scan(body, x, weights)[0])

    counted = count_flops(jax.make_jaxpr(jax.grad(loss, (0, 1)))(weights, x))
    assert counted["matrix products"] == 4 * 5 * 2 * 8 * 32 * 32  # forward, again, two backward

    length, heads, width = 4096, 4, 128
    q = jax.ShapeDtypeStruct((2, length, heads, width), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((2, length, 2, width), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32)
    for causal, kind, visited_share in (
        (True, "causal attention", 10 / 16),
        (False, "full attention", 1),
    ):

        def attention(q, k, v, ids, causal=causal):
            with use_backend("splash"):
                return jnp.sum(attend(q, k, v, ids, causal=causal).astype(jnp.float32))

        counted = count_flops(jax.make_jaxpr(jax.grad(attention, (0, 1, 2)))(q, k, k, ids))
        product = 2 * 2 * heads * length**2 * width
        assert counted[kind] == (2 + 3 + 4) * product * visited_share


def test_collectives_and_memory_are_read_off_a_compiled_program():
    """A scan over weights that are sharded over four devices: each layer is gathered."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    weight_sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp", None))
    batch_sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None))
    weights = jax.ShapeDtypeStruct((6, 256, 256), jnp.float32, sharding=weight_sharding)
    x = jax.ShapeDtypeStruct((64, 256), jnp.float32, sharding=batch_sharding)

    def f(weights, x):
        def body(x, w):
            w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, PartitionSpec()))
            return jnp.sin(x @ w), None

        return jax.lax.scan(body, x, weights)[0]

    program = read_program(jax.jit(f).lower(weights, x).compile().as_text(), 8)
    assert not program.unknown_loops
    (gather,) = program.collectives
    assert (gather.kind, gather.group) == ("all-gather", (0, 1, 2, 3))
    assert gather.bytes == 6 * 256 * 256 * 4
    assert gather.sent == gather.bytes * 3 / 4
    # The weights of each layer are written and read in full after they are gathered from quarters.
    minimum = 6 * 256 * 256 * 4 * 2
    assert minimum <= program.memory_bytes < 4 * minimum


def test_a_prefetched_slice_counts_as_its_own_size():
    """In the HLO of TPUs: two of the eight parts of an array, one to on-chip memory, one to HBM."""
    text = """HloModule m, is_scheduled=true

ENTRY %main (p: s8[8388608]) -> s8[1048576] {
  %p = s8[8388608]{0:T(1024)(128)(4,1)} parameter(0)
  %a = ((s8[8388608]{0}), s8[1048576]{0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:1048576]}
  %b = ((s8[8388608]{0}), s8[1048576]{0}, s32[]{:S(2)}) slice-start(%p), slice={[0:1048576]}
  %c = s8[1048576]{0:T(1024)S(1)} slice-done(%a)
  ROOT %d = s8[1048576]{0:T(1024)} slice-done(%b)
}
"""
    assert read_program(text, 1).memory_bytes == 3 * 2**20


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", (0, 2)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("replica_groups={}", tuple(range(8))),
    ],
)
def test_replica_groups_in_every_notation(groups, first):
    text = (
        "ENTRY %main (p: f32[8]) -> f32[8] {\n"
        "  %p = f32[8]{0} parameter(0)\n"
        f"  ROOT %r = f32[8]{{0:T(8,128)}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add\n"
        "}\n"
    )
    (collective,) = read_program(text, 8).collectives
    assert collective.group == first
    assert collective.sent == 32 * (len(first) - 1) / len(first) * 2


def test_links_of_a_group():
    """A dimension of a v5p cube is a ring of two links; a part of it, or one of a v6e:8x8, is not."""
    cube = [((x, y, z), 0) for x in range(4) for y in range(4) for z in range(4)]
    assert V5P.rate(cube) == (6 * 100e9, True)
    assert V5P.rate([c for c in cube if c[0][2] == 0]) == (4 * 100e9, True)
    assert V5P.rate([((0, 0, 0), 0), ((1, 0, 0), 0)]) == (100e9, True)
    assert Topology.parse("v6e:8x8").rate([((i, 0), 0) for i in range(8)]) == (100e9, True)
    rate, _ = Topology.parse("v5e:16x16", 2).rate([((0, 0), 0), ((0, 0), 1)])
    assert rate == 25e9 / 8


def test_search_only_considers_meshes_that_divide():
    candidates = list(mesh_candidates(SEVEN, preset("7b"), V5P))
    meshes = {(c.config.mesh.data, c.config.mesh.context, c.config.mesh.tensor) for c in candidates}
    assert (1, 1, 1) in meshes
    assert (1, 4, 2) in meshes
    for c in candidates:
        resolve_training_mesh(c.config, preset("7b"), V5P)
        shards = c.config.mesh.data * c.config.mesh.fsdp
        assert c.config.optim.accumulate * shards == 256

    def estimated(**compute):
        config = dataclasses.replace(SEVEN, compute=ComputeConfig(**compute))
        config = dataclasses.replace(config, mesh=MeshConfig(1, 64, 1, 1))
        return estimate_candidate(config, preset("7b"), V5P)

    policies = ("offload", "full", "attention", "dots", "none")
    sizes = [estimated(remat=r).bytes for r in policies]
    assert sizes == sorted(sizes)
    assert estimated(remat="attention").seconds < estimated(remat="full").seconds


def test_memory_of_training_with_adapters():
    """7B on 64 chips: the base in bfloat16, and a master and two moments of each adapter parameter."""
    mesh = AbstractMesh((1, 64, 1, 1), AXES)
    compute = ComputeConfig(lora=LoraConfig(rank=16))
    config = dataclasses.replace(SEVEN, compute=compute)
    state = abstract_training_state(config, preset("7b"), mesh, "bfloat16")
    adapters = 28 * 16 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    base = sum(x.size for x in jax.tree.leaves(abstract_params(preset("7b"))))
    chip = (bytes_per_device(state["params"]), bytes_per_device(state["opt_state"]))
    # Every matrix of the base and of the adapters is sharded over all chips.
    assert chip[0] == pytest.approx((2 * base + 4 * adapters) / 64, rel=0.02)
    assert chip[1] == pytest.approx(8 * adapters / 64, rel=0.001)
    full = abstract_training_state(SEVEN, preset("7b"), mesh, "bfloat16")
    assert bytes_per_device(full["opt_state"]) > 150 * chip[1]
    low, all_ = (
        estimate_candidate(dataclasses.replace(c, mesh=MeshConfig(1, 64, 1, 1)), preset("7b"), V5P)
        for c in (config, SEVEN)
    )
    assert low.bytes < all_.bytes
    assert low.seconds < all_.seconds


def test_a_nominal_row_is_full():
    row = nominal_row(RowShape(tokens=32768, windows=96, window=1536, targets=2048), segments=4)
    assert set(np.unique(row["segment_ids"])) == {1, 2, 3, 4}
    assert row["patch_pairs"].sum() // 4 <= 0.95 * 32768
    one = nominal_row(RowShape(32768, 96, 1536, 2048), segments=1)
    assert forward_flops(preset("7b"), one)["text"] > forward_flops(preset("7b"), row)["text"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_small_slice_is_planned(tmp_path, capsys):
    """The real step of a small model for four v5e chips, as text and as JSON."""
    config = tmp_path / "config.py"
    config.write_text("from livecc_jax.train.config import Config\nconfig = Config(preset='tiny')\n")
    argv = ["plan", str(config), "--topology", "v5e:2x2", "--json", str(tmp_path / "plan.json")]
    argv += ["--pixel-budget", "32", "--data.tokens", "256", "--data.windows", "4"]
    argv += ["--data.targets", "64", "--data.rows_per_step", "4"]
    assert main(argv) == 0
    (plan,) = json.loads((tmp_path / "plan.json").read_text())
    output = capsys.readouterr().out
    assert "4 chips as fsdp 4" in output
    assert f"MFU: at most {plan['mfu']:.1%}" in output
    # Parameters of four bytes and their two moments, a quarter on every chip; the frozen tower in two.
    assert plan["memory"]["optimiser"] > 1.9 * plan["memory"]["parameters"]
    assert plan["unknown_loops"] == 0
    # If the step is meant to need 5% more memory, change the constant.
    assert plan["used"] < 1.05 * SMALL_SLICE_BYTES, "the step needs more memory a chip than it did"
    assert plan["flops"]["causal attention"] > 0
    assert plan["flops"]["full attention"] > 0
    assert plan["exchanged"]
    assert plan["model_flops"] < sum(plan["flops"].values())


@pytest.mark.parametrize(
    ("message", "needed_and_available"),
    [
        (
            "Ran out of memory in memory space hbm. Used 20.06G of 15.75G hbm.",
            ("20.1 GiB", "15.75 GiB"),
        ),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (177.04G) exceeds "
            "available HBM (15.75G).",
            ("177.0 GiB", "15.75 GiB"),
        ),
        ("something else went wrong", None),
    ],
)
def test_out_of_memory_messages_are_parsed(message, needed_and_available):
    """In both of the wordings that XLA has."""
    assert parse_out_of_memory(message) == needed_and_available
