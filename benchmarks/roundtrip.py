"""Weights there and back at a real size: HuggingFace -> Orbax -> HuggingFace, on this machine's CPU.

    python benchmarks/roundtrip.py --preset 2b --dir /tmp/roundtrip

Prints each step's time, as a multiple of a plain copy of the same files, and its peak of resident
memory beside the ceiling: 2 GiB above the arrays it must hold. Ends by comparing every tensor.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from random_checkpoint import write_real

IMPORT = """
import sys
from livecc_jax.checkpoints.open import open_checkpoint
open_checkpoint(sys.argv[1]).load_params()
"""
GIB = 1 << 30


def timed(*command):
    """(seconds, peak bytes of resident memory) of a command."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="2b")
    parser.add_argument("--dir", default="/tmp/roundtrip", help="needs four times the weights' size")
    args = parser.parse_args()
    home = Path(args.dir)
    shutil.rmtree(home, ignore_errors=True)
    a, run, b = home / "a", home / "run", home / "b"
    write_real(a, args.preset)

    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.checkpoints.weight_source import CheckpointWeights
    from livecc_jax.verify.tensors import compare_tensors

    leaves = jax.tree.leaves(open_checkpoint(a).abstract_params())
    sizes = [x.size * x.dtype.itemsize for x in leaves]
    total, largest = sum(sizes), max(sizes)
    began = time.perf_counter()
    shutil.copytree(a, home / "copy")
    os.sync()
    copy = time.perf_counter() - began
    shutil.rmtree(home / "copy")
    print(f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}")
    print(f"{args.preset}: {total / 1e9:.2f} GB of weights, largest parameter {largest / 1e9:.2f} GB")
    print(f"copy of the files, and sync: {copy:.1f} s")
    convert = ("-m", "livecc_jax.cli", "convert")
    for label, command, held in (
        ("import to host arrays", ("-c", IMPORT, a), total + largest),
        ("HuggingFace -> Orbax", (*convert, a, run, "--to", "orbax"), total + largest),
        ("Orbax -> HuggingFace", (*convert, run, b, "--to", "hf"), largest),
    ):
        seconds, peak = timed(*command)
        os.sync()
        ceiling = held + 2 * GIB
        print(
            f"{label:22} {seconds:6.1f} s, {seconds / copy:4.1f} copies; peak {peak / 1e9:5.2f} GB, "
            f"ceiling {ceiling / 1e9:5.2f} GB{'' if peak <= ceiling else ' EXCEEDED'}"
        )
    report = compare_tensors(*(CheckpointWeights(open_checkpoint(x)) for x in (a, b)))
    print(f"{report.equal} of {report.total} tensors are equal bit for bit")
    shutil.rmtree(home)
    return report.equal != report.total


if __name__ == "__main__":
    sys.exit(main())
