"""The network of the newer families computes what transformers computes, from the same weights.

The goldens come from transformers 4.57 (tests/goldens/make_families.py).
"""

import functools
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import LiveCCBlock, parse_config
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.model.qwen2_vl import bind
from tests.goldens import tiny_families as families
from tests.goldens import tiny_weights as tiny
from tests.support.rows import Segment, pack, stack

GOLDENS = Path(__file__).parent.parent / "goldens"
TOLERANCE = 1e-4  # float32, logits of a few units
FAMILIES = ("qwen2_5_vl", "qwen3_vl")


def config_of(family, tied):
    return parse_config(families.config_json(family, tied), GOLDENS)[0]


def weights_of(config):
    """Parameters that the weight name table builds from weights that their names determine."""
    flat = {}
    for entry in weight_name_table(config):
        layers = [entry.from_hf(tiny.weight(name, entry.hf_shape)) for name in entry.names]
        flat[entry.path] = np.stack(layers) if entry.stacked else layers[0]
    return traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def goldens(family):
    with np.load(GOLDENS / f"{family}.npz") as data:
        return dict(data)


def packed_row(family, case, positions):
    """The conversation of a case as a packed row whose windows hold 64 patches."""
    tokens, pictures = families.conversation(family, case)
    patches, videos, start = families.patches(family, case), [], 0
    for _, (t, h, w) in pictures:
        videos.append((patches[start : start + t * h * w].reshape(t, h * w, -1), h, w))
        start += t * h * w
    vision = np.where(tokens == tiny.IMAGE, tiny.VIDEO, tokens)
    # A case of text alone has a picture all the same, so that rows have patches of one size.
    segment = Segment(vision, np.zeros(len(tokens), bool), positions, videos)
    row = pack([segment], tokens=192, windows=4, patches=64, targets=4)
    if not videos:
        row["patches"] = np.zeros((1, 4, 64, families.VALUES[family]), np.uint8)
    row["tokens"][0, : len(tokens)] = tokens
    return row


@functools.cache
def compiled_model(config):
    return jax.jit(lambda params, rows: bind(config, params)(rows))


def logits_of(family, config, params):
    """{case: float32 [T, V]}, computed for all cases in one batch."""
    golden = goldens(family)
    rows = stack(*[packed_row(family, case, golden[f"{case}/positions"]) for case in tiny.CASES])
    out = np.asarray(compiled_model(config)(params, rows))
    return {case: out[i, : golden[f"{case}/positions"].shape[1]] for i, case in enumerate(tiny.CASES)}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(tmp_path, family, tied):
    config, golden = config_of(family, tied), goldens(family)
    params = weights_of(config)
    ours = logits_of(family, config, params)
    for case in tiny.CASES:
        assert zlib.crc32(families.patches(family, case).tobytes()) == golden[f"{case}/patches"]
        expected = golden[f"{'tied' if tied else 'untied'}/{case}/logits"]
        assert expected.std() > 0.5
        np.testing.assert_allclose(ours[case], expected, rtol=0, atol=TOLERANCE, err_msg=case)

    export_hf(tmp_path / "m", config, LiveCCBlock(), params, max_shard_bytes=200_000)
    reopened = open_checkpoint(tmp_path / "m")
    assert reopened.config == config
    reloaded = logits_of(family, config, reopened.load_params())
    for case in tiny.CASES:
        np.testing.assert_array_equal(reloaded[case], ours[case])
