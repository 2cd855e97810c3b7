"""Names of a tokenizer's files."""

from __future__ import annotations

# A directory's tokenizer is the first of these that it has.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.json.xz", "tokenizer.model")

# Files beside tokenizer.json that belong to the same tokenizer.
COMPANIONS = (
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
)
