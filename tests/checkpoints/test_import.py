"""Tests loading weights: any architecture, any mesh, each byte read once, and errors."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from livecc_jax.checkpoints import files
from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock, read_config
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.hf_load import load_hf
from livecc_jax.checkpoints.hf_load_devices import bytes_read_per_process
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.safetensors import INDEX, read_directory
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.qwen2_vl import logical_axes
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.parallel.rules import sharding_tree
from tests.support.checkpoints import architectures, assert_bits_equal, random_params, tiny_config

ROOT = Path(__file__).parents[2]
BFLOAT16 = np.dtype(jax.numpy.bfloat16)
DTYPES = [np.dtype(np.float32), BFLOAT16, np.dtype(np.float16)]


@settings(max_examples=7, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=architectures(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["flat", "nested"]),
    shard=st.sampled_from([3_000, 50_000, 10**9]),
)
def test_every_architecture_survives_a_round_trip(tmp_path, config, dtype, layout, shard):
    directory = tmp_path / "any"
    params = random_params(config, dtype)
    export_hf(
        directory, config, LiveCCBlock(), params, layout=layout, max_shard_bytes=shard, overwrite=True
    )
    assert read_config(directory)[0] == config
    assert_bits_equal(load_hf(directory, config), params)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[1])
    placed = load_hf(directory, config, np.float32, jax.tree.map(lambda _: device, params))
    assert all(x.devices() == {jax.devices()[1]} for x in jax.tree.leaves(placed))
    assert_bits_equal(placed, jax.tree.map(lambda x: x.astype(np.float32), params))


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """The 72B model with its 80 layers, groups and sharded index, at a hundredth of its width."""
    config = ModelConfig(
        TextConfig(
            vocab_size=304, width=64, layers=80, heads=8, kv_heads=1, mlp=232, mrope_section=(1, 1, 2)
        ),
        VisionConfig(depth=32, width=32, heads=2, mlp=128),
    )
    params = random_params(config, BFLOAT16)
    directory = tmp_path_factory.mktemp("tall") / "model"
    export_hf(directory, config, LiveCCBlock(), params, max_shard_bytes=300_000)
    return directory, config, params


def shardings_of(config, params, **axes):
    mesh = make_mesh(MeshConfig(**axes))
    return sharding_tree(mesh, logical_axes(config), params)


def test_eighty_layers_onto_a_mesh(tall):
    directory, config, params = tall
    shards = json.loads((directory / INDEX).read_bytes())["weight_map"]
    assert len(set(shards.values())) > 20
    shardings = shardings_of(config, params, fsdp=4, context=2)
    loaded = load_hf(directory, config, None, shardings)
    assert_bits_equal(loaded, params)
    jax.tree.map(lambda x, s: pytest.fail(str(s)) if x.sharding != s else None, loaded, shardings)
    gate = loaded["text"]["layers"]["mlp"]["gate"]["kernel"]
    assert gate.addressable_shards[0].data.shape == (80, 64 // 4, 232)


READER = """
import sys
import jax
from livecc_jax.parallel import processes
processes.initialize_processes()
import numpy as np

from tests.support.checkpoints import random_params
from livecc_jax.checkpoints.hf_config import read_config
from livecc_jax.checkpoints import safetensors
from livecc_jax.checkpoints.hf_load import load_hf
from livecc_jax.model.qwen2_vl import logical_axes
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.parallel.rules import sharding_tree

read, read_rows = [], safetensors.TensorInfo.read_rows
def counted_read_rows(tensor, first, stop):
    read.append(tensor.row_bytes(first, stop))
    return read_rows(tensor, first, stop)
safetensors.TensorInfo.read_rows = counted_read_rows
config, _ = read_config(sys.argv[1])
params = random_params(config, np.dtype(jax.numpy.bfloat16))
mesh = make_mesh(MeshConfig(fsdp=4))
shardings = sharding_tree(mesh, logical_axes(config), params)
loaded = load_hf(sys.argv[1], config, None, shardings)
for got, want in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
    for shard in got.addressable_shards:
        assert np.asarray(shard.data).tobytes() == want[shard.index].tobytes()
