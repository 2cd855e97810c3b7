"""The tokenizer of a text-only chat model: plain text, and the two tokens that bound a message.

A tokenizer of Qwen2 or Qwen2.5 need not have the tokens of pictures that `open_tokenizer` wants.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from livecc_jax.errors import TokenizerError
from livecc_jax.families.qwen2_vl import SPECIAL_TOKENS, SYSTEM_PROMPT
from livecc_jax.text.files import TOKENIZER_FILES
from livecc_jax.text.reading import read_tokenizer_file


@dataclass(frozen=True)
class ChatPieces:
    """Encodes chats of text.

    Attributes:
        encode: Function from plain text to ids; spellings of special tokens in it stay text.
        im_start: Id of the token that begins a message.
        im_end: Id of the token that ends one.
    """

    encode: Any
    im_start: int
    im_end: int

    def prompt(self, user: str) -> list[int]:
        """Returns the ids of a chat up to where the assistant's answer begins."""
        ids: list[int] = []
        for role, text in (("system", SYSTEM_PROMPT), ("user", user)):
            ids += [self.im_start, *self.encode(f"{role}\n{text}"), self.im_end, *self.encode("\n")]
        return [*ids, self.im_start, *self.encode("assistant\n")]


def open_chat_pieces(path: str | Path) -> ChatPieces:
    """Opens the tokenizer of a chat model's directory.

    Raises:
        TokenizerError: There is no tokenizer, it cannot be read, or it lacks a chat's tokens.
    """
    path = Path(path)
    file = next((path / name for name in TOKENIZER_FILES if (path / name).is_file()), None)
    if file is None:
        raise TokenizerError(f"{path}: holds none of {', '.join(TOKENIZER_FILES)}")
    if file.suffix == ".model":
        from livecc_jax.text.open import open_tokenizer

        opened = open_tokenizer(file)
        return ChatPieces(opened.encode, opened.special.im_start, opened.special.im_end)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(read_tokenizer_file(file).decode("utf-8"))
    except BaseException as error:  # the library raises bare Exception, and panics of Rust
        if isinstance(error, TokenizerError):
            raise
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{file}: is not a readable tokenizer.json ({error!s:.200})") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = {name: tokenizer.token_to_id(SPECIAL_TOKENS[name]) for name in ("im_start", "im_end")}
    missing = [SPECIAL_TOKENS[name] for name, value in ids.items() if value is None]
    if missing:
        raise TokenizerError(f"{file}: lacks the special tokens {', '.join(missing)}")
    return ChatPieces(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, **ids)
