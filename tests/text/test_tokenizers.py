"""Tests that both tokenizers are lossless and follow the same protocol."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livecc_jax.errors import TokenizerError
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.sentencepiece import train_sentencepiece

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=["hf", "sentencepiece"])
def tokenizer(request, tmp_path_factory):
    if request.param == "hf":
        return open_tokenizer(ROOT / "data/tokenizer")
    out = tmp_path_factory.mktemp("sentencepiece")
    corpus = [ROOT / "README.md", ROOT / "LICENSE", *sorted((ROOT / "livecc_jax").rglob("*.py"))]
    return open_tokenizer(train_sentencepiece(corpus, out, 1000).parent)


@settings(max_examples=100, deadline=None)
@example(text="\u2581")
@example(text="a \u2581\u2581 b")
@given(text=st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_text_survives_a_round_trip(tokenizer, text):
    import unicodedata

    text = unicodedata.normalize("NFC", text)  # Qwen2's vocabulary is defined on NFC text
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    special = vars(tokenizer.special).values()
    assert not set(ids) & set(special)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_protocol(tokenizer, tmp_path):
    special = tokenizer.special
    assert len(set(vars(special).values())) == 7
    assert tokenizer.encode(" ...") == [tokenizer.silence_id]
    ids = [special.im_start, *tokenizer.encode("hello"), special.im_end]
    assert tokenizer.decode(ids) == "hello"
    # A model's vocabulary may be padded, and an untrained model may generate a padding id.
    assert tokenizer.decode([*ids, 999_999]) == "hello"
    tokenizer.save(tmp_path)
    reopened = open_tokenizer(tmp_path)
    assert reopened.special == special
    assert reopened.encode("one two ...") == tokenizer.encode("one two ...")


def test_unusable_files_are_named(tmp_path):
    with pytest.raises(TokenizerError, match="holds none of"):
        open_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer.json.xz"):
        (tmp_path / name).write_bytes(b"\x00not a tokenizer")
        with pytest.raises(TokenizerError, match=name):
            open_tokenizer(tmp_path / name)
    with pytest.raises(TokenizerError, match=r"missing\.txt"):
        train_sentencepiece([tmp_path / "missing.txt"], tmp_path, 500)


def test_silence_is_one_token_for_any_corpus(small_tokenizer, tmp_path):
    """Also if the corpus does not contain it, so that no merge could create it."""
    (tmp_path / "plain.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    train_sentencepiece([tmp_path / "plain.txt"], tmp_path, 300)
    for path in (tmp_path, small_tokenizer):
        tokenizer = open_tokenizer(path)
        assert tokenizer.silence_id is not None
        ids = tokenizer.encode("fox ...")
        assert ids[-1] == tokenizer.silence_id
        assert tokenizer.decode(ids) == "fox ..."
