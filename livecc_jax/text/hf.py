"""Tokenizers in HuggingFace's tokenizer.json format, read by the `tokenizers` library."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers

from livecc_jax.errors import TokenizerError
from livecc_jax.families.qwen2_vl import CHAT_TEMPLATE, PROCESSOR
from livecc_jax.text.files import COMPANIONS
from livecc_jax.text.links import target_outside
from livecc_jax.text.reading import MAX_VOCABULARY, read_tokenizer_file
from livecc_jax.text.tokenizer import SILENCE, SpecialTokens
from livecc_jax.writing import copy_file, make_folder, write_text


class HFTokenizer:
    """A byte-level BPE with Qwen2's special tokens.

    Raises TokenizerError when the file is not valid or lacks one of the special tokens.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        raw = read_tokenizer_file(self.path)
        try:
            self._text = raw.decode("utf-8")
            self._tokenizer = tokenizers.Tokenizer.from_str(self._text)
        except BaseException as error:  # the library raises bare Exception, and panics of Rust
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise TokenizerError(
                f"{self.path}: is not a readable tokenizer.json ({error!s:.200})"
            ) from error
        # Special tokens are not parsed from text: a subtitle with <|im_end|> must not end a turn.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        ids = {k: self._tokenizer.token_to_id(v) for k, v in SpecialTokens.spellings().items()}
        missing = [SpecialTokens.spellings()[k] for k, v in ids.items() if v is None]
        if missing:
            raise TokenizerError(f"{self.path}: lacks the special tokens {', '.join(missing)}")
        self.special = SpecialTokens(**ids)
        added = self._tokenizer.get_added_tokens_decoder()
        # A vocabulary may leave ids out, so that its size is less than the largest id.
        largest = max(self._tokenizer.get_vocab().values(), default=0)
        self.vocab_size = max(self._tokenizer.get_vocab_size(), largest + 1, max(added, default=0) + 1)
        if self.vocab_size > MAX_VOCABULARY:
            raise TokenizerError(
                f"{self.path}: has ids up to {self.vocab_size - 1}, but a vocabulary has at most "
                f"{MAX_VOCABULARY}"
            )
        silence = self.encode(SILENCE)
        self.silence_id = silence[0] if len(silence) == 1 else None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of plain text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids, without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def save(self, directory: Path) -> None:
        """Write tokenizer.json and the files that a HuggingFace processor needs beside it.

        Raises OutputError when a file cannot be written, and TokenizerError when one that is to be
        copied is a link that leads out of the tokenizer's directory.
        """
        make_folder(directory)
        write_text(directory / "tokenizer.json", self._text)
        for name in COMPANIONS:
            source = self.path.parent / name
            if source.is_file() and (target := target_outside(source)):
                raise TokenizerError(f"{source}: is a link that leaves its directory, to {target}")
            if source.is_file() and source.resolve() != (directory / name).resolve():
                copy_file(source, directory / name)
        spellings = SpecialTokens.spellings()
        defaults = {
            "tokenizer_config.json": {
                "tokenizer_class": "Qwen2Tokenizer",
                "processor_class": PROCESSOR,
                "add_prefix_space": False,
                "clean_up_tokenization_spaces": False,
                "bos_token": None,
                "eos_token": spellings["im_end"],
                "pad_token": spellings["endoftext"],
                "unk_token": None,
                "model_max_length": 32768,
                "chat_template": CHAT_TEMPLATE,
                "added_tokens_decoder": {
                    str(i): {
                        "content": token.content, "lstrip": False, "rstrip": False,
                        "normalized": False, "single_word": False, "special": token.special,
                    }
                    for i, token in sorted(self._tokenizer.get_added_tokens_decoder().items())
                },
            },
            "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        }  # fmt: skip
        for name, content in defaults.items():
            if not (directory / name).exists():
                write_text(directory / name, json.dumps(content, indent=2) + "\n")
