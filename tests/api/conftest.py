"""A tiny model of random weights whose words depend on every frame."""

import pytest

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.text.open import open_tokenizer
from tests.support.random_models import large_random_params


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, small_tokenizer):
    """Directory of the model in HuggingFace layout."""
    tokenizer = open_tokenizer(small_tokenizer)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    folder = tmp_path_factory.mktemp("api") / "hf"
    block = LiveCCBlock(pixel_budget="16")
    export_hf(folder, config, block, large_random_params(config), tokenizer)
    return folder
