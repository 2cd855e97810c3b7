"""Commentary while training: some clips streamed with the parameters as they are, and scored.

Every process takes a copy of the weights to one of its devices and comments on its share of the clips,
so nothing is waited for within a turn, and processes meet again when all clips are done.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import DataError, ExampleError, LiveCCError
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswers
from livecc_jax.evaluate.metrics.baselines import BASELINES
from livecc_jax.evaluate.metrics.commentary import (
    ClipCounts,
    PredictedTurn,
    Reference,
    compute_metrics,
    count_clip,
)
from livecc_jax.evaluate.metrics.commentary_score import (
    PREDICTION,
    CommentaryScore,
    read_references,
    reference_from_example,
    unbeaten_baselines,
)
from livecc_jax.evaluate.metrics.perplexity import teacher_forced_from_json, teacher_forced_to_json
from livecc_jax.evaluate.run.commentary import event_prompt, read_events
from livecc_jax.evaluate.run.run_folder import prefetch
from livecc_jax.evaluate.run.sampled_video import sample_frames
from livecc_jax.evaluate.run.teacher_forced import teacher_force
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.lora import LORA, merged
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.parallel.processes import gather, wait_for_all
from livecc_jax.stream.session import ContextFull, Session, StreamModel
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.example import StreamExample, microseconds
from livecc_jax.timeline.turns import stream_prompt, turns_of
from livecc_jax.train.config import ComputeConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommentaryClip:
    """A transcript, where its frames are, and the first turn's text."""

    reference: Reference
    source: VideoSource
    prompt: str


def read_commentary_clips(path: str, most: int) -> list[CommentaryClip]:
    """Clips of streaming annotations, with the prompt of training, or of LiveSports-3K's CC file, with
    the instruct query; at most so many, evenly spread over the file.

    Raises DataError when there is none.
    """
    found = []
    if Path(path).suffix == ".json":
        references = read_references(path)
        for event in read_events(path).events:
            if event.id in references:
                prompt = event_prompt(event, "instruct")
                found.append(CommentaryClip(references[event.id], event.source, prompt))
    else:
        file = AnnotationFile(path)
        for i in range(len(file)):
            try:
                example = file[i]
            except ExampleError as error:
                log.warning("%s", error)
                continue
            if isinstance(example, StreamExample) and example.words:
                reference = reference_from_example(example)
                source = VideoSource(example.clip.path, reference.start_us, reference.end_us)
                prompt = stream_prompt(example.query, example.title, example.previous)
                found.append(CommentaryClip(reference, source, prompt))
    if not found:
        raise DataError(f"{path}: holds no clip to comment on")
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    return [found[i] for i in chosen]


