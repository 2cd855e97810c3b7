"""Tests that weights that are no numbers, or more than a dtype holds, are refused by name.

What a dtype holds is computed here from its exponent and mantissa, and what is stored is read back by
the safetensors library.
"""

import struct

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.finite import largest_magnitude
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.cli import main
from livecc_jax.errors import CheckpointError
from tests.support.checkpoints import random_params, tiny_config

CONFIG = tiny_config()
PATH, TENSOR = "text/layers/mlp/down/kernel", "model.layers.1.mlp.down_proj.weight"
# The first numbers that round to infinity: half a step above the largest one.
FLOAT16_ENDS = (2 - 2.0**-10 + 2.0**-11) * 2.0**15
BFLOAT16_ENDS = (2 - 2.0**-7 + 2.0**-8) * 2.0**127


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Returns a function that writes a checkpoint with one value changed, in either layout."""
    home = tmp_path_factory.mktemp("values")
    export_hf(home / "hf", CONFIG, LiveCCBlock(), random_params(CONFIG))

    def write(layout, value, path):
        if layout == "hf":
            path.mkdir()
            (path / "config.json").write_bytes((home / "hf/config.json").read_bytes())
            tensors = load_file(home / "hf/model.safetensors")
            tensors[TENSOR][2, 3] = value
            save_file(tensors, path / "model.safetensors")
        else:
            flat = traverse_util.flatten_dict(random_params(CONFIG), sep="/")
            flat[PATH][1, 3, 2] = value
            with RunDirectory(path, asynchronous=False) as run:
                run.create(CONFIG, LiveCCBlock(), None, {})
                run.save(0, traverse_util.unflatten_dict(flat, sep="/"))
        return path

    return write


@pytest.mark.parametrize(
    ("layout", "value", "dtype", "says"),
    [
        ("hf", 1e5, "float16", "is 100000, more than float16 holds (65504); bfloat16 holds it"),
        ("orbax", -FLOAT16_ENDS, "float16", "is 65520, more than float16 holds (65504); bfloat16"),
        ("hf", np.nextafter(np.float32(FLOAT16_ENDS), np.float32(0)), "float16", None),
        ("orbax", np.nextafter(np.float32(FLOAT16_ENDS), np.float32(0)), "float16", None),
        ("hf", 1e5, "bfloat16", None),
        ("hf", BFLOAT16_ENDS, "bfloat16", "more than bfloat16 holds (3.38953e+38); float32 holds it"),
        ("hf", BFLOAT16_ENDS, "float16", "more than float16 holds (65504); float32 holds it"),
        ("hf", np.nan, None, "holds NaN"),
        ("orbax", np.nan, None, "holds NaN"),
        ("hf", -np.inf, "float16", "holds infinity"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_a_dtype_does_not_hold(tmp_path, sources, layout, value, dtype, says):
    source = sources(layout, value, tmp_path / "source")
    shardings = None
    if layout == "orbax":  # test_convert.py has the other layout on devices
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: device, random_params(CONFIG))
    loaded_dtype = None if dtype is None else np.dtype(jax.numpy.dtype(dtype))
    attempts = [
        lambda: convert(source, tmp_path / "hf", "hf", dtype),
        lambda: convert(source, tmp_path / "orbax", "orbax", dtype),
        lambda: open_checkpoint(source).load_params(loaded_dtype, shardings),
    ]
    for attempt in attempts:
        if says is None:
            attempt()
            continue
        with pytest.raises(CheckpointError) as caught:
            attempt()
        for part in (str(source), TENSOR, says):
            assert part in str(caught.value)
    assert (tmp_path / "hf").exists() == (tmp_path / "orbax").exists() == (says is None)
    if says is None:
        stored = load_file(tmp_path / "hf/model.safetensors")[TENSOR][2, 3]
        assert stored == np.float32(value).astype(loaded_dtype)


def test_layers_are_named_together_and_commands_refuse(tmp_path, sources, capfd):
    source = sources("hf", 0.0, tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    for layer in (0, 1):
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"][0] = np.nan
    tensors["visual.merger.ln_q.bias"][0] = np.inf
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source).load_params()
    assert "model.layers.{0-1}.mlp.up_proj.weight holds NaN" in str(caught.value)
    assert "visual.merger.ln_q.bias holds infinity" in str(caught.value)
    assert main(["convert", str(source), str(tmp_path / "copy"), "--to", "hf"]) == 2
    error = capfd.readouterr().err
    assert "holds NaN" in error or "holds infinity" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_the_largest_magnitude_of_any_bits(dtype):
    """Against numpy's own maximum, on random bits and on the ends of the dtype."""
    bits = np.random.default_rng(0).integers(0, 256, 4096 * np.dtype(dtype).itemsize, np.uint8)
    values = bits.view(dtype)
    with np.errstate(invalid="ignore"):  # NaNs of every kind
        finite = values[np.isfinite(values.astype(np.float64))]
    expected = np.abs(finite.astype(np.float64)).max()
    assert largest_magnitude(finite.reshape(1, -1)) == expected
    for worse in (np.inf, -np.inf, np.nan):
        found = largest_magnitude(np.append(finite, np.array(worse, dtype)))
        assert struct.pack("d", abs(found)) == struct.pack("d", abs(worse))
    assert largest_magnitude(np.zeros((0, 3), dtype)) == 0
