"""The public names of the package: importing is light, every name is there and is documented."""

import inspect
import subprocess
import sys

import pytest

import livecc_jax

HEAVY = ("jax", "numpy", "flax", "optax", "orbax", "grain", "cv2", "av", "PIL", "tensorflow_datasets")


def modules_after(code):
    """The modules that a new Python has imported after running `code`."""
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import livecc_jax; dir(livecc_jax)",
        "from livecc_jax import LiveCCError, example_clip; example_clip()",
        "from livecc_jax.commands.parser import build_parser; build_parser().format_help()",
        "import livecc_jax.cli",
    ],
)
def test_imports_are_light(code):
    assert not modules_after(code) & {*HEAVY}


def test_every_public_name_is_there_and_documented():
    assert {*livecc_jax.__all__} <= {*dir(livecc_jax)}
    for name in livecc_jax.__all__:
        value = getattr(livecc_jax, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
        if inspect.isfunction(value):
            assert "Example:" in value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'comments'"):
        livecc_jax.comments  # noqa: B018
