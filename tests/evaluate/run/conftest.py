"""A tiny checkpoint that the tests of `livecc evaluate` share."""

import dataclasses

import pytest

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.text.open import open_tokenizer
from tests.support.random_models import large_random_params


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, small_tokenizer):
    """Path of a tiny checkpoint in HuggingFace layout."""
    tokenizer = open_tokenizer(small_tokenizer)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    # One layer, because layers are tested elsewhere and each costs compile time.
    config = dataclasses.replace(
        config,
        text=dataclasses.replace(config.text, max_positions=4096, layers=1),
        vision=dataclasses.replace(config.vision, depth=1),
    )
    # The vocabulary is padded; ids without a token must never be generated.
    params = large_random_params(config, zero_embeddings_from=tokenizer.vocab_size)
    path = tmp_path_factory.mktemp("checkpoint") / "hf"
    export_hf(path, config, LiveCCBlock(), params, tokenizer)
    return str(path)
