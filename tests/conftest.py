"""Every test runs on eight fake CPU devices, so that a mesh is a mesh.

`make test-gpu` sets JAX_PLATFORMS=cuda and runs the tests of kernels on a real GPU, compiled.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

# XLA has NPROC threads for eight devices, by default eight. Devices that wait for the run before theirs
# hold threads which that run still needs: on a busy machine this is a deadlock.
os.environ.setdefault("NPROC", "32")
# Tests compile much and compute little, so the compiler optimises as little as it can: the suite takes
# half the processor time. Eight devices on a busy core may wait for each other longer than the 40
# seconds after which XLA ends the process.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_backend_optimization_level=0"
        + " --xla_llvm_disable_expensive_passes=true"
        + " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    )

# Also programs that compile in less than a second, the default: many tests compile the same ones.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import pytest

if os.environ["JAX_PLATFORMS"] == "cpu":
    jax.config.update("jax_num_cpu_devices", 8)

# Several tests start whole runs, which compile the same programs again. The processes of pytest-xdist
# inherit the folder from the first one.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="livecc-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    """Directory of a SentencePiece tokenizer of 600 pieces, trained on this project's code."""
    from livecc_jax.text.sentencepiece import train_sentencepiece

    root = Path(__file__).parents[1]
    out = tmp_path_factory.mktemp("tokenizer")
    train_sentencepiece(sorted((root / "livecc_jax/timeline").glob("*.py")), out, 600)
    return out
