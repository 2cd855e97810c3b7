"""Noisy captions: a commentary as automatic captions of the web have it.

Lines of captions lag behind, words are misheard or missing, small talk and advertisements that have
nothing to do with the picture are in between, and there are neither capitals nor stops. The words of a
line share its time evenly, as in LiveCC's pre-training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import ConfigError
from livecc_jax.world.facts import TimedWord, normalised
from livecc_jax.world.lexicon import (
    ADVERTISEMENTS,
    ANYTHING_MISHEARD,
    CHATTER,
    FILLERS,
    MISHEARD,
    NAMES,
    TEAMS,
)

MAX_LAG = 2.0  # seconds
LINE_WORDS = 8
PAUSE = 1.2  # seconds of silence that end a line of captions
_SPELLED = {word.lower(): word for word in (*NAMES, *TEAMS)}


@dataclass(frozen=True)
class Noise:
    """How much is wrong with captions.

    Attributes:
        lag: Seconds by which lines lag at most; each video has a lag of its own, and each line a little
            of its own on top of it.
        dropped: Probability that a word is missing.
        misheard: Probability that a word is another one.
        fillers: Probability of a filler (`uh`) before a word.
        chatter: Sentences of small talk a minute, as far as there are pauses for them.
        advertisements: Advertisements a minute, likewise.
    """

    lag: float = 1.5
    dropped: float = 0.05
    misheard: float = 0.05
    fillers: float = 0.02
    chatter: float = 2.0
    advertisements: float = 0.5

    def __post_init__(self) -> None:
        chances = (self.dropped, self.misheard, self.fillers)
        if not 0.0 <= self.lag <= MAX_LAG or not all(0.0 <= p <= 1.0 for p in chances):
            raise ConfigError(
                f"captions lag by 0 to {MAX_LAG:g} seconds, and the shares of wrong words are 0 to 1"
            )
        if self.chatter < 0 or self.advertisements < 0:
            raise ConfigError("captions have no fewer than 0 advertisements a minute")


@dataclass(frozen=True)
class Captions:
    """Noisy captions, and what was done to the words.

    Attributes:
        words: (start, end, word) in seconds of the video, in order.
        spoken: Number of words of the commentary.
        dropped: How many of them are missing.
        misheard: How many of them are another word.
        added: How many words were added: fillers, small talk, advertisements.
        lags: Seconds by which each line lags.
    """

    words: tuple[TimedWord, ...]
    spoken: int
    dropped: int
    misheard: int
    added: int
    lags: tuple[float, ...]


def noisy(
    words: Sequence[TimedWord], noise: Noise = Noise(), seed: int = 0, seconds: float | None = None
) -> Captions:
    """Makes noisy captions of a commentary.

    Args:
        words: (start, end, word) in seconds, in order.
        noise: How much is wrong.
        seed: Another seed is another draw.
        seconds: Length of the video; words that would end after it are left out.
    """
    rng = np.random.default_rng([seed, len(words), 21])
    seconds = words[-1][1] + MAX_LAG if seconds is None and words else seconds or 0.0
    lines = _with_talk(_lines(words), noise, seconds, rng)
    base = float(rng.uniform(0.0, 0.75 * noise.lag))
    out: list[TimedWord] = []
    counts = {"spoken": len(words), "dropped": 0, "misheard": 0, "added": 0}
    lags = []
    for start, stop, text, is_talk in lines:
        heard: list[str] = []
        for word in text:
            if is_talk:
                heard.append(word)
                counts["added"] += 1
                continue
            if float(rng.random()) < noise.fillers:
                filler = FILLERS[int(rng.integers(len(FILLERS)))].split()
                heard += filler
                counts["added"] += len(filler)
            draw = float(rng.random())
            if draw < noise.dropped:
                counts["dropped"] += 1
            elif draw < noise.dropped + noise.misheard:
                heard.append(_mishear(word, rng))
                counts["misheard"] += 1
            else:
                heard.append(_spelled(word))
        lag = base + float(rng.uniform(0.0, 0.25 * noise.lag))
        lags.append(lag)
        step = (stop - start) / max(len(heard), 1)
        for i, word in enumerate(heard):
            begin, end = start + lag + i * step, start + lag + (i + 1) * step
            if out:  # a line that lags more than the next one would run into it
                begin = max(begin, out[-1][1])
                end = max(end, begin + 0.02)
            out.append((round(begin, 3), round(end, 3), word))
    kept = tuple(word for word in out if word[1] <= seconds)
    return Captions(kept, *counts.values(), tuple(lags))


def _spelled(word: str) -> str:
    """Returns a word as captions have it: small letters but for names, and no stops."""
    plain = normalised(word)
    return _SPELLED.get(plain, plain)


def _mishear(word: str, rng: np.random.Generator) -> str:
    options = MISHEARD.get(normalised(word), ANYTHING_MISHEARD)
    options = [option for option in options if option != normalised(word)]
    return options[int(rng.integers(len(options)))]


def _lines(words: Sequence[TimedWord]) -> list[tuple[float, float, list[str], bool]]:
    """Cuts words into lines of captions: (start, stop, words, whether it is small talk)."""
    lines: list[tuple[float, float, list[str], bool]] = []
    for start, end, word in words:
        if lines and start - lines[-1][1] < PAUSE and len(lines[-1][2]) < LINE_WORDS:
            first, _, text, _ = lines[-1]
            lines[-1] = (first, end, [*text, word], False)
        else:
            lines.append((start, end, [word], False))
    return lines


def _with_talk(
    lines: list[tuple[float, float, list[str], bool]],
    noise: Noise,
    seconds: float,
    rng: np.random.Generator,
) -> list[tuple[float, float, list[str], bool]]:
    """Puts small talk and advertisements between lines; they are spoken faster where room is scarce."""
    added = []
    for rate, sentences in ((noise.chatter, CHATTER), (noise.advertisements, ADVERTISEMENTS)):
        for _ in range(int(rng.poisson(rate * seconds / 60))):
            text = sentences[int(rng.integers(len(sentences)))].split()
            place = int(rng.integers(len(lines) + 1))
            start = lines[place - 1][1] if place else 0.0
            stop = lines[place][0] if place < len(lines) else seconds
            if stop - start > 0.1 * len(text):
                added.append((start, min(stop, start + 0.3 * len(text)), text, True))
    # At most one in each pause.
    taken = {start: line for line in added for start in [line[0]]}
    return sorted([*lines, *taken.values()], key=lambda line: (line[0], line[1]))
