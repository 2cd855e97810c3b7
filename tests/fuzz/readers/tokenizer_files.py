"""Tokenizer files of both libraries, and the libraries by themselves as independent readers."""

import json
import lzma
from functools import cache
from pathlib import Path

import sentencepiece
import tokenizers

from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.sentencepiece import train_sentencepiece
from livecc_jax.text.tokenizer import SpecialTokens
from tests.fuzz.reader import Reader

TEXT = "A big rabbit comes out of his burrow. ..."


def write_small_tokenizer(file: Path) -> None:
    """Writes a byte-level tokenizer.json of some 270 tokens."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)} | {"ab": 256, "bi": 257}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b"), ("b", "i")]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens(list(SpecialTokens.spellings().values()))
    model.save(str(file))


@cache
def _sentencepiece_model() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return train_sentencepiece([Path(__file__)], Path(folder) / "out", 340).read_bytes()


def _prepare(folder: Path) -> None:
    write_small_tokenizer(folder / "tokenizer.json")
    data = (folder / "tokenizer.json").read_bytes()
    (folder / "packed.json.xz").write_bytes(lzma.compress(data))
    (folder / "small.model").write_bytes(_sentencepiece_model())


def _read(folder: Path, file: str):
    tokenizer = open_tokenizer(folder / file)
    ids = tokenizer.encode(TEXT)
    return ids, tokenizer.decode(ids), tokenizer.vocab_size, tokenizer.special


def _differs(folder: Path, file: str, value) -> str:
    ids, text, size, special = value
    data = (folder / file).read_bytes()
    if file.endswith(".model"):
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        expected = model.encode(TEXT), model.get_piece_size()
        lookup = model.piece_to_id
    else:
        plain = lzma.decompress(data) if file.endswith(".xz") else data
        json.loads(plain)
        model = tokenizers.Tokenizer.from_str(plain.decode())
        model.encode_special_tokens = True
        model.no_padding()
        model.no_truncation()
        expected = model.encode(TEXT, add_special_tokens=False).ids, size
        lookup = model.token_to_id
    if (ids, size) != expected:
        return f"{ids[:8]}, {size} is not {expected[0][:8]}, {expected[1]}"
    for field, spelling in SpecialTokens.spellings().items():
        if getattr(special, field) != lookup(spelling):
            return f"another id of {spelling}"
    if not isinstance(text, str) or any(not 0 <= i < size for i in ids):
        return "ids outside of the vocabulary"
    return ""


def _files(folder: Path) -> list[str]:
    return ["tokenizer.json", "packed.json.xz", "small.model"]


READER = Reader("tokenizers", _prepare, _files, _read, _differs, is_text=True, share=0.8, fast=20)
