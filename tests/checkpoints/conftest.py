"""A tokenizer with nine tokens."""

import pytest
import tokenizers

from livecc_jax.text.hf import HFTokenizer
from livecc_jax.text.tokenizer import SpecialTokens


@pytest.fixture
def tokenizer(tmp_path):
    """Two letters and the special tokens."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    model.add_special_tokens(list(SpecialTokens.spellings().values()))
    model.save(str(tmp_path / "tokenizer.json"))
    return HFTokenizer(tmp_path / "tokenizer.json")
