"""Encodes the text of an example for the index, and decodes it back to the same tokens.

Tokens are not stored: text and media grids give them back, in a tenth of the space.
"""

from __future__ import annotations

import json

from livecc_jax.bounded_json import parse_json
from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.index.columns import CONVERSATION, STREAM
from livecc_jax.errors import DataError
from livecc_jax.media.clips import MediaSlice
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual, stream_conversation
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, Turn, turn_span

VISUALS = ("video", "image")  # a visual is stored as its position here


def encode(example: EncodedExample) -> tuple[int, bytes]:
    """Returns the kind (STREAM or CONVERSATION) and the text of an example as JSON.

    A streaming example is stored as `[prompt, [text of each turn]]`, any other example as
    `[[role, [content]]]`, where the number 0 stands for the next video and 1 for the next image.
    """
    if example.turns:
        return STREAM, _json([example.prompt, [turn.text for turn in example.turns]])
    turns = [
        [turn.role, [c if isinstance(c, str) else VISUALS.index(c.kind) for c in turn.content]]
        for turn in example.chat
    ]
    return CONVERSATION, _json(turns)


def _json(value: list) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def decode(
    kind: int, text: bytes, media: tuple[MediaSlice, ...], template: ChatTemplate
) -> EncodedExample:
    """Returns the example whose text was encoded.

    Args:
        kind: Kind from `encode`.
        text: Text from `encode`.
        media: Media of the example, in order.
        template: Chat template over the model's tokenizer.

    Raises:
        DataError: Text and media do not belong together.
    """
    try:
        values = parse_json(text)
        if kind == STREAM:
            return _decode_stream(*values, media, template)
        return _decode_chat(values, media, template)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, StopIteration) as error:
        raise DataError(f"the text stored for an example is damaged ({error!r:.80})") from error


def _decode_stream(
    prompt: str, texts: list[str], media: tuple[MediaSlice, ...], template: ChatTemplate
) -> EncodedExample:
    num_frames = len(media[0].indices)
    turns, first = [], 0
    for number, text in enumerate(texts):
        # Only an opening that is the whole clip may be shorter than six frames.
        count = min(TURN_FRAMES if number else OPENING_FRAMES, num_frames - first)
        turns.append(Turn(*turn_span(number), first, count, text))
        first += count
    if first != num_frames:
        raise ValueError(f"{num_frames} frames for {len(texts)} turns")
    chat = stream_conversation(turns, media[0].rows_cols, prompt)
    return EncodedExample(template.conversation(chat), media, tuple(turns), prompt)


def _decode_chat(values: list, media: tuple[MediaSlice, ...], template: ChatTemplate) -> EncodedExample:
    remaining = iter(media)

    def item(content: str | int) -> str | Visual:
        if isinstance(content, str):
            return content
        visual = next(remaining)
        return Visual(VISUALS[content], visual.grid, visual.pair_seconds)

    chat = tuple(ChatTurn(role, tuple([item(c) for c in content])) for role, content in values)
    return EncodedExample(template.conversation(chat), media, chat=chat)
