"""Tokenizer files that are too large, compressed too well or damaged are refused by name."""

import lzma
import tracemalloc

import pytest
import sentencepiece

from livecc_jax.errors import TokenizerError
from livecc_jax.text import reading
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.reading import read_tokenizer_file


@pytest.mark.parametrize("streams", [1, 4])
def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch, streams):
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    size = (24 << 20) // streams if streams == 1 else 1 << 19
    file = tmp_path / "tokenizer.json.xz"
    file.write_bytes(lzma.compress(b" " * size, preset=0) * streams)
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError, match=f"more than {1 << 20} bytes when it is unpacked"):
            open_tokenizer(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_packed_files_are_read_as_python_reads_them(tmp_path):
    file = tmp_path / "tokenizer.json.xz"
    file.write_bytes(lzma.compress(b"one ") + lzma.compress(b"two") + b"trailing")
    with lzma.open(file) as expected:
        assert read_tokenizer_file(file) == expected.read() == b"one two"
    for data in (b"", b"no xz", file.read_bytes()[:-9]):
        file.write_bytes(data)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json\.xz: "):
            open_tokenizer(file)
    big = tmp_path / "tokenizer.model"
    with open(big, "wb") as target:
        target.truncate(reading.MAX_BYTES + 1)
    with pytest.raises(TokenizerError, match="more than the"):
        open_tokenizer(big)


def test_pieces_that_are_not_text_are_refused(tmp_path, small_tokenizer):
    data = bytearray((small_tokenizer / "tokenizer.model").read_bytes())
    at = data.index("\u2581".encode())
    data[at] = 0xFF
    model = sentencepiece.SentencePieceProcessor(model_proto=bytes(data))
    with pytest.raises(UnicodeDecodeError):
        list(map(model.id_to_piece, range(model.get_piece_size())))
    file = tmp_path / "tokenizer.model"
    for content, reason in ((bytes(data), "a piece is not UTF-8"), (b"", "empty"), (b"\x00" * 99, "")):
        file.write_bytes(content)
        with pytest.raises(TokenizerError, match=f"not a readable SentencePiece model.*{reason}"):
            open_tokenizer(file)
