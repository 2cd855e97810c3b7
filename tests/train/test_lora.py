"""LoRA adapters: the base is frozen, only adapters are trained, merging them keeps the outputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import SingleDeviceSharding

from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.errors import ConfigError
from livecc_jax.model.flops import step_flops
from livecc_jax.model.lora import LORA, TARGETS, LoraConfig, init_adapters, merge_adapter
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.model.qwen2_vl import abstract_params, bind
from livecc_jax.parallel.batch import shard_batch
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.text.open import open_tokenizer
from livecc_jax.train.config import ComputeConfig, OptimConfig
from livecc_jax.train.loop import train
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import (
    abstract_state,
    check_trainable,
    init_opt_state,
    param_shardings,
)
from livecc_jax.train.step import jit_step, make_step
from tests.support.random_models import initial_params
from tests.support.rows import VOCAB, pack, random_segment, stack
from tests.support.training import run_config, train_losses

TINY = preset("tiny")
MODEL = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=VOCAB))
RANK_4 = LoraConfig(rank=4, alpha=6.0)
COMPUTE = ComputeConfig(dtype="float32", remat="none", head_chunk=40, lora=RANK_4)
SHAPE = {"tokens": 128, "windows": 6, "patches": 48, "targets": 40}


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def params():
    """A base, and adapters that differ from their initial values."""

    base = jax.tree.map(lambda x: jnp.asarray(x * 3 if x.ndim > 1 else x), initial_params(MODEL))
    adapters = jax.tree.map(
        lambda x: x + 0.05 * np.cos(np.arange(x.size)).reshape(x.shape).astype(x.dtype),
        init_adapters(MODEL, RANK_4, 1),
    )
    return base | {LORA: adapters}


@pytest.fixture(scope="module")
def rows():
    return stack(
        *[pack([random_segment(np.random.default_rng(i), text=3 + i)], **SHAPE) for i in range(2)]
    )


def merge_adapters(params, scale):
    """The base with every adapter added, kernel by kernel."""
    base, adapters = flat({k: v for k, v in params.items() if k != LORA}), flat(params[LORA])
    for path in [k.removesuffix("/a") for k in adapters if k.endswith("/a")]:
        kernel = base[f"{path}/kernel"]
        parts = zip(kernel, adapters[f"{path}/a"], adapters[f"{path}/b"])
        base[f"{path}/kernel"] = jnp.stack([merge_adapter(*part, scale) for part in parts])
    return traverse_util.unflatten_dict(base, sep="/")


def test_merged_weights_give_the_same_logits(params, rows):
    logits = jax.jit(lambda p: bind(MODEL, p, RANK_4.scale)(rows))
    plain = {k: v for k, v in params.items() if k != LORA}
    with_adapters = logits(params)
    assert np.abs(with_adapters - logits(plain)).max() > 0.1
    np.testing.assert_allclose(with_adapters, logits(merge_adapters(params, 1.5)), rtol=1e-4, atol=1e-4)
    fresh = init_adapters(MODEL, RANK_4, 0)
    np.testing.assert_array_equal(logits(plain | {LORA: fresh}), logits(plain))
    assert {k.split("/")[-2] for k in flat(fresh)} == set(TARGETS)


def steps(params, rows, mesh):
    """Two steps: (metrics, state)."""
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-2, warmup_ratio=0.0), 10)
    # A copy, because the step donates it.
    shardings = param_shardings(MODEL, mesh, RANK_4)
    sharded = jax.device_put(jax.tree.map(np.array, params), shardings)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), sharded
    )
    abstract = abstract_state(shapes, optimizer, COMPUTE.frozen, mesh)
    opt_state = init_opt_state(optimizer, abstract, COMPUTE.frozen)(sharded)
    state = {"params": sharded, "opt_state": opt_state}
    with jax.set_mesh(mesh):
        batch = shard_batch(mesh, rows, 1)
        step = jit_step(make_step(MODEL, COMPUTE, optimizer), state).lower(state, batch).compile()
        for _ in range(2):
            state, metrics = step(state, batch)
    return jax.device_get(metrics), state


def test_only_adapters_are_trained_and_sharded_over_the_mesh(params, rows):
    """A bfloat16 base stays the same bit for bit and has no moments; a mesh changes only rounding."""
    base = jax.tree.map(lambda x: x.astype("bfloat16"), {k: params[k] for k in ("vision", "text")})
    before = base | {LORA: params[LORA]}
    one, after = steps(before, rows, make_mesh(MeshConfig(devices=1)))
    many, sharded = steps(before, rows, make_mesh(MeshConfig(fsdp=2, context=2, tensor=2)))
    for state in (after, sharded):
        for path, leaf in flat(base).items():
            assert np.asarray(leaf).tobytes() == np.asarray(flat(state["params"])[path]).tobytes(), path
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before[LORA], after["params"][LORA])
    assert all(jax.tree.leaves(changed))
    moments = jax.tree_util.tree_leaves_with_path(after["opt_state"])
    owners = {path[-1].key for path, leaf in moments if leaf.ndim}
    assert owners == {f"{LORA}/{path}" for path in flat(params[LORA])}
    np.testing.assert_allclose(one["loss"], many["loss"], rtol=1e-4)
    np.testing.assert_allclose(one["grad_norm"], many["grad_norm"], rtol=1e-3)
    for path, leaf in flat(sharded["params"][LORA]).items():
        on_devices = sum(shard.data.size for shard in leaf.addressable_shards)
        assert on_devices <= 4 * leaf.size, path  # eight devices; replicated over context and data


def test_flops_do_not_include_gradients_of_frozen_weights(rows):
    adapters = sum(x.size for x in jax.tree.leaves(init_adapters(MODEL, RANK_4, 0)))
    full, low = step_flops(MODEL, rows, False), step_flops(MODEL, rows, False, adapters)
    tokens, targets = int((rows["segment_ids"] > 0).sum()), int((rows["target_weights"] > 0).sum())
    shapes = flat(abstract_params(MODEL)["text"]["layers"])
    weights = sum(x.size for k, x in shapes.items() if k.endswith("kernel"))
    saved = 2 * tokens * weights + 2 * targets * MODEL.text.width * VOCAB
    assert full - low == saved - 6 * tokens * adapters


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(rank=-1), r"compute\.lora\.rank must not be negative, not -1"),
        (LoraConfig(rank=4, alpha=0), r"compute\.lora\.alpha must be positive"),
        (LoraConfig(rank=4, targets=("q", "qkv")), r"compute\.lora\.targets names 'qkv'"),
        (LoraConfig(rank=4, targets=()), r"compute\.lora\.targets names no linear map"),
    ],
)
def test_invalid_adapters_are_named_by_field(lora, message):
    with pytest.raises(ConfigError, match=message):
        check_trainable(MODEL, ComputeConfig(lora=lora))


def test_a_run_resumes_and_opens_merged(home, tmp_path):
    """From a bfloat16 base: a resumed run is equal bit for bit; it opens and exports merged."""
    tokenizer = open_tokenizer(home / "tok")
    model = fit_vocabulary(preset("tiny"), tokenizer)
    base = initial_params(model, dtype="bfloat16")
    export_hf(tmp_path / "base", model, LiveCCBlock(pixel_budget="12"), base, tokenizer)
    compute = ComputeConfig(
        dtype="float32", remat="none", lora=LoraConfig(rank=4, targets=("q", "down"))
    )
    settings = {"preset": "", "tokenizer": "", "init": str(tmp_path / "base"), "max_steps": 4}
    settings |= {"compute": compute}
    through = train_losses(run_config(home, tmp_path / "through", **settings))
    first = train_losses(run_config(home, tmp_path / "run", **settings), stop_at=3)
    assert {**first, **train_losses(run_config(home, tmp_path / "run", **settings))} == through
    assert through[4][0] < through[1][0]
    stored = {name: RunDirectory(tmp_path / name).restore_params(4) for name in ("through", "run")}
    jax.tree.map(np.testing.assert_array_equal, stored["through"], stored["run"])
    for path, leaf in flat(base).items():
        assert leaf.tobytes() == flat(stored["run"])[path].tobytes(), path

    expected = merge_adapters(stored["run"], 4.0)
    opened = open_checkpoint(tmp_path / "run")
    for loaded in (
        opened.load_params("float32"),
        opened.load_params(
            "float32", jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), base)
        ),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), loaded, expected
        )
    convert(tmp_path / "run", tmp_path / "hf")
    convert(tmp_path / "run", tmp_path / "orbax", to="orbax")
    rounded = flat(opened.load_params())
    for path in ("hf", "orbax"):
        exported = flat(open_checkpoint(tmp_path / path).load_params())
        for name, leaf in rounded.items():
            assert leaf.dtype == exported[name].dtype == "bfloat16"
            assert leaf.tobytes() == exported[name].tobytes(), name
    adapted = {k for k, v in rounded.items() if v.tobytes() != flat(base)[k].tobytes()}
    assert adapted == {f"text/layers/{k}/kernel" for k in ("attn/q", "mlp/down")}
    other = dataclasses.replace(compute, lora=LoraConfig(rank=8, targets=("q", "down")))
    with pytest.raises(ConfigError, match=r"another compute\.lora\.rank \(4 before, 8 now\)"):
        train(run_config(home, tmp_path / "run", **settings | {"compute": other}))
