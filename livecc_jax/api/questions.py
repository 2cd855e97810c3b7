"""Answers questions about a whole video or image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from livecc_jax.api.models import Model
from livecc_jax.api.spans import check_span
from livecc_jax.errors import ConfigError
from livecc_jax.media.clips import sample_media
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.sampling import MAX_FRAMES
from livecc_jax.stream.ask import VideoChat
from livecc_jax.stream.turn import MAX_ANSWER_TOKENS, Answer


def open_chat(
    model: Model,
    source: str | Path,
    *,
    start: float | None = None,
    end: float | None = None,
    max_frames: int = MAX_FRAMES,
    pixel_budget: str | int | None = None,
    rules: MediaRules = DEFAULT,
    **decoding: Any,
) -> VideoChat:
    """Shows a model a whole video or image, once, for any number of questions.

    Args:
        model: What `open_model` returned.
        source: A video or image file.
        start: Second of a video to start at.
        end: Second of a video to end at.
        max_frames: Largest number of frames of a video; they are spread evenly, two a second if there
            are so many, and at least four.
        pixel_budget: Largest number of vision tokens of a frame pair, or "reference"; None is the
            model's.
        rules: How videos are read.
        **decoding: Fields of `StreamOptions`: `temperature`, `repetition_penalty`, `positions`, `seed`.

    Returns:
        The conversation. `chat.ask(question)` answers; later questions see earlier ones and their
        answers. `chat.fork()` continues independently.

    Raises:
        MediaError: The file cannot be read, or has no frame in the span.
        ContextFull: The video does not fit in the context.
        ConfigError: An option is unknown or out of range.
        CheckpointError, TokenizerError: The model cannot be loaded.

    Example:
        >>> chat = livecc_jax.open_chat(model, "match.mp4")
        >>> chat.ask("Who scores?").text
        >>> chat.ask("And how?").text
    """
    check_span(start, end)
    options, budget = model.stream_options(**decoding), model.budget(pixel_budget)
    # Before the weights are loaded, so that an unreadable video fails at once.
    video = sample_media(source, budget, start, end, max_frames, rules)
    return VideoChat(model.load(), options, video)


def ask(
    model: Model,
    source: str | Path,
    question: str,
    *,
    max_new_tokens: int = MAX_ANSWER_TOKENS,
    **chat: Any,
) -> Answer:
    """Answers one question about a whole video or image.

    Args:
        model: What `open_model` returned.
        source: A video or image file.
        question: The question.
        max_new_tokens: Largest number of tokens of the answer.
        **chat: Other arguments of `open_chat`, such as `end=60` or `max_frames=32`.

    Returns:
        The answer; `answer.text` is its text.

    Raises:
        ConfigError: The question is empty, or an option is unknown or out of range.
        MediaError: The file cannot be read, or has no frame in the span.
        ContextFull: The video and the question do not fit in the context.

    Example:
        >>> livecc_jax.ask(model, "match.mp4", "Who scores?", end=60).text
    """
    check_question(question)
    return open_chat(model, source, **chat).ask(question, max_new_tokens)


def check_question(question: str) -> None:
    """Raises ConfigError when a question is empty."""
    if not question.strip():
        raise ConfigError("a question must say something")
