"""Encodes one example: which frames it shows, its tokens, and how much of a packed row it fills.

Indexing, row building and `livecc inspect` all use this, so the sizes that the index counts are the
sizes that are built.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.media_slice import frame_size, slice_clip, slice_image
from livecc_jax.errors import ExampleError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.gaps import sample_moments
from livecc_jax.timeline.chat import (
    ChatTemplate,
    ChatTurn,
    EncodedChat,
    Visual,
    stream_conversation,
)
from livecc_jax.timeline.example import ChatExample, Example, ImageFile, StreamExample, VideoClip
from livecc_jax.timeline.turns import Turn, build_turns, stream_prompt

FORMS = ("stream", "caption")  # a clip's words: in the turn of their second, or after all frames
NO_TOKENS = EncodedChat(*(np.zeros(0, np.int32) for _ in range(4)))


@dataclass(frozen=True)
class EncodedExample:
    """An example as the model will see it.

    Attributes:
        encoded: Tokens, supervision and grids; empty when only counts were asked for.
        media: Media files shown, in the order of their tokens.
        turns: Turns of a streaming example; empty for other examples.
        prompt: Text after the first video of a streaming example.
        chat: Conversation of an example that is not streaming.
        counts: Numbers of tokens and supervised tokens, when only counts were asked for.
    """

    encoded: EncodedChat
    media: tuple[MediaSlice, ...]
    turns: tuple[Turn, ...] = ()
    prompt: str = ""
    chat: tuple[ChatTurn, ...] = ()
    counts: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        """Number of tokens that the example fills in a row."""
        return self.counts[0] if self.counts else len(self.encoded.tokens)

    @property
    def targets(self) -> int:
        """Number of supervised tokens."""
        return self.counts[1] if self.counts else int(self.encoded.supervised.sum())

    def windows(self, size: int) -> int:
        """Number of vision windows of `size` patches that the example fills in a row."""
        return sum(m.windows(size) for m in self.media)

    @property
    def frame_times_us(self) -> np.ndarray:
        """int64 [F], times of all frames shown, in microseconds."""
        return np.concatenate([np.zeros(0, np.int64), *(m.times_us for m in self.media)])


def encode_example(
    example: Example,
    template: ChatTemplate,
    budget: PixelBudget,
    context: bool = True,
    *,
    form: str = "stream",
    files: MediaFiles | None = None,
    count_only: bool = False,
    silent_tail: int = 0,
) -> EncodedExample:
    """Encodes one example. Only timestamps are read from videos, and only the size from images.

    Args:
        example: Parsed annotation.
        template: Chat template over the model's tokenizer.
        budget: Pixel budget of a frame.
        context: Whether the title or the previous commentary is shown.
        form: One of FORMATS, for clips with timed words.
        files: Reads videos and images; by default they are read directly.
        count_only: Whether to count tokens without producing them; `encoded` then stays empty.
        silent_tail: Number of silent turns at the end of a streaming example that are kept.

    Raises:
        ExampleError: The example is too short, silent, has its words out of order, or supervises
            nothing.
        MediaError: A file cannot be read.
    """
    files = files or MediaFiles()
    if isinstance(example, StreamExample):
        unencoded = _select_stream(example, budget, context, form, files, silent_tail)
    else:
        unencoded = _select_chat(example, budget, files)
    turns, chat = unencoded.turns, unencoded.chat
    if turns:
        stream = turns, unencoded.media[0].rows_cols, unencoded.prompt
        if count_only:
            result = dataclasses.replace(unencoded, counts=template.count_stream(*stream))
        else:
            encoded = template.conversation(stream_conversation(*stream))
            result = dataclasses.replace(unencoded, encoded=encoded)
    elif count_only:
        result = dataclasses.replace(unencoded, counts=template.count(chat))
    else:
        result = dataclasses.replace(unencoded, encoded=template.conversation(chat))
    if not result.targets:
        raise ExampleError("no token is supervised")
    return result


def _select_stream(
    example: StreamExample,
    budget: PixelBudget,
    context: bool,
    form: str,
    files: MediaFiles,
    silent_tail: int,
) -> EncodedExample:
    """Selects frames and turns of a streaming example; nothing is tokenized yet."""
    clip = example.clip
    info = files.video_info(clip)
    frames, times_us = sample_moments(info, clip.start_us, clip.end_us)
    turns = build_turns(times_us, example.words, silent_tail)
    # The whole clip sets the size, its silent end included: that is how a budget is spent.
    height, width = frame_size(clip.path, info.height, info.width, len(frames), budget)
    num_frames = len(frames) if form == "caption" else turns[-1].first_frame + turns[-1].num_frames
    shown = frames[:num_frames], times_us[:num_frames]
    media = MediaSlice(info, *shown, height, width, budget.patch)
    prompt = stream_prompt(example.query, example.title, example.previous, context)
    if form == "caption":
        caption = " ".join(turn.text for turn in turns if turn.text)
        video = Visual("video", media.grid, media.pair_seconds)
        question = (video, *([prompt] if prompt else []))
        chat = (ChatTurn("user", question), ChatTurn("assistant", (caption,)))
        return EncodedExample(NO_TOKENS, (media,), chat=chat)
    return EncodedExample(NO_TOKENS, (media,), tuple(turns), prompt)


def _select_chat(example: ChatExample, budget: PixelBudget, files: MediaFiles) -> EncodedExample:
    """Selects the frames of a conversation; nothing is tokenized yet."""
    media: list[MediaSlice] = []

    def visual(item: VideoClip | ImageFile) -> Visual:
        is_clip = isinstance(item, VideoClip)
        media.append(slice_clip(item, budget, files) if is_clip else slice_image(item, budget, files))
        return Visual("video" if is_clip else "image", media[-1].grid, media[-1].pair_seconds)

    chat = tuple(
        ChatTurn(m.role, tuple(c if isinstance(c, str) else visual(c) for c in m.content))
        for m in example.messages
    )
    return EncodedExample(NO_TOKENS, tuple(media), chat=chat)
