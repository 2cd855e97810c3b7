"""What each host of a TPU slice reads of a checkpoint, from its headers alone.

    python benchmarks/checkpoint_reads.py --preset 72b --topology v5p:4x4x4
    python benchmarks/checkpoint_reads.py --model DIRECTORY --topology v5e:16x16 --tensor 8

Needs libtpu (`pip install 'jax[tpu]'`), but no TPU. For a preset, files are written as by an
export but without data, so they take no space on the disk.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

import jax
from jax.experimental import topologies

from livecc_jax.checkpoints.hf_config import (
    CONFIG,
    LiveCCBlock,
    read_config,
    to_config_json,
)
from livecc_jax.checkpoints.hf_load_devices import bytes_read_per_process
from livecc_jax.checkpoints.json_fields import write_json
from livecc_jax.checkpoints.safetensors import INDEX, MAX_SHARD_BYTES
from livecc_jax.checkpoints.weight_names import tensor_shapes
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import abstract_params, logical_axes
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.parallel.rules import sharding_tree


def write_sparse_checkpoint(directory, config):
    """Writes a sharded bfloat16 checkpoint of sparse files, in which the tensors are holes."""
    shards, size = [{}], 0
    for name, shape in tensor_shapes(config).items():
        count = 2
        for n in shape:
            count *= n
        if shards[-1] and size + count > MAX_SHARD_BYTES:
            shards.append({})
            size = 0
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [size, size + count]}
        shards[-1][name] = entry
        size += count
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = directory / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header = json.dumps(shard).encode()
        header += b" " * (-len(header) % 8)
        with file.open("wb") as f:
            f.write(len(header).to_bytes(8, "little") + header)
            f.truncate(8 + len(header) + max(e["data_offsets"][1] for e in shard.values()))
        weight_map |= dict.fromkeys(shard, file.name)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_json(directory / CONFIG, to_config_json(config, LiveCCBlock(), "bfloat16"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="72b")
    parser.add_argument("--model", help="a HuggingFace directory, in place of a preset")
    parser.add_argument("--topology", default="v5p:4x4x4")
    parser.add_argument("--tensor", type=int, default=1)
    args = parser.parse_args()
    topology = topologies.get_topology_desc(platform="tpu", topology_name=args.topology)
    mesh = make_mesh(MeshConfig(tensor=args.tensor), topology.devices)
    with tempfile.TemporaryDirectory() as home:
        directory = Path(args.model or home)
        if not args.model:
            write_sparse_checkpoint(directory, preset(args.preset))
        config, _ = read_config(directory)
        start = time.perf_counter()
        shardings = sharding_tree(mesh, logical_axes(config), abstract_params(config))
        reads = bytes_read_per_process(directory, config, shardings)
        seconds = time.perf_counter() - start
        total = sum(f.stat().st_size for f in directory.glob("*.safetensors"))
    host_bytes = {p: sum(stop - first for _, first, stop in r) for p, r in reads.items()}
    chips = len(topology.devices)
    axes = ", ".join(f"{k} {v}" for k, v in mesh.shape.items())
    name = args.model or args.preset
    print(f"{name} on {args.topology}: {chips} chips, {len(host_bytes)} hosts, {axes}")
    print(f"checkpoint {total / 1e9:.2f} GB; ranges found in {seconds:.1f} s, jax {jax.__version__}")
    for host, size in host_bytes.items():
        print(f"host {host:3}: {size / 1e9:7.3f} GB in {len(reads[host]):5} ranges")
    total_read = sum(host_bytes.values())
    print(f"all hosts: {total_read / 1e9:.2f} GB, {total_read / total:.4f} of the checkpoint")


if __name__ == "__main__":
    main()
