"""The network of the newer families computes what transformers computes, from the same weights.

The goldens come from transformers 4.57 (tests/goldens/make_families.py).
"""

import functools
import json
import math
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import LiveCCBlock, parse_config, to_config_json
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.weight_names import canonical_name, weight_name_table
from livecc_jax.errors import CheckpointError
from livecc_jax.families import FAMILIES
from livecc_jax.model.presets import PRESETS
from livecc_jax.model.qwen2_vl import abstract_params, bind
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.positions import token_positions
from tests.goldens import tiny_families as families
from tests.goldens import tiny_weights as tiny
from tests.support.rows import Segment, pack, stack

GOLDENS = Path(__file__).parent.parent / "goldens"
TOLERANCE = 1e-4  # float32, logits of a few units
NEWER = ("qwen2_5_vl", "qwen3_vl")
SPECIAL = SpecialTokens(
    tiny.END, tiny.IM_START, tiny.IM_END, tiny.VISION_START, tiny.VISION_END, tiny.IMAGE, tiny.VIDEO
)  # fmt: skip
# Parameters of the released models, as published (shared/tied heads count once).
SIZES = {
    "qwen2.5-3b": 3_754_622_976,
    "qwen2.5-7b": 8_292_166_656,
    "qwen2.5-32b": 33_452_718_336,
    "qwen2.5-72b": 73_410_777_344,
    "qwen3-2b": 2_127_532_032,
    "qwen3-4b": 4_437_815_808,
    "qwen3-8b": 8_767_123_696,
    "qwen3-32b": 33_357_390_064,
}
TENSORS = {
    "qwen2.5-3b": 824, "qwen2.5-7b": 729, "qwen2.5-32b": 1161, "qwen2.5-72b": 1353,
    "qwen3-2b": 625, "qwen3-4b": 713, "qwen3-8b": 750, "qwen3-32b": 1058,
}  # fmt: skip


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
@pytest.mark.parametrize("family", NEWER)
def test_logits_are_those_of_transformers(tmp_path, family, tied):
    config, golden = config_of(family, tied), goldens(family)
    params = weights_of(config)
    ours = logits_of(family, config, params)
    for case in tiny.CASES:
        assert zlib.crc32(families.patches(family, case).tobytes()) == golden[f"{case}/patches"]
        expected = golden[f"{'tied' if tied else 'untied'}/{case}/logits"]
        assert expected.std() > 0.5
        np.testing.assert_allclose(ours[case], expected, rtol=0, atol=TOLERANCE, err_msg=case)
        tokens, pictures = families.conversation(family, case)
        grids = np.array([grid for _, grid in pictures], np.int32).reshape(-1, 3)
        positions, _ = token_positions(tokens, grids, SPECIAL, "mrope", family=config.family)
        np.testing.assert_array_equal(positions, golden[f"{case}/positions"])

    export_hf(tmp_path / "m", config, LiveCCBlock(), params, max_shard_bytes=200_000)
    reopened = open_checkpoint(tmp_path / "m")
    assert reopened.config == config
    card = (tmp_path / "m/README.md").read_text()
    assert f"of the {config.family.name} architecture" in card
    assert f"(`{config.family.architecture}`)" in card
    reloaded = logits_of(family, config, reopened.load_params())
    for case in tiny.CASES:
        np.testing.assert_array_equal(reloaded[case], ours[case])


@pytest.mark.parametrize("name", SIZES)
def test_presets_are_the_released_sizes(name):
    config = PRESETS[name]
    shapes = {e.path: e.full_shape for e in weight_name_table(config)}
    assert sum(map(math.prod, shapes.values())) == SIZES[name]
    assert sum(len(e.names) for e in weight_name_table(config)) == TENSORS[name]
    flat = traverse_util.flatten_dict(abstract_params(config), sep="/")
    assert {path: leaf.shape for path, leaf in flat.items()} == shapes