class ClipCommentaryEvaluation:
    """The same clips, commented on at every examination.

    All processes make one and call it together.

    Args:
        annotations: streaming annotations, or LiveSports-3K's CC file.
        most: clips at most.
        budget: pixels a frame.
        model: the architecture.
        compute: as in training: the dtype of weights and cache, and the adapters' scale.
        tokenizer: the model's.
        options: decoding.
        mesh: of the run.

    Raises DataError when there is no clip.
    """

    def __init__(
        self,
        annotations: str,
        most: int,
        budget: PixelBudget,
        model: ModelConfig,
        compute: ComputeConfig,
        tokenizer: Tokenizer,
        options: StreamOptions,
        mesh: Mesh,
    ) -> None:
        self._file, self._clips = annotations, read_commentary_clips(annotations, most)
        self._budget, self._model, self._dtype = budget, model, jnp.dtype(compute.dtype)
        self._scale = compute.lora.scale
        self._tokenizer, self._options, self._mesh = tokenizer, options, mesh
        self._device = jax.local_devices()[0]
        self._alone = make_mesh(MeshConfig(devices=1), [self._device])
        self._times = itertools.count()

    def __call__(self, params: Params, poll: Callable[[], bool]) -> dict[str, float] | None:
        """Comment on them all.

        Args:
            params: of the model, on the mesh.
            poll: asked as often in every process; true ends the examination.

        Returns:
            Every metric of `evaluate.metrics.commentary` by a short name, in its unit; `clips`, how many
            could be commented on; `unbeaten_baselines`, in how many comparisons a baseline does as well. None when it
            was ended.
        """
        whole = self._fetched(params)
        number, count = jax.process_index(), jax.process_count()
        mine, rounds = range(number, len(self._clips), count), -(-len(self._clips) // count)
        rows: dict[int, dict[str, Any]] = {}
        with jax.set_mesh(self._alone), jax.default_device(self._device):
            model = StreamModel(self._model, whole, self._tokenizer)
            del whole
            loads = prefetch(mine, lambda i: sample_frames(self._clips[i].source, self._budget))
            for _ in range(rounds):  # as many in all processes, so that all poll equally often
                for i, frames in itertools.islice(loads, 1):
                    clip = self._clips[i]
                    try:
                        rows[i] = self._comment(model, clip, frames.result())
                    except LiveCCError as error:
                        log.warning("%s: is not commented on: %s", clip.reference.id, error)
                if poll():
                    return None
        wait_for_all(f"commentary {next(self._times)}")
        return self._told({int(i): row for theirs in gather(rows) for i, row in theirs.items()})

    def _fetched(self, params: Params) -> Params:
        """The weights on this host with what adapters add, a parameter at a time. Every process must
        call it."""
        whole = NamedSharding(self._mesh, PartitionSpec())
        fetch = jax.jit(lambda x: x.astype(self._dtype), out_shardings=whole)
        flat = traverse_util.flatten_dict(params, sep="/")
        adapters = {k: v for k, v in flat.items() if k.startswith(f"{LORA}/")}

        @functools.partial(jax.jit, out_shardings=whole)
        def adapted(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
            add = functools.partial(merged, scale=self._scale)
            return jax.vmap(add)(kernel, a, b).astype(self._dtype)

        fetched = {}
        for path, x in flat.items():
            if path in adapters:
                continue
            own = f"{LORA}/{path.removesuffix('/kernel')}"
            ab = [adapters[f"{own}/{name}"] for name in "ab" if f"{own}/{name}" in adapters]
            given = adapted(x, *ab) if ab and path.endswith("/kernel") else fetch(x)
            fetched[path] = np.asarray(given.addressable_data(0))
        return traverse_util.unflatten_dict(fetched, sep="/")

    def _comment(self, model: StreamModel, clip: CommentaryClip, frames: np.ndarray) -> dict[str, Any]:
        """A prediction as `evaluate.metrics.commentary_score` reads it, and what the transcript costs."""
        options, start = self._options, clip.reference.start_us
        session = Session(model, options, clip.prompt, offset_us=start)
        turns = []
        shown = turns_of(frames)
        for turn, following in itertools.zip_longest(shown, shown[1:]):
            try:
                said = session.push(turn, following)
            except ContextFull as error:
                log.warning("%s: the commentary ends early: %s", clip.reference.id, error)
                break
            turns.append((microseconds(said.start), microseconds(said.stop), said.words))
        context = options.context
        forced = teacher_force(model, frames, clip.reference, clip.prompt, options.positions, context)
        # Half-trained weights may give no number; the commentary is scored all the same.
        finite = all(np.isfinite(t.nats) for t in forced.turns)
        return {"turns": turns, "forced": teacher_forced_to_json(forced) if finite else None}

    def _told(self, rows: dict[int, dict[str, Any]]) -> dict[str, float]:
        """Figures of all processes' predictions, by clip."""
        counts: dict[str, list[ClipCounts]] = {name: [] for name in (PREDICTION, *BASELINES)}
        for i, row in sorted(rows.items()):
            reference = self._clips[i].reference
            forced = teacher_forced_from_json(row["forced"]) if row["forced"] else None
            turns = [PredictedTurn(*turn) for turn in row["turns"]]
            counts[PREDICTION].append(count_clip(reference, turns, forced))
            for name, speak in BASELINES.items():
                counts[name].append(count_clip(reference, speak(reference)))
        metrics = {name: compute_metrics(found) for name, found in counts.items()}
        left = unbeaten_baselines(CommentaryScore(self._file, ScoredAnswers(), counts, metrics))
        for sentence in left:
            log.info("%s: %s", self._file, sentence)
        figures = {scalar_tag(k): v for k, v in metrics[PREDICTION].items()}
        return figures | {"clips": float(len(rows)), "not_beaten": float(len(left))}


def scalar_tag(name: str) -> str:
    """A metric's name as boards of scalars take it."""
    return re.sub(r"[^\w]+", "_", name.replace("'s", "")).strip("_")
