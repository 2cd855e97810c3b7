"""The wheel: it brings every file that is not code, is small, and its demo runs in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_BYTES = 10 * 2**20


def tracked(*folders):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def expected_files():
    """Paths within the wheel of all files of the package, and of what it ships."""
    shipped = [f"livecc_jax/shipped/{name}" for name in tracked("data")]
    configs = [f"livecc_jax/shipped/{name}" for name in tracked("configs")]
    return {*tracked("livecc_jax"), *shipped, *configs}


PLAN = """
import json, setuptools
from distutils.core import run_setup
command = run_setup("setup.py", stop_after="init").get_command_obj("build_py")
command.ensure_finalized()
modules = [path for _, _, path in command.find_all_modules()]
data = [f"{folder}/{name}" for _, folder, _, names in command.data_files for name in names]
print(json.dumps(modules + data))
"""


def test_the_wheel_lists_every_file():
    """By setuptools' own plan, in a process of its own; nothing is built."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAN], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    listed = {os.path.normpath(path) for path in json.loads(ran.stdout.splitlines()[-1])}
    expected = {path for path in expected_files() if not Path(path).is_dir()}
    assert expected - listed == set()
    assert sum((ROOT / path).stat().st_size for path in listed) < MAX_BYTES


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_of_a_wheel(tmp_path):
    """Built from a copy, installed beside the libraries of this environment, run in an empty folder."""
    copy, wheels, site, empty = (tmp_path / name for name in ("copy", "wheels", "site", "empty"))
    for name in tracked("."):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    for name in ("data", "configs"):
        link = copy / "livecc_jax/shipped" / name
        if not link.is_symlink():
            link.symlink_to(Path("../..") / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", wheels, copy], check=True)
    (wheel,) = wheels.glob("*.whl")
    assert wheel.stat().st_size < MAX_BYTES
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {path for path in expected_files() if not Path(ROOT / path).is_dir()} <= names
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    empty.mkdir()
    env = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    env.pop("XLA_FLAGS", None)
    ran = subprocess.run(
        [sys.executable, "-m", "livecc_jax.cli", "demo"],
        cwd=empty,
        env=env,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert str(site) in ran.stdout  # the wheel's own clip
    assert "46 of 46" in ran.stdout
    assert (empty / "demo_out/hf/model.safetensors").is_file()
