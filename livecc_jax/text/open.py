"""Opening a tokenizer from its files, whatever library reads them."""

from __future__ import annotations

from pathlib import Path

from livecc_jax.errors import TokenizerError
from livecc_jax.text.tokenizer import Tokenizer


def open_tokenizer(path: str | Path) -> Tokenizer:
    """Open a tokenizer from a directory or from one file.

    Args:
        path: a directory holding, or itself, one of tokenizer.json, tokenizer.json.xz (HuggingFace)
            or tokenizer.model (SentencePiece).

    Raises:
        TokenizerError: nothing usable is there.
    """
    path = Path(path)
    names = ("tokenizer.json", "tokenizer.json.xz", "tokenizer.model")
    if path.is_dir():
        found = [path / n for n in names if (path / n).is_file()]
        if not found:
            raise TokenizerError(f"{path}: holds none of {', '.join(names)}")
        path = found[0]
    elif not path.is_file():
        raise TokenizerError(f"{path}: there is no such tokenizer file or directory")
    if path.suffix == ".model":
        from livecc_jax.text.sentencepiece import SentencePieceTokenizer

        return SentencePieceTokenizer(path)
    from livecc_jax.text.hf import HFTokenizer

    return HFTokenizer(path)
