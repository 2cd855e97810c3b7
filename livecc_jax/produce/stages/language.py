"""Keeps videos whose words are in the wanted language, and in which more than a few different words
are said."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence

from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Rejection, Source, Word, reject

MAX_CHARACTERS = 100_000  # that are judged; the probability does not change any more


def language(source: Source, parameters: Parameters, models: Models) -> list[Source | Rejection]:
    """Keeps a source whose words are probably in the wanted language (released: P(English) >= 0.9).

    All words of the video are judged together, by py3langid. It takes a text that is half another
    language for the one that prevails, and garbled text for something other than English.

    Args:
        source: A source whose words have been read.
        parameters: Reads the fields of the stage "language".
        models: Gives the language identifier.

    Returns:
        The source with the probability in its `info["language_probability"]`, or its rejection.
    """
    if "language" not in parameters.filters:
        return [source]
    wanted = parameters.language.partition("-")[0].lower()
    text = " ".join([word.text for word in source.words or ()])[:MAX_CHARACTERS]
    if not text:
        return [reject(source, "language", "nothing is said")]
    ranked = models.language.rank(text)
    probability = next((float(p) for code, p in ranked if code == wanted), None)
    if probability is None:  # py3langid knows 97 languages
        return [reject(source, "language", "language cannot be identified", parameters.language)]
    if not probability >= parameters.min_language_probability:
        best, best_probability = ranked[0]
        value = {"language": best, "probability": round(float(best_probability), 4)}
        return [reject(source, "language", f"not {wanted} enough", value)]
    info = {**source.info, "language_probability": round(probability, 4)}
    return [dataclasses.replace(source, info=info)]


def distinct(
    source: Source, parameters: Parameters, models: Models | None = None
) -> list[Source | Rejection]:
    """Keeps a source in which enough different words are said (paper: at least 30, for pre-training).

    Args:
        source: A source whose words have been read.
        parameters: Reads the fields of the stage "distinct".
        models: Not used.

    Returns:
        The source, or its rejection.
    """
    if "distinct" not in parameters.filters:
        return [source]
    least = parameters.min_distinct_words
    count = count_distinct(source.words or (), least)
    if count < least:
        return [reject(source, "distinct", f"fewer than {least} distinct words", count)]
    return [source]


def count_distinct(words: Sequence[Word], enough: int | None = None) -> int:
    """Returns how many different words there are, without regard to case and to punctuation around
    them.

    Args:
        words: The words.
        enough: Stop counting there; None counts all.
    """
    seen: set[str] = set()
    for word in words:
        if text := _bare(word.text.casefold()):
            seen.add(text)
            if enough is not None and len(seen) >= enough:
                break
    return len(seen)


def _bare(text: str) -> str:
    """Returns a word without the punctuation and symbols around it; "" for punctuation alone."""
    if text.isalnum():
        return text
    start, stop = 0, len(text)
    while start < stop and unicodedata.category(text[start])[0] in "PSZC":
        start += 1
    while stop > start and unicodedata.category(text[stop - 1])[0] in "PSZC":
        stop -= 1
    return text[start:stop]
