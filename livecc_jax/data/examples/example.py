"""One example, planned: which frames it shows, its tokens, and how much of a row it takes.

Indexing, row building and `livecc inspect` all ask here, so what was counted is what is built.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.files.timing import count, part
from livecc_jax.errors import ExampleError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import Resizer, cut
from livecc_jax.media.sampling import sample_strict, sample_uniform
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.chat import (
    ChatTemplate,
    ChatTurn,
    Encoded,
    Visual,
    stream_conversation,
)
from livecc_jax.timeline.example import ChatExample, Clip, Example, Picture, StreamExample
from livecc_jax.timeline.turns import Turn, plan_turns, stream_prompt

PATCH = 14
FORMATS = (
    "stream",
    "caption",
)  # of a clip with timed words: said second by second, or after all frames


@dataclass(frozen=True)
class MediaPlan:
    """What is shown of one file.

    times_us int64 [F] are the frames' times in the file, F even (an image has none, and is shown as a
    pair of itself); height and width in pixels after resizing.
    """

    source: VideoInfo | str
    frames: np.ndarray
    times_us: np.ndarray
    height: int
    width: int

    @property
    def pairs(self) -> int:
        """Frame pairs."""
        return len(self.frames) // 2 if isinstance(self.source, VideoInfo) else 1

    @property
    def patches_per_pair(self) -> int:
        """Patches in one frame pair."""
        return (self.height // PATCH) * (self.width // PATCH)

    @property
    def rows_cols(self) -> tuple[int, int]:
        """Patches of a frame, vertically and horizontally."""
        return self.height // PATCH, self.width // PATCH

    def windows(self, size: int) -> int:
        """Windows of `size` patches that hold it, each whole frame pairs."""
        return -(-self.pairs // (size // self.patches_per_pair))

    def load(self, files: MediaFiles | None = None) -> np.ndarray:
        """Decode, resize, cut: uint8 [pairs, patches_per_pair, 1176].

        Args:
            files: where videos and images are read; without it, directly.

        Raises MediaError when the file cannot be read.
        """
        files = files or FILES
        if isinstance(self.source, VideoInfo):
            frames = iter(files.frames(self.source, self.frames))
        else:
            with part("decode"):
                frames = iter([files.image(self.source)] * 2)
        patches = np.empty((self.pairs, self.patches_per_pair, 2 * 3 * PATCH * PATCH), np.uint8)
        pair = np.empty((2, 3, self.height, self.width), np.uint8)
        before, resizer = None, None
        # Pair by pair, as `media.clip.clip_patches` does it, so that a clip's frames are never held.
        for i in range(2 * self.pairs):
            with part("decode"):
                frame = next(frames)
            with part("resize"):
                if frame is before:
                    pair[i % 2] = pair[(i + 1) % 2]
                else:
                    if resizer is None or resizer.old != frame.shape[:2]:
                        resizer = Resizer(frame.shape[:2], (self.height, self.width))
                    resizer(frame, pair[i % 2])
            before = frame
            if i % 2:
                with part("patchify"):
                    cut(pair, patches[i // 2])
        count("frames", 2 * self.pairs)
        return patches


@dataclass(frozen=True)
class ExamplePlan:
    """An example as the model will see it.

    encoded: tokens, supervision, grids; media: in the order of their tokens; turns: of a streaming
    example, else empty; prompt: the text after its first video; chat: the conversation of any other
    example; counted: tokens and targets of one that was only to be counted, whose `encoded` is empty.
    """

    encoded: Encoded
    media: tuple[MediaPlan, ...]
    turns: tuple[Turn, ...] = ()
    prompt: str = ""
    chat: tuple[ChatTurn, ...] = ()
    counted: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        """Tokens it takes of a row."""
        return self.counted[0] if self.counted else len(self.encoded.tokens)

    @property
    def targets(self) -> int:
        """Supervised tokens."""
        return self.counted[1] if self.counted else int(self.encoded.supervised.sum())

    def windows(self, size: int) -> int:
        """Vision windows it takes of a row, in windows of `size` patches."""
        return sum(m.windows(size) for m in self.media)

    @property
    def frame_times_us(self) -> np.ndarray:
        """int64 [F], all frames shown."""
        return np.concatenate([np.zeros(0, np.int64), *(m.times_us for m in self.media)])


FILES = MediaFiles()


def plan_example(
    example: Example,
    template: ChatTemplate,
    budget: PixelBudget,
    context: bool = True,
    *,
    form: str = "stream",
    files: MediaFiles = FILES,
    count: bool = False,
) -> ExamplePlan:
    """Plan one example: of videos only the timestamps are read, of images the size.

    Args:
        example: parsed annotation.
        template: of the model's tokenizer.
        budget: pixels a frame.
        context: whether title or previous commentary is shown.
        form: one of FORMATS, for clips with timed words.
        files: where videos and images are looked at.
        count: only count; `encoded` stays empty.

    Raises:
        ExampleError: too short, silent, words out of order, nothing supervised.
        MediaError: a file cannot be read.
    """
    if isinstance(example, StreamExample):
        plan = _plan_stream(example, budget, context, form, files)
    else:
        plan = _plan_chat(example, budget, files)
    if plan.turns:
        spoken = plan.turns, plan.media[0].rows_cols, plan.prompt
        if count:
            plan = dataclasses.replace(plan, counted=template.count_stream(*spoken))
        else:
            encoded = template.conversation(stream_conversation(*spoken))
            plan = dataclasses.replace(plan, encoded=encoded)
    elif count:
        plan = dataclasses.replace(plan, counted=template.count(plan.chat))
    else:
        plan = dataclasses.replace(plan, encoded=template.conversation(plan.chat))
    if not plan.targets:
        raise ExampleError("no token is supervised")
    return plan


NOTHING = Encoded(*(np.zeros(0, np.int32) for _ in range(4)))


def _plan_stream(
    example: StreamExample, budget: PixelBudget, context: bool, form: str, files: MediaFiles
) -> ExamplePlan:
    """A plan without tokens."""
    clip = example.clip
    info = files.video(clip)
    frames = sample_strict(info.frame_times_us, clip.start_us, clip.end_us)
    times = info.frame_times_us[frames]
    turns = plan_turns(times, example.words)
    # The whole clip sets the size, its silent end included: that is how a budget is spent.
    height, width = frame_size(clip.path, info.height, info.width, len(frames), budget)
    shown = len(frames) if form == "caption" else turns[-1].first_frame + turns[-1].num_frames
    media = MediaPlan(info, frames[:shown], times[:shown], height, width)
    prompt = stream_prompt(example.query, example.title, example.previous, context)
    if form == "caption":
        caption = " ".join(turn.text for turn in turns if turn.text)
        asked = (Visual("video", (media.pairs, *media.rows_cols)), *([prompt] if prompt else []))
        chat = (ChatTurn("user", asked), ChatTurn("assistant", (caption,)))
        return ExamplePlan(NOTHING, (media,), chat=chat)
    return ExamplePlan(NOTHING, (media,), tuple(turns), prompt)


def _plan_chat(example: ChatExample, budget: PixelBudget, files: MediaFiles) -> ExamplePlan:
    """A plan without tokens."""
    media: list[MediaPlan] = []

    def visual(item: Clip | Picture) -> Visual:
        is_clip = isinstance(item, Clip)
        plan = _plan_clip(item, budget, files) if is_clip else _plan_picture(item, budget, files)
        media.append(plan)
        return Visual("video" if is_clip else "image", (plan.pairs, *plan.rows_cols))

    chat = tuple(
        ChatTurn(m.role, tuple(c if isinstance(c, str) else visual(c) for c in m.content))
        for m in example.messages
    )
    return ExamplePlan(NOTHING, tuple(media), chat=chat)


def _plan_clip(clip: Clip, budget: PixelBudget, files: MediaFiles) -> MediaPlan:
    info = files.video(clip)
    times = info.frame_times_us
    inside = np.flatnonzero(
        (times >= (clip.start_us if clip.start_us is not None else times[0]))
        & (times <= (clip.end_us if clip.end_us is not None else times[-1]))
    )
    if not len(inside):
        raise ExampleError(f"{clip.path}: has no frame in the clip's span")
    duration = int(times[inside[-1]] - times[inside[0]]) + info.frame_duration_us
    frames = inside[sample_uniform(len(inside), duration)]
    height, width = frame_size(clip.path, info.height, info.width, len(frames), budget)
    return MediaPlan(info, frames, times[frames], height, width)


def _plan_picture(picture: Picture, budget: PixelBudget, files: MediaFiles) -> MediaPlan:
    height, width = frame_size(picture.path, *files.picture(picture), 2, budget)
    none = np.zeros(0, np.int64)
    return MediaPlan(picture.path, none, none, height, width)


def frame_size(path: str, height: int, width: int, frames: int, budget: PixelBudget) -> tuple[int, int]:
    """The budget's size, which must fit a window: a very long, thin picture may not."""
    try:
        fitted = budget.size(height, width, frames)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
    if (fitted[0] // PATCH) * (fitted[1] // PATCH) > budget.max_pair_patches:
        raise MediaError(f"{path}: {width}x{height} is too long and thin for pixel budget {budget}")
    return fitted
