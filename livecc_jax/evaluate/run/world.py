"""Comment on the clips of a synthetic world in a run folder that can be resumed, baselines included."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.media_slice import frame_size
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import LiveCCError
from livecc_jax.evaluate.metrics.commentary import PredictedTurn
from livecc_jax.evaluate.metrics.world_clips import WorldClip
from livecc_jax.evaluate.run.batched_commentary import (
    StreamedClip,
    comment_clips,
    comment_without_memory,
)
from livecc_jax.evaluate.run.prefetch import prefetch
from livecc_jax.evaluate.run.run_folder import (
    EvaluationProgress,
    all_answers,
    answers_path,
    append_lines,
    write_lines,
)
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.gaps import sample_moments
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.stream.model import StreamModel
from livecc_jax.timeline.turns import OPENING_FRAMES

log = logging.getLogger(__name__)

GREY = 128


def comment_world(
    model: StreamModel,
    clips: Sequence[WorldClip],
    folder: Path,
    budget: PixelBudget,
    options: StreamOptions,
    batch: int,
    *,
    memory_frames: int | None = None,
    grey: bool = False,
    shard: tuple[int, int] = (0, 1),
    rules: MediaRules = DEFAULT,
    on_progress: Callable[[EvaluationProgress, int], None] = lambda progress, total: None,
) -> EvaluationProgress:
    """Comments on the clips that have no commentary in the run folder yet.

    Frames, labels and prompts are those of training: strictly two frames a second.

    Args:
        model: Model that comments.
        clips: The clips.
        folder: Run folder.
        budget: Pixels of a frame.
        options: Decoding options.
        batch: Number of clips that are streamed together.
        memory_frames: For the baseline without memory: how many of the latest frames a turn sees.
        grey: Whether all pictures are grey: a baseline that knows the words alone.
        shard: (index, count) of this process among those that divide the clips of the run.
        rules: How videos are read.
        on_progress: Called after each batch with the progress, and the number of clips of this shard.
    """
    answers = all_answers(folder)
    ours = clips[shard[0] :: shard[1]]
    todo = [c for c in ours if "turns" not in answers.get(c.id, {})]
    progress = EvaluationProgress(already_answered=len(ours) - len(todo))
    began = time.perf_counter()
    groups = [todo[i : i + batch] for i in range(0, len(todo), batch)]
    with append_lines(answers_path(folder, shard)) as file:
        for group, future in prefetch(groups, lambda g: _load_all(g, budget, rules)):
            loaded, lines = future.result()
            if grey:
                loaded = [dataclasses.replace(c, frames=np.full_like(c.frames, GREY)) for c in loaded]
            if memory_frames is None:
                said = comment_clips(model, loaded, options, batch)
            else:
                said = comment_without_memory(model, loaded, options, batch, memory_frames)
            by_id = {clip.id: clip for clip in group}
            lines += [prediction_line(by_id[name], turns) for name, turns in said.items()]
            write_lines(file, lines)
            progress.answered += len(said)
            progress.failed += len(group) - len(said)
            progress.videos += len(group)
            progress.seconds = time.perf_counter() - began
            on_progress(progress, len(ours))
    return progress


def clip_frames(clip: WorldClip, budget: PixelBudget, rules: MediaRules = DEFAULT) -> np.ndarray:
    """Returns the frames of a clip as training samples them, uint8 [F, h, w, 3], F even.

    Raises:
        MediaError: The video cannot be read.
    """
    span, files = clip.example.clip, MediaFiles(rules=rules)
    info = files.video_info(span)
    frames, times_us = sample_moments(info, span.start_us, span.end_us)
    height, width = frame_size(span.path, info.height, info.width, len(frames), budget)
    media = MediaSlice(info, frames, times_us, height, width, budget.patch)
    return media.load_frames(files)


def _load_all(
    clips: Sequence[WorldClip], budget: PixelBudget, rules: MediaRules
) -> tuple[list[StreamedClip], list[dict[str, Any]]]:
    """Returns the clips that can be read, and a line with an error for each other one."""
    loaded, lines = [], []
    for clip in clips:
        try:
            frames = clip_frames(clip, budget, rules)
            if len(frames) < OPENING_FRAMES:
                raise LiveCCError(f"{clip.id}: is shorter than three seconds")
            start_us = clip.facts.reference.start_us
            loaded.append(StreamedClip(clip.id, frames, clip.prompt, start_us))
        except LiveCCError as error:
            log.warning("%s", error)
            lines.append({"id": clip.id, "error": str(error)})
    return loaded, lines


def prediction_line(clip: WorldClip, turns: Sequence[PredictedTurn]) -> dict[str, Any]:
    """Returns a prediction as `read_predictions` reads it."""
    reference = clip.facts.reference
    return {
        "id": clip.id,
        "video_id": Path(reference.video).stem,
        "video_start": reference.start_us / 1e6,
        "video_end": reference.end_us / 1e6,
        "turns": [{"start": t.start_us / 1e6, "stop": t.stop_us / 1e6, "text": t.text} for t in turns],
    }
