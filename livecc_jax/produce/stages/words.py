"""The words of a source: those that are given, those of its captions, or what a speech recogniser
hears.
"""

from __future__ import annotations

import dataclasses

from livecc_jax.errors import DataError
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Rejection, Source, reject
from livecc_jax.produce.stages.measure import measure_end


def words(
    source: Source, parameters: Parameters, models: Models | None = None
) -> list[Source | Rejection]:
    """Reads the words of a source. Words that are given are taken as they are.

    Args:
        source: A source.
        parameters: Reads the fields of the stage "words".
        models: Gives the speech recogniser, where one is named and a source has no captions.

    Returns:
        The source with its words, or its rejection.
    """
    if source.words is None and source.captions:
        from livecc_jax.produce.captions.read import read_captions

        try:
            # Some files hold several languages.
            wanted = source.language or parameters.caption_language
            found = read_captions(source.captions, wanted, parameters.longest_word_ms)
        except DataError as error:
            return [reject(source, "words", "captions cannot be read", str(error))]
        source = dataclasses.replace(
            source,
            words=found.words,
            language=source.language or found.language,
            captions_kind=source.captions_kind or found.kind,
        )
    if source.words is None and parameters.speech_model:
        from livecc_jax.produce.speech import recognise

        result = recognise(source, parameters, models)
        if isinstance(result, Rejection):
            return [result]
        source = result
    if source.words is None:
        reason = source.info.get("captions_refused") or "neither words nor captions"
        return [reject(source, "words", str(reason))]
    if not source.words:
        return [reject(source, "words", "nothing is said")]
    return [measure_end(source)]