print(sum(b - a for a, b in read), flush=True)
"""


def test_two_processes_read_half_each(tmp_path):
    # Few layers, because each is a program of its own that two processes run together slowly.
    config = ModelConfig(
        TextConfig(
            vocab_size=304, width=64, layers=4, heads=8, kv_heads=1, mlp=232, mrope_section=(1, 1, 2)
        ),
        VisionConfig(depth=2, width=32, heads=2, mlp=128),
    )
    params, directory = random_params(config, BFLOAT16), tmp_path / "model"
    export_hf(directory, config, LiveCCBlock(), params, max_shard_bytes=100_000)
    with socket.socket() as s:
        s.bind(("localhost", 0))
        address = f"localhost:{s.getsockname()[1]}"
    readers = []
    for number in range(2):
        env = os.environ | {
            "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "TPU_SKIP_MDS_QUERY": "1",
            "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number),
        }  # fmt: skip
        command = [sys.executable, "-c", READER, str(directory)]
        readers.append(subprocess.Popen(command, env=env, cwd=ROOT, text=True, stdout=subprocess.PIPE))
    counts = [int(reader.communicate(timeout=240)[0].split()[-1]) for reader in readers]
    total = sum(x.nbytes for x in jax.tree.leaves(params))
    assert sum(counts) < 1.01 * total
    assert max(counts) < 0.51 * total


class OtherHost:
    """A device of another host."""

    platform = device_kind = "tpu"

    def __init__(self, number):
        self.id, self.process_index = number, number // 4


def test_each_host_reads_its_share_once(tall):
    """With 16 hosts of 4 chips, every byte of a tensor is read by exactly one host."""
    directory, config, params = tall
    devices = np.array([OtherHost(i) for i in range(64)]).reshape(1, 64, 1, 1)
    mesh = jax.sharding.Mesh(devices, ("data", "fsdp", "context", "tensor"))
    specs = jax.tree.map(lambda s: s.spec, shardings_of(config, params))
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    ranges_by_host = bytes_read_per_process(directory, config, shardings)
    assert sorted(ranges_by_host) == list(range(16))
    read_counts = {file: np.zeros(file.stat().st_size, int) for file in directory.glob("*.safetensors")}
    for ranges in ranges_by_host.values():
        for file, first, stop in ranges:
            read_counts[file][first:stop] += 1
    # The few tensors whose rows are not divisible by 64 are read by several hosts.
    shared = 0
    for name, tensor in read_directory(directory):
        counts = read_counts[tensor.file][tensor.start : tensor.stop]
        assert counts.min() == counts.max(), name
        assert counts[0] == 1 or tensor.shape[0] % 64, name
        shared += counts[0] > 1
    assert shared
    sizes = Counter({p: sum(b - a for _, a, b in ranges) for p, ranges in ranges_by_host.items()})
    assert max(sizes.values()) < 1.05 * min(sizes.values())


def test_links_out_of_the_directory_are_not_followed(tall, tmp_path):
    directory, config, params = tall
    away, file = tmp_path / "elsewhere", "model-00003-of-"
    shutil.copytree(directory, tmp_path / "model")
    away.mkdir()
    shard = next((tmp_path / "model").glob(f"{file}*"))
    shard.rename(away / shard.name)
    shard.symlink_to(away / shard.name)
    with pytest.raises(CheckpointError, match=f"{file}.*link that leaves its directory"):
        load_hf(tmp_path / "model", config)

    index = tmp_path / "model" / INDEX
    index.write_text(index.read_text().replace(shard.name, f"../elsewhere/{shard.name}"))
    with pytest.raises(CheckpointError, match="must map tensors to files beside it"):
        load_hf(tmp_path / "model", config)

    # The layout of HuggingFace's own cache.
    snapshot, blobs = tmp_path / "models--a/snapshots/abc", tmp_path / "models--a/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, source in enumerate(directory.iterdir()):
        shutil.copyfile(source, blobs / str(number))
        (snapshot / source.name).symlink_to(os.path.relpath(blobs / str(number), snapshot))
    assert_bits_equal(open_checkpoint(snapshot).load_params(), params)


def test_a_full_disk_is_reported_before_any_write(tall, tmp_path, monkeypatch):
    directory, _, params = tall
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    for to in ("hf", "orbax"):
        with pytest.raises(CheckpointError, match=r"copy: needs \d+\.\d MB, but its disk has"):
            convert(directory, tmp_path / "copy", to)
        assert not list(tmp_path.iterdir())


def test_settings_and_history_are_copied(tmp_path, tokenizer):
    config = tiny_config()
    home = tmp_path / "a"
    export_hf(home, config, LiveCCBlock(), random_params(config), tokenizer)
    chosen = {"temperature": 0.25, "eos_token_id": [7]}
    (home / "generation_config.json").write_text(json.dumps(chosen))
    (home / "chat_template.json").write_text('{"chat_template": "x"}')
    convert(home, tmp_path / "b", "orbax")
    convert(tmp_path / "b", tmp_path / "c", "hf")
    assert json.loads((tmp_path / "c/generation_config.json").read_bytes()) == chosen
    assert (tmp_path / "c/chat_template.json").is_file()
    assert "those of `b`, converted" in (tmp_path / "c/README.md").read_text()


def test_a_file_that_shrinks_while_it_is_read(tall):
    directory, _, _ = tall
    tensor = dict(read_directory(directory))["model.norm.weight"]
    longer = dataclasses.replace(tensor, start=tensor.start + 10**9, stop=tensor.stop + 10**9)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        longer.read_rows(0, tensor.shape[0])
