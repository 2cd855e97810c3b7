"""Evaluate commentary during training: clips are streamed with the current parameters and scored.

Every process copies the weights to one of its devices and comments on its share of the clips, so
processes do not wait for each other within a turn; they synchronize when all clips are done.
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
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import DataError, ExampleError, LiveCCError
from livecc_jax.evaluate.benchmarks.livesports_cc import event_prompt, read_events
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.metrics.baselines import BASELINES
from livecc_jax.evaluate.metrics.commentary import (
    ClipCounts,
    PredictedTurn,
    Reference,
    count_clip,
)
from livecc_jax.evaluate.metrics.commentary_metrics import compute_metrics
from livecc_jax.evaluate.metrics.commentary_score import PREDICTION, unbeaten_baselines
from livecc_jax.evaluate.metrics.perplexity import teacher_forced_from_json
from livecc_jax.evaluate.metrics.references import read_references, reference_from_example
from livecc_jax.evaluate.run.commentary import score_reference, stream_frames
from livecc_jax.evaluate.run.prefetch import prefetch
from livecc_jax.evaluate.run.sampled_video import sample_frames
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.lora import LORA, merge_adapter
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.parallel.processes import gather_json, wait_for_all_processes
from livecc_jax.stream.model import StreamModel
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.example import StreamExample, seconds_to_us
from livecc_jax.timeline.turns import stream_prompt
from livecc_jax.train.config import ComputeConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommentaryClip:
    """A clip to comment on.

    Attributes:
        reference: The transcript of the clip.
        source: The video, or the span of it.
        prompt: Text of the first turn.
    """

    reference: Reference
    source: VideoSource
    prompt: str


def read_commentary_clips(
    path: str, max_clips: int, media_root: MediaRoot | None = None
) -> list[CommentaryClip]:
    """Reads clips, evenly spread over an annotation file.

    Args:
        path: Streaming annotations, whose prompts are those of training, or the CC file of
            LiveSports-3K, whose prompts have the instruct query.
        max_clips: Maximum number of clips.
        media_root: Confines the videos; a clip of another one is not commented on.

    Raises:
        DataError: The file has no clip with a transcript.
    """
    clips = []
    if Path(path).suffix == ".json":
        references = read_references(path)
        for event in read_events(path, media_root).events:
            if event.id in references:
                prompt = event_prompt(event, "instruct")
                clips.append(CommentaryClip(references[event.id], event.source, prompt))
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
                source = VideoSource(
                    example.clip.path, reference.start_us, reference.end_us, media_root=media_root
                )
                prompt = stream_prompt(example.query, example.title, example.previous)
                clips.append(CommentaryClip(reference, source, prompt))
    if not clips:
        raise DataError(f"{path}: holds no clip to comment on")
    selected = np.linspace(0, len(clips) - 1, min(max_clips, len(clips))).round().astype(int)
    return [clips[i] for i in np.unique(selected)]


class ClipCommentaryEvaluator:
    """Comments on the same clips at every evaluation of a training run, and scores the commentary.

    All processes construct and call it at the same time.

    Args:
        annotations: Streaming annotations, or the CC file of LiveSports-3K.
        max_clips: Maximum number of clips.
        budget: Pixels a frame.
        model: Architecture of the model.
        compute: Settings of training: the dtype of weights and cache, and the scale of adapters.
        tokenizer: Tokenizer of the model.
        options: Decoding options.
        mesh: Mesh of the run.
        rules: How videos are read.
        media_root: Confines the videos.

    Raises:
        DataError: There is no clip.
    """

    def __init__(
        self,
        annotations: str,
        max_clips: int,
        budget: PixelBudget,
        model: ModelConfig,
        compute: ComputeConfig,
        tokenizer: Tokenizer,
        options: StreamOptions,
        mesh: Mesh,
        rules: MediaRules = DEFAULT,
        media_root: MediaRoot | None = None,
    ) -> None:
        self._rules = rules
        self._annotations = annotations
        self._clips = read_commentary_clips(annotations, max_clips, media_root)
        self._budget, self._model, self._compute = budget, model, compute
        self._tokenizer, self._options, self._mesh = tokenizer, options, mesh
        self._device = jax.local_devices()[0]
        self._single_device_mesh = make_mesh(MeshConfig(devices=1), [self._device])
        self._barrier_numbers = itertools.count()

    def __call__(self, params: Params, poll: Callable[[], bool]) -> dict[str, float] | None:
        """Comments on the clips.

        Args:
            params: Parameters of the model, sharded over the mesh.
            poll: Called equally often in every process; if it returns True, the evaluation stops.

        Returns:
            Every metric of commentary by a short name, in its unit; `clips`, the number of clips that
            were commented on; `not_beaten`, in how many comparisons a baseline is as good. None if the
            evaluation was stopped.
        """
        host_params = fetch_merged_params(params, self._mesh, self._compute)
        process, processes = jax.process_index(), jax.process_count()
        clip_numbers = range(process, len(self._clips), processes)
        rounds = -(-len(self._clips) // processes)
        predictions: dict[int, dict[str, Any]] = {}
        with jax.set_mesh(self._single_device_mesh), jax.default_device(self._device):
            model = StreamModel(self._model, host_params, self._tokenizer)
            del host_params
            futures = prefetch(
                clip_numbers,
                lambda i: sample_frames(self._clips[i].source, self._budget, rules=self._rules),
            )
            for _ in range(rounds):  # as many in all processes, so that all poll equally often
                for i, frames in itertools.islice(futures, 1):
                    clip = self._clips[i]
                    try:
                        predictions[i] = self._comment(model, clip, frames.result())
                    except LiveCCError as error:
                        log.warning("%s: is not commented on: %s", clip.reference.id, error)
                if poll():
                    return None
        wait_for_all_processes(f"commentary {next(self._barrier_numbers)}")
        return self._score(
            {int(i): p for of_process in gather_json(predictions) for i, p in of_process.items()}
        )

    def _comment(self, model: StreamModel, clip: CommentaryClip, frames: np.ndarray) -> dict[str, Any]:
        """Returns the turns of the commentary, and the cost of the transcript, as JSON."""
        clip_id, start_us = clip.reference.id, clip.reference.start_us
        turns = [
            (seconds_to_us(turn.start), seconds_to_us(turn.stop), turn.words)
            for turn in stream_frames(model, frames, self._options, clip.prompt, start_us, clip_id)
        ]
        # The cost may not be finite early in training; the commentary is scored all the same.
        teacher_forced = score_reference(model, frames, clip.reference, self._options, clip.prompt)
        return {"turns": turns, "forced": teacher_forced}

    def _score(self, predictions: dict[int, dict[str, Any]]) -> dict[str, float]:
        """Returns the metrics of all processes' predictions, which are given by number of clip."""
        counts: dict[str, list[ClipCounts]] = {name: [] for name in (PREDICTION, *BASELINES)}
        for i, prediction in sorted(predictions.items()):
            reference = self._clips[i].reference
            teacher_forced = (
                teacher_forced_from_json(prediction["forced"]) if prediction["forced"] else None
            )
            turns = [PredictedTurn(*turn) for turn in prediction["turns"]]
            counts[PREDICTION].append(count_clip(reference, turns, teacher_forced))
            for name, baseline in BASELINES.items():
                counts[name].append(count_clip(reference, baseline(reference)))
        metrics = {name: compute_metrics(clip_counts) for name, clip_counts in counts.items()}
        sentences = unbeaten_baselines(metrics)
        for sentence in sentences:
            log.info("%s: %s", self._annotations, sentence)
        scalars = {scalar_tag(k): v for k, v in metrics[PREDICTION].items()}
        return scalars | {"clips": float(len(predictions)), "not_beaten": float(len(sentences))}


