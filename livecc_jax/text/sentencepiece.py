"""SentencePiece tokenizers, for models trained from scratch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from livecc_jax.errors import TokenizerError
from livecc_jax.text.reading import read_tokenizer_file
from livecc_jax.text.tokenizer import SILENCE, SpecialTokens
from livecc_jax.writing import atomic_file, copy_file, make_folder

FILE = "tokenizer.model"
SPACE = "\u2581"  # how SentencePiece spells a space within pieces


class SentencePieceTokenizer:
    """A SentencePiece model trained by `train_sentencepiece`, or any that has the special tokens.

    Raises TokenizerError when the file is not valid or lacks one of the special tokens.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        data = read_tokenizer_file(self.path)
        try:
            if not data:
                raise ValueError("it is empty")
            self._model = sentencepiece.SentencePieceProcessor(model_proto=data)
            self.vocab_size = self._model.get_piece_size()
            # A piece that is not UTF-8 raises UnicodeDecodeError here.
            pieces = {self._model.id_to_piece(i): i for i in range(self.vocab_size)}
        except (OSError, RuntimeError, ValueError) as error:
            reason = "a piece is not UTF-8" if isinstance(error, UnicodeError) else error
            raise TokenizerError(
                f"{self.path}: is not a readable SentencePiece model ({reason!s:.200})"
            ) from error
        spellings = SpecialTokens.spellings()
        missing = [s for s in spellings.values() if s not in pieces]
        if missing:
            raise TokenizerError(f"{self.path}: lacks the special tokens {', '.join(missing)}")
        self.special = SpecialTokens(**{k: pieces[s] for k, s in spellings.items()})
        self._controls = {i for i in range(self.vocab_size) if self._model.is_control(i)}
        byte_pieces = [f"<0x{byte:02X}>" for byte in SPACE.encode()]
        has_bytes = all(piece in pieces for piece in byte_pieces)
        self._space_bytes = [pieces[piece] for piece in byte_pieces] if has_bytes else []
        silence = self.encode(SILENCE)
        self.silence_id = silence[0] if len(silence) == 1 else None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of plain text; control symbols are never parsed from it."""
        if SPACE not in text or not self._space_bytes:
            return self._model.encode(text)
        # The model would encode the character itself as a space, so its bytes are encoded instead.
        first, *rest = (self._model.encode(part) for part in text.split(SPACE))
        return first + [i for part in rest for i in (*self._space_bytes, *part)]

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids, without special tokens and ids beyond the vocabulary."""
        pieces = (int(i) for i in ids if int(i) < self.vocab_size)
        return self._model.decode([i for i in pieces if i not in self._controls])

    def save(self, directory: Path) -> None:
        """Write tokenizer.model. Raises OutputError when it cannot be written."""
        make_folder(directory)
        if self.path.resolve() != (directory / FILE).resolve():
            copy_file(self.path, directory / FILE)


def train_sentencepiece(corpus: Sequence[str | Path], out: str | Path, vocab_size: int) -> Path:
    """Train a BPE model with byte fallback on lines of text.

    Args:
        corpus: UTF-8 text files.
        out: Directory in which tokenizer.model is written.
        vocab_size: Number of pieces, including the special tokens and 256 bytes.

    Returns:
        Path of the model.

    Raises:
        TokenizerError: A file cannot be read, or the corpus is too small for so many pieces.
        OutputError: The model cannot be written.
    """
    out = Path(out)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(corpus),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            character_coverage=0.9995,
            # Lossless: no Unicode folding, no space added in front, no spaces merged.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            control_symbols=list(SpecialTokens.spellings().values()),
            # SentencePiece's spelling of a space.
            user_defined_symbols=[SILENCE.replace(" ", SPACE), "\n"],
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_id=0,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise TokenizerError(
            f"{', '.join(map(str, corpus))}: no tokenizer of {vocab_size} pieces ({reason})"
        ) from error
    make_folder(out)
    path = out / FILE
    with atomic_file(path) as file:
        file.write(model.getvalue())
    return path


def _lines(corpus: Sequence[str | Path]) -> Iterator[str]:
    for path in corpus:
        try:
            with open(path, encoding="utf-8") as file:
                yield from (line.rstrip("\n") for line in file)
        except OSError as error:
            raise TokenizerError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path}: is not UTF-8 text (byte {error.start})") from error
