"""Tests of which head is used when the fields of config.json and the weights disagree.

tied_heads.json in tests/goldens says what transformers 5.24 uses in each case (`make_tied_heads.py`).
"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.errors import CheckpointError
from tests.support.checkpoints import random_params, tiny_config

CASES = json.loads((Path(__file__).parents[1] / "goldens/tied_heads.json").read_text())["5.24.0"]
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An untied checkpoint with a nested config.json."""
    path = tmp_path_factory.mktemp("tied") / "source"
    config = tiny_config()
    export_hf(path, config, LiveCCBlock(), random_params(config), layout="nested")
    return path


def write_case(source, path, case):
    """Writes a checkpoint in which the fields and the stored head are those of a case."""
    config = json.loads((source / "config.json").read_text())
    del config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]
    if not case["nested"]:
        config = config.pop("text_config") | config
    for owner, value in ((config, case["outer"]), (config.get("text_config"), case["inner"])):
        if value is not None:
            owner["tie_word_embeddings"] = value
    tensors = load_file(source / "model.safetensors")
    if case["stored"] == "none":
        del tensors[HEAD]
    elif case["stored"] == "same":
        tensors[HEAD] = tensors[EMBED].copy()
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_the_head_is_the_one_that_transformers_uses(tmp_path, source, case):
    write_case(source, tmp_path / "model", case)
    opened = open_checkpoint(tmp_path / "model")
    if case["head"] == "random":  # neither stored nor tied: transformers draws one, we refuse
        with pytest.raises(CheckpointError, match=r"missing lm_head\.weight"):
            opened.load_params()
        return
    text = opened.load_params()["text"]
    head = text["embed"] if opened.config.text.tied else text["head"].T
    stored = load_file(source / "model.safetensors")
    np.testing.assert_array_equal(head, stored[HEAD if case["head"] == "own" else EMBED])
    if case["stored"] == "same" and case["outer"] is not None:
        assert opened.config.text.tied == case["outer"]


def test_a_converted_copy_agrees_with_itself(tmp_path, source, caplog):
    write_case(
        source, tmp_path / "model", {"nested": True, "outer": True, "inner": True, "stored": "own"}
    )
    convert(tmp_path / "model", tmp_path / "copy", layout="nested")
    assert "the weights hold another lm_head.weight, which is used" in caplog.text
    config = json.loads((tmp_path / "copy/config.json").read_text())
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    copies = [load_file(tmp_path / name / "model.safetensors")[HEAD] for name in ("model", "copy")]
    np.testing.assert_array_equal(*copies)