def fetch_merged_params(params: Params, mesh: Mesh, compute: ComputeConfig) -> Params:
    """Returns the parameters as numpy arrays on this host, with LoRA adapters merged into them.

    They are fetched one at a time, so that no device holds a second copy of all. Every process must
    call this at the same time.

    Args:
        params: Parameters of the model, sharded over the mesh, with or without adapters.
        mesh: Mesh of the run.
        compute: Settings of training: the dtype of the result, and the scale of adapters.
    """
    dtype = jnp.dtype(compute.dtype)
    replicated = NamedSharding(mesh, PartitionSpec())
    fetch = jax.jit(lambda x: x.astype(dtype), out_shardings=replicated)
    flat = traverse_util.flatten_dict(params, sep="/")
    adapters = {k: v for k, v in flat.items() if k.startswith(f"{LORA}/")}

    @functools.partial(jax.jit, out_shardings=replicated)
    def merge(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        merge_layer = functools.partial(merge_adapter, scale=compute.lora.scale)
        return jax.vmap(merge_layer)(kernel, a, b).astype(dtype)

    fetched = {}
    for path, x in flat.items():
        if path in adapters:
            continue
        adapter = f"{LORA}/{path.removesuffix('/kernel')}"
        ab = [adapters[f"{adapter}/{name}"] for name in "ab" if f"{adapter}/{name}" in adapters]
        merged_x = merge(x, *ab) if ab and path.endswith("/kernel") else fetch(x)
        fetched[path] = np.asarray(merged_x.addressable_data(0))
    return traverse_util.unflatten_dict(fetched, sep="/")


def scalar_tag(name: str) -> str:
    """Returns the name of a metric with the characters that TensorBoard accepts in a tag."""
    return re.sub(r"[^\w]+", "_", name.replace("'s", "")).strip("_")
