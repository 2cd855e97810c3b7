"""What an index holds of an example's text, and the example made from it again, token for token.

Tokens are not stored: the text and the grids of the media give them back, in a tenth of the space.
"""

from __future__ import annotations

import json

from livecc_jax.data.examples.example import ExamplePlan, MediaPlan
from livecc_jax.data.index.columns import CONVERSATION, STREAM
from livecc_jax.errors import DataError
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual, stream_conversation
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, Turn, turn_span

VISUALS = ("video", "image")


def pack(plan: ExamplePlan) -> tuple[int, bytes]:
    """Kind and text of a plan.

    A streaming example is `[prompt, [what each turn says]]`, any other `[[role, [content]]]`, in which
    the number 0 stands for the next video and 1 for the next image.
    """
    if plan.turns:
        return STREAM, _json([plan.prompt, [turn.text for turn in plan.turns]])
    turns = [
        [turn.role, [c if isinstance(c, str) else VISUALS.index(c.kind) for c in turn.content]]
        for turn in plan.chat
    ]
    return CONVERSATION, _json(turns)


def _json(value: list) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(kind: int, text: bytes, media: tuple[MediaPlan, ...], template: ChatTemplate) -> ExamplePlan:
    """The plan whose text was packed.

    Args:
        kind: from `pack`.
        text: from `pack`.
        media: of the example, in order.
        template: of the model's tokenizer.

    Raises DataError when text and media do not belong together.
    """
    try:
        values = json.loads(text)
        return _stream(*values, media, template) if kind == STREAM else _chat(values, media, template)
    except (ValueError, TypeError, IndexError, StopIteration) as error:
        raise DataError(f"the text stored for an example is damaged ({error!r:.80})") from error


def _stream(
    prompt: str, said: list[str], media: tuple[MediaPlan, ...], template: ChatTemplate
) -> ExamplePlan:
    frames = len(media[0].frames)
    turns, first = [], 0
    for number, text in enumerate(said):
        # Only an opening that is the whole clip may be shorter than six frames.
        count = min(TURN_FRAMES if number else OPENING_FRAMES, frames - first)
        turns.append(Turn(*turn_span(number), first, count, text))
        first += count
    if first != frames:
        raise ValueError(f"{frames} frames for {len(said)} turns")
    chat = stream_conversation(turns, media[0].rows_cols, prompt)
    return ExamplePlan(template.conversation(chat), media, tuple(turns), prompt)


def _chat(values: list, media: tuple[MediaPlan, ...], template: ChatTemplate) -> ExamplePlan:
    left = iter(media)

    def item(content: str | int) -> str | Visual:
        if isinstance(content, str):
            return content
        shown = next(left)
        return Visual(VISUALS[content], (shown.pairs, *shown.rows_cols))

    chat = tuple(ChatTurn(role, tuple([item(c) for c in content])) for role, content in values)
    return ExamplePlan(template.conversation(chat), media, chat=chat)
