"""Opens a tokenizer from its files, with the library that reads them."""

from __future__ import annotations

from pathlib import Path

from livecc_jax.errors import TokenizerError
from livecc_jax.text.files import TOKENIZER_FILES
from livecc_jax.text.tokenizer import Tokenizer


def open_tokenizer(path: str | Path) -> Tokenizer:
    """Open a tokenizer from a directory or from one file.

    Args:
        path: A file tokenizer.json or tokenizer.json.xz (HuggingFace) or tokenizer.model
            (SentencePiece), or a directory that holds one.

    Raises:
        TokenizerError: There is no such file, or it cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
        if not files:
            raise TokenizerError(f"{path}: holds none of {', '.join(TOKENIZER_FILES)}")
        path = files[0]
    elif not path.is_file():
        raise TokenizerError(f"{path}: there is no such tokenizer file or directory")
    if path.suffix == ".model":
        from livecc_jax.text.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(path)
    from livecc_jax.text.hf import HFTokenizer

    return HFTokenizer(path)
