"""The network computes what transformers' Qwen2-VL computes, from the same weights.

The goldens come from transformers 4.50 (tests/goldens/make_model.py), which places text after a long
video as 4.57 does; transformers 5 does not (docs/positions.md). Where transformers is
installed, another test runs it on checkpoints that we export.
"""

import functools
import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import LiveCCBlock, parse_config, to_config_json
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.positions import token_positions
from tests.goldens import tiny_weights as tiny
from tests.support.rows import VIDEO_PAD, Segment, pack, stack

GOLDENS = Path(__file__).parent.parent / "goldens"
TOLERANCE = 1e-4  # float32, logits of a few units
SPECIAL = SpecialTokens(
    tiny.END,
    tiny.IM_START,
    tiny.IM_END,
    tiny.VISION_START,
    tiny.VISION_END,
    tiny.IMAGE,
    tiny.VIDEO,
)


def config_of(tied):
    return parse_config(tiny.CONFIG | {"tie_word_embeddings": tied}, GOLDENS)[0]


def weights_of(config):
    """Parameters that the weight name table builds from weights that their names determine."""
    flat = {}
    for entry in weight_name_table(config):
        layers = [entry.from_hf(tiny.weight(name, entry.hf_shape)) for name in entry.names]
        flat[entry.path] = np.stack(layers) if entry.stacked else layers[0]
    return traverse_util.unflatten_dict(flat, sep="/")


def goldens(tied):
    with np.load(GOLDENS / f"model_{'tied' if tied else 'untied'}.npz") as data:
        return dict(data)


def packed_row(case, positions):
    """The conversation of a case as a packed row whose windows hold 64 patches."""
    assert tiny.VIDEO == VIDEO_PAD
    tokens, pictures = tiny.conversation(case)
    patches, videos, start = tiny.patches(case), [], 0
    for _, (t, h, w) in pictures:
        videos.append((patches[start : start + t * h * w].reshape(t, h * w, 1176), h, w))
        start += t * h * w
    vision = np.where(tokens == tiny.IMAGE, tiny.VIDEO, tokens)
    segment = Segment(vision, np.zeros(len(tokens), bool), positions, videos)
    row = pack([segment], tokens=96, windows=4, patches=64, targets=4)
    row["tokens"][0, : len(tokens)] = tokens
    return row


@functools.cache
def compiled_model(config):
    return jax.jit(lambda params, rows: bind(config, params)(rows))


def logits_of(config, params, golden):
    """{case: float32 [T, V]}, computed for all cases in one batch."""
    rows = stack(*[packed_row(case, golden[f"{case}/positions"]) for case in tiny.CASES])
    out = np.asarray(compiled_model(config)(params, rows))
    return {case: out[i, : len(golden[f"{case}/logits"])] for i, case in enumerate(tiny.CASES)}


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(tmp_path, tied):
    config, golden = config_of(tied), goldens(tied)
    params = weights_of(config)
    ours = logits_of(config, params, golden)
    for case in tiny.CASES:
        tokens, pictures = tiny.conversation(case)
        assert zlib.crc32(tiny.patches(case).tobytes()) == golden[f"{case}/patches"]
        expected = golden[f"{case}/logits"]
        assert expected.std() > 0.5
        np.testing.assert_allclose(ours[case], expected, rtol=0, atol=TOLERANCE, err_msg=case)
        grids = np.array([grid for _, grid in pictures], np.int32).reshape(-1, 3)
        positions, _ = token_positions(tokens, grids, SPECIAL, "mrope")
        np.testing.assert_array_equal(positions, golden[f"{case}/positions"])

    export_hf(tmp_path / "m", config, LiveCCBlock(), params, max_shard_bytes=200_000)
    loaded = open_checkpoint(tmp_path / "m").load_params()
    reloaded = logits_of(config, loaded, golden)
    for case in tiny.CASES:
        np.testing.assert_array_equal(reloaded[case], ours[case])


def test_the_tolerance_is_tight_enough():
    """Positions that are off by one already exceed it tenfold."""
    config, golden = config_of(True), goldens(True)
    expected = golden["videos/logits"]
    shifted = dict(golden)
    shifted["videos/positions"] = golden["videos/positions"] + np.array([[1], [0], [0]])
    shifted["videos/positions"][:, -3:] += 1
    ours = logits_of(config, weights_of(config), shifted)["videos"]
    assert np.abs(ours - expected).max() > 10 * TOLERANCE


@pytest.mark.parametrize("layout", ["flat", "nested"])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_the_same_from_our_export(tmp_path, tied, layout):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    if layout == "nested" and version < (4, 52):
        pytest.skip("transformers reads the nested layout from 4.52 on")
    from tests.goldens.make_model import inputs

    config, golden = config_of(tied), goldens(tied)
    export_hf(tmp_path / "m", config, LiveCCBlock(), weights_of(config), layout=layout)
    model, report = transformers.Qwen2VLForConditionalGeneration.from_pretrained(
        tmp_path / "m", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    saved = tmp_path / "theirs"
    model.save_pretrained(saved)
    for case in tiny.CASES:
        positions = torch.from_numpy(golden[f"{case}/positions"]).long()[:, None]
        with torch.no_grad():
            logits = model(**inputs(case), position_ids=positions).logits[0].numpy()
        np.testing.assert_allclose(
            logits, golden[f"{case}/logits"], rtol=0, atol=TOLERANCE, err_msg=case
        )

    # What transformers saves, in its own layout, is what we exported.
    reopened = open_checkpoint(saved)
    assert reopened.config == config, json.dumps(to_config_json(reopened.config, reopened.livecc))
    both = weights_of(config), reopened.load_params()
    ours, theirs = (traverse_util.flatten_dict(params) for params in both)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[k], theirs[k]) for k in ours)
