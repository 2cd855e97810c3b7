"""The judge's prompt: the default one, its placeholders, and reading the verdict out of an answer."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.metrics.verdicts import TIE

PLACEHOLDERS = ("{commentary_a}", "{commentary_b}", "{human}")
DEFAULT_PROMPT = """\
Two systems commented on the same video, live. Below are both commentaries and what a human commentator
said over the same video. Decide which of the two is closer to the human's.

What counts first is meaning: the same events, facts and names, and nothing that contradicts them.
Only if that does not decide, prefer the one whose tone and wording are closer. Length alone, and the
order in which they stand here, mean nothing.

[Commentary A]
{commentary_a}

[Commentary B]
{commentary_b}

[Human commentary]
{human}

Answer with one line and nothing else: "Commentary A" or "Commentary B".
"""


def load_prompt(path: str | Path | None) -> str:
    """Returns the prompt in a file, or the default prompt if there is no file.

    Raises:
        ConfigError: The file cannot be read, or the prompt lacks a placeholder.
    """
    if path is None:
        return DEFAULT_PROMPT
    try:
        prompt = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the prompt cannot be read: {error}") from error
    missing = [placeholder for placeholder in PLACEHOLDERS if placeholder not in prompt]
    if missing:
        raise ConfigError(f"{path}: the prompt lacks {', '.join(missing)}")
    return prompt


def prompt_hash(prompt: str) -> str:
    """Returns the hash by which reports identify a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def fill_prompt(prompt: str, commentary_a: str, commentary_b: str, human: str) -> str:
    """Fills the placeholders, in one pass: a placeholder inside a commentary is left as it is."""
    values = dict(zip(PLACEHOLDERS, (commentary_a, commentary_b, human)))
    return re.sub("|".join(map(re.escape, PLACEHOLDERS)), lambda m: values[m[0]], prompt)


def parse_verdict(answer: str) -> str | None:
    """Returns `a`, `b`, `tie`, or None if the answer does not say which commentary is closer.

    An answer that names one commentary is a vote for it; an answer that names both must say which one
    is better. (The published script takes every answer that contains "Commentary A" as a vote for A,
    even "B is better than Commentary A".)
    """
    plain = re.sub(r"[*_`\"'\[\]]", "", answer)
    better = re.search(r"commentary ([ab]) is (?:\w+ )?(?:better|closer)", plain, re.IGNORECASE)
    if better:
        return better[1].lower()
    named = {m.lower() for m in re.findall(r"commentary ([ab])\b", plain, re.IGNORECASE)}
    if len(named) == 1:
        return named.pop()
    letter = plain.strip().rstrip(".").lower()
    return letter if letter in ("a", "b", TIE) else None
