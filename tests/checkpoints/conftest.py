"""A tokenizer of nine tokens."""

import pytest
import tokenizers

from livecc_jax.text.hf import HFTokenizer
from livecc_jax.text.tokenizer import SpecialTokens


@pytest.fixture
def tokenizer(tmp_path):
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    made.add_special_tokens(list(SpecialTokens.spellings().values()))
    made.save(str(tmp_path / "tokenizer.json"))
    return HFTokenizer(tmp_path / "tokenizer.json")
