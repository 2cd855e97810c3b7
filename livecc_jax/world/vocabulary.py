"""The tokenizer of the world: SentencePiece, trained on everything that can be said and asked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from livecc_jax.families.qwen2_vl import SYSTEM_PROMPT
from livecc_jax.text.sentencepiece import train_sentencepiece
from livecc_jax.world.facts import TITLE, Fact, speak, spell_shirts
from livecc_jax.world.grammar import WORDINGS
from livecc_jax.world.lexicon import (
    ADVERTISEMENTS,
    ALL_MARKS,
    ANYTHING_MISHEARD,
    CHATTER,
    COLOURS,
    FILLERS,
    MISHEARD,
    NAMES,
    NUMBERS,
    ORDINALS,
    TEAMS,
)

PIECES = 1536  # 256 of them are bytes
SHIRTS = tuple(f"{colour} {mark}" for colour in COLOURS for mark in ALL_MARKS)


def train_tokenizer(out: str | Path, extra: tuple[str, ...] = ()) -> Path:
    """Trains the tokenizer; the same lines give the same bytes.

    Args:
        out: Folder in which `tokenizer.model` is written.
        extra: More lines, such as queries and questions.

    Returns:
        Path of the model.

    Raises:
        TokenizerError: The lines do not give so many pieces.
        OutputError: The model cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "corpus.txt")
        path.write_text("\n".join([*corpus(), *extra * 20]), encoding="utf-8")
        return train_sentencepiece([path], out, PIECES)


def corpus() -> Iterator[str]:
    """Yields lines in which every word occurs in the places in which it is said."""
    rng = np.random.default_rng(41)

    def pick(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    spoken = {
        word
        for registers in WORDINGS.values()
        for wordings in registers.values()
        for wording in wordings
        for word in wording.split()
        if not word.startswith("{")
    }
    common = sorted({*COLOURS, *ALL_MARKS, *NUMBERS[:10], *NAMES, *TEAMS, *spoken})
    rare = sorted(
        {
            *NUMBERS,
            *ORDINALS[1:],
            *FILLERS,
            *ANYTHING_MISHEARD,
            *(w for ws in MISHEARD.values() for w in ws),
        }
    )
    for word in [*common * 30, *rare * 8]:
        # A turn may begin with any word, so each has a piece of its own there, and one after a space.
        capital = word[0].upper() + word[1:]
        yield f"{word} {word}. {capital} {word}"
        yield f"{capital} {word}."
    for sentence in (*CHATTER, *ADVERTISEMENTS):
        yield from [sentence] * 12
    for _ in range(60):
        home, away = rng.permutation(list(COLOURS))[:2].tolist()
        yield TITLE.format(home=pick(TEAMS), home_colour=home, away=pick(TEAMS), away_colour=away)
    for _ in range(20):
        for (kind, action), registers in WORDINGS.items():
            for register, wordings in registers.items():
                for wording in range(len(wordings)):
                    words = speak(_any_fact(kind, action, pick), register, spell_shirts, wording)
                    sentence = " ".join(words).capitalize() + "."
                    yield " ".join(words)
                    yield f"{sentence} {sentence}"
    for second in range(700):
        yield f"Time={second:.1f}-{second + 1:.1f}s"
    yield from [f"system user assistant {SYSTEM_PROMPT}"] * 40


def _any_fact(kind: str, action: str, pick: Callable[[tuple[str, ...]], str]) -> Fact:
    """Returns a fact whose words are any of those that the wording takes."""
    thing = pick(SHIRTS)
    if kind == "score":
        return Fact(kind, "score", pick(tuple(COLOURS)) if action == "lead" else "", "2-1")
    if action in ("goals", "fouls", "row"):
        thing = str(2 + len(pick(tuple(TEAMS))) % 5)
    if kind == "colour":
        return Fact(kind, action, pick(TEAMS), pick(tuple(COLOURS)))
    if kind == "name":
        thing = pick(NAMES)
    return Fact(
        kind, action, pick(tuple(COLOURS) if action in ("kickoff", "team", "row") else SHIRTS), thing
    )