@pytest.mark.parametrize("family", NEWER)
def test_configs_and_names_of_every_era_are_read(family):
    """The layouts of 4.52 to 4.57 and of 5.x, and prefixes that other tools write."""
    config = config_of(family, True)
    nested = to_config_json(config, LiveCCBlock(), "bfloat16", "nested")
    assert parse_config(nested, GOLDENS)[0] == config
    later = json.loads(json.dumps(nested))
    text = later["text_config"]
    text["rope_parameters"] = text.pop("rope_scaling") | {"rope_theta": text.pop("rope_theta")}
    later["dtype"] = later.pop("torch_dtype")
    later["vision_config"]["model_type"] = f"{family}_vision"
    later["vision_config"]["rope_parameters"] = {"rope_theta": 10000.0, "rope_type": "axial"}
    later["pad_token_id"] = None
    assert parse_config(later, GOLDENS)[0] == config
    # Where the two flags differ, the one at the top is right.
    text["tie_word_embeddings"] = False
    assert parse_config(later, GOLDENS)[0].text.tied
    for name in [name for e in weight_name_table(config) for name in e.names]:
        bare = name.removeprefix("model.").removeprefix("language_model.")
        long = bare if bare.startswith("lm_head") else (
            f"model.{bare}" if bare.startswith("visual.") else f"model.language_model.{bare}"
        )  # fmt: skip
        assert canonical_name(long, config.family) == name


def test_what_transformers_leaves_out_is_what_its_class_defaults_to():
    """A file without `tokens_per_second` means 4 to transformers, though released files say 2."""
    data = families.config_json("qwen2_5_vl", True)
    data["vision_config"] = dict(data["vision_config"])
    del data["vision_config"]["tokens_per_second"]
    assert parse_config(data, GOLDENS)[0].vision.pair_positions == 4
    assert FAMILIES["qwen2_5_vl"].pair_positions == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_position_embeddings": 24}, "num_position_embeddings is 24, not a square"),
        ({"deepstack_visual_indexes": [0, 9]}, r"vision.deepstack \(0, 9\) must be different blocks"),
        ({"deepstack_visual_indexes": [0, 1, 2, 3]}, "needs more decoder layers"),
        ({"patch_size": 14}, "patch_size is 14; only 16 is supported"),
        ({"hidden_act": "quick_gelu"}, "only 'gelu_pytorch_tanh' is supported"),
        ({"out_hidden_size": 32}, "out_hidden_size is 32, but the decoder's is 64"),
    ],
)
def test_what_a_family_cannot_have_is_said(change, sentence):
    data = families.config_json("qwen3_vl", False)
    data["vision_config"] = data["vision_config"] | change
    with pytest.raises(CheckpointError, match=sentence):
        parse_config(data, Path("config.json"))


@pytest.mark.parametrize("family", NEWER)
def test_a_missing_tensor_of_the_tower_is_named(tmp_path, family):
    from safetensors.numpy import load_file, save_file

    config = config_of(family, True)
    export_hf(tmp_path / "m", config, LiveCCBlock(), weights_of(config))
    (file,) = (tmp_path / "m").glob("*.safetensors")
    tensors = load_file(file)
    name = {
        "qwen2_5_vl": "visual.blocks.0.mlp.gate_proj.bias",
        "qwen3_vl": "model.visual.pos_embed.weight",
    }
    del tensors[name[family]]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="missing.*" + name[family].rsplit(".", 2)[1]):
        open_checkpoint(tmp_path / "m").load_params()


@pytest.mark.parametrize("family", NEWER)
def test_transformers_loads_our_export(tmp_path, family):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    from tests.goldens.make_families import inputs

    config, golden = config_of(family, True), goldens(family)
    export_hf(tmp_path / "m", config, LiveCCBlock(), weights_of(config))
    model, report = getattr(transformers, config.family.architecture).from_pretrained(
        tmp_path / "m", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    for case in tiny.CASES:
        positions = torch.from_numpy(golden[f"{case}/positions"]).long()[:, None]
        with torch.no_grad():
            logits = model(**inputs(family, case), position_ids=positions).logits[0].numpy()
        expected = golden[f"tied/{case}/logits"]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE, err_msg=case)
