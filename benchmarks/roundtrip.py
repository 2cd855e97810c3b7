"""Converts weights of a real size from HuggingFace to Orbax and back, on this machine's CPU.

    python benchmarks/roundtrip.py --preset 2b --dir /tmp/roundtrip

It prints the time of each step, also as a multiple of a plain copy of the same files, and its peak
resident memory next to the limit: 2 GiB above the arrays that it must hold. At the end it compares
every tensor.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from random_checkpoint import write_preset

IMPORT = """
import sys
from livecc_jax.checkpoints.open import open_checkpoint
open_checkpoint(sys.argv[1]).load_params()
"""
GIB = 1 << 30


def measure(*command):
    """Runs a Python command; returns (seconds, peak resident memory in bytes)."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="2b")
    parser.add_argument(
        "--dir", default="/tmp/roundtrip", help="folder with room for four times the weights"
    )
    args = parser.parse_args()
    folder = Path(args.dir)
    shutil.rmtree(folder, ignore_errors=True)
    source, run, exported = folder / "source", folder / "run", folder / "exported"
    write_preset(source, args.preset)

    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.checkpoints.weight_source import CheckpointWeights
    from livecc_jax.verify.tensors import compare_tensors

    leaves = jax.tree.leaves(open_checkpoint(source).abstract_params())
    sizes = [x.size * x.dtype.itemsize for x in leaves]
    total, largest = sum(sizes), max(sizes)
    start = time.perf_counter()
    shutil.copytree(source, folder / "copy")
    os.sync()
    copy_seconds = time.perf_counter() - start
    shutil.rmtree(folder / "copy")
    print(f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}")
    print(f"{args.preset}: {total / 1e9:.2f} GB of weights, largest parameter {largest / 1e9:.2f} GB")
    print(f"copy of the files, and sync: {copy_seconds:.1f} s")
    convert = ("-m", "livecc_jax.cli", "convert")
    for label, command, arrays in (
        ("import to host arrays", ("-c", IMPORT, source), total + largest),
        ("HuggingFace -> Orbax", (*convert, source, run, "--to", "orbax"), total + largest),
        ("Orbax -> HuggingFace", (*convert, run, exported, "--to", "hf"), largest),
    ):
        seconds, peak = measure(*command)
        os.sync()
        limit = arrays + 2 * GIB
        exceeded = " EXCEEDED" if peak > limit else ""
        print(
            f"{label:22} {seconds:6.1f} s, {seconds / copy_seconds:4.1f} copies; "
            f"peak {peak / 1e9:5.2f} GB, limit {limit / 1e9:5.2f} GB{exceeded}"
        )
    report = compare_tensors(*(CheckpointWeights(open_checkpoint(x)) for x in (source, exported)))
    print(f"{report.equal} of {report.total} tensors are equal bit for bit")
    shutil.rmtree(folder)
    return report.equal != report.total


if __name__ == "__main__":
    sys.exit(main())
