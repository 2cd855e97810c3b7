"""Multiple choice while training: questions packed into rows, through the training forward on its mesh.

A question is an example whose one target is its answer. So it takes no second copy of the weights, and
any mesh that trains a model can examine it. (`evaluate.run.choice` is faster for whole benchmarks: there
a video costs once for all its questions.)
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.data.examples.example import ExamplePlan, MediaPlan
from livecc_jax.data.rows.packing import PackPlan, RowShape, plan_rows
from livecc_jax.data.rows.row import Row, build_row
from livecc_jax.errors import DataError, LiveCCError
from livecc_jax.evaluate.benchmarks.annotations import PROMPT_TEMPLATES, read_questions
from livecc_jax.evaluate.benchmarks.questions import Question
from livecc_jax.evaluate.metrics.score import score_benchmark
from livecc_jax.evaluate.run.prompt_encoder import PromptEncoder
from livecc_jax.evaluate.run.run_folder import write_results_file
from livecc_jax.evaluate.run.sampled_video import SampledVideo, sample_video, sampled_grid
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import PATCH
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.parallel.batch import place_batch
from livecc_jax.parallel.processes import from_first, gather
from livecc_jax.parallel.rules import partition_spec
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.train.config import ComputeConfig

log = logging.getLogger(__name__)

MAX_QUESTIONS_PER_ROW = 16  # questions a row at most: so many logits over the vocabulary at once
BOOTSTRAP_RESAMPLES = 20  # the interval is not shown
ROW_THREADS = 8  # rows built at once

Grid = tuple[int, int, int]


class PackedChoiceEvaluation:
    """Some questions of a benchmark; every examination asks the same ones.

    All processes make one and call it together.

    Args:
        benchmark: one of `evaluate.benchmarks.annotations.QUESTION_READERS`.
        data: its folder, or its annotation file.
        most: questions asked, evenly spread over the benchmark.
        max_frames: of a video.
        budget: pixels a frame.
        model: the architecture.
        compute: as in training.
        tokenizer: the model's.
        positions: rotary position mode.
        shape: of the run's rows.
        rows: of a micro-batch, over all processes.
        mesh: of the run.

    Raises:
        DataError: the benchmark cannot be read, or no question fits a row.
        TokenizerError: the tokenizer does not tell options apart.
    """

    def __init__(
        self,
        benchmark: str,
        data: str,
        most: int,
        max_frames: int,
        budget: PixelBudget,
        model: ModelConfig,
        compute: ComputeConfig,
        tokenizer: Tokenizer,
        positions: str,
        shape: RowShape,
        rows: int,
        mesh: Mesh,
    ) -> None:
        self.benchmark, self._mesh, self._micro = benchmark, mesh, rows
        self._tokenizer, self._positions = tokenizer, positions
        self._shape = dataclasses.replace(shape, targets=MAX_QUESTIONS_PER_ROW)
        self._watch = functools.partial(sample_video, budget=budget, max_frames=max_frames)
        self._set = read_questions(benchmark, data)
        every = self._set.questions
        chosen = np.unique(np.linspace(0, len(every) - 1, min(most, len(every))).round().astype(int))
        self._set.questions = self._questions = [every[i] for i in chosen]
        self._phrasing = PromptEncoder(tokenizer, PROMPT_TEMPLATES[benchmark])
        self._ids = [self._phrasing.option_ids(q.options) for q in self._questions]
        # The first process looks; if a file came or went meanwhile, all must still plan alike.
        told = from_first([_grid_or_why(q, budget, max_frames) for q in self._questions])
        self._lost = {i: why for i, why in enumerate(told) if isinstance(why, str)}
        self._grids: dict[int, Grid] = {i: tuple(g) for i, g in enumerate(told) if i not in self._lost}
        self._plan = self._planned()

        def logits(params: Any, batch: dict[str, jax.Array], options: jax.Array) -> jax.Array:
            rows = jax.tree.map(lambda x: x[0], batch)
            dtype = jnp.dtype(compute.dtype)
            bound = bind(model, jax.tree.map(lambda x: x.astype(dtype), params), compute.lora.scale)
            hidden = bound.hidden(rows, compute.remat, compute.unroll)
            states = jnp.take_along_axis(hidden, rows["target_slots"][..., None], axis=1)
            return jnp.take_along_axis(bound.text.logits(states), options, axis=-1)

        self._logits = jax.jit(logits, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, params: Any, poll: Callable[[], bool]) -> dict[str, float] | None:
        """Ask them all.

        Args:
            params: of the model, on the mesh.
            poll: asked after every micro-batch; true ends the examination.

        Returns:
            `accuracy`, in percent, by the benchmark's own scoring and average; `answer_loss`, the mean
            cross entropy of the right option among the options; `asked`, how many questions could be.
            None when it was ended.
        """
        steps = -(-len(self._plan) // self._micro)
        share = self._micro // jax.process_count()
        mine = [
            step * self._micro + jax.process_index() * share + place
            for step in range(steps)
            for place in range(share)
        ]
        found: list[np.ndarray] = []
        failed: dict[int, str] = {}
        with ThreadPoolExecutor(ROW_THREADS) as pool:
            # A step's rows are built while the devices work on the one before.
            ahead = [pool.submit(self._row, r) for r in mine[:share]]
            for step in range(steps):
                built = [future.result() for future in ahead]
                following = mine[(step + 1) * share : (step + 2) * share]
                ahead = [pool.submit(self._row, r) for r in following]
                for _, _, lost in built:
                    failed |= lost
                rows = {k: np.stack([row[k] for row, _, _ in built]) for k in built[0][0]}
                options = np.stack([ids for _, ids, _ in built])
                placed = jax.make_array_from_process_local_data(
                    NamedSharding(self._mesh, partition_spec(("batch", None, None))), options
                )
                batch = place_batch(self._mesh, rows, 1)
                found.append(np.asarray(self._logits(params, batch, placed)))
                if poll():
                    return None
        lost = dict(self._lost)
        for theirs in gather(failed):  # JSON has strings for keys
            lost |= {int(i): why for i, why in theirs.items()}
        return self._told(np.concatenate(found), lost)

    def _planned(self) -> PackPlan:
        """Which questions share a row, by number in `_grids`' order."""
        sizes = []
        for i, (pairs, rows, cols) in self._grids.items():
            tokens = len(self._example(i).encoded.tokens)
            held = self._shape.window // (rows * cols)
            sizes.append((tokens, -(-pairs // held) if held else self._shape.windows + 1, 1))
        if not sizes:
            raise DataError(f"{self._set.annotation}: no video can be read, {self._lost.get(0, '')}")
        self._order = list(self._grids)
        plan = plan_rows(*np.array(sizes).T, self._shape, seed=0, epochs=1)
        self._lost |= {self._order[i]: "does not fit a row" for i in plan.dropped}
        return plan

    def _example(self, i: int) -> ExamplePlan:
        """A question with its answer as the one target."""
        grid, question, none = self._grids[i], self._questions[i], np.zeros(0, np.int64)
        opening = self._phrasing.opening(grid, question.text)
        right = _right(question)
        tokens = np.append(opening.tokens, self._ids[i][right or 0])
        supervised = np.arange(len(tokens)) == len(tokens) - 1
        turns = np.zeros(len(tokens), np.int32)
        encoded = dataclasses.replace(opening, tokens=tokens, supervised=supervised, turns=turns)
        return ExamplePlan(encoded, (MediaPlan("", none, none, PATCH * grid[1], PATCH * grid[2]),))

    def _row(self, number: int) -> tuple[Row, np.ndarray, dict[int, str]]:
        """A row, int32 [ANSWERS, options] tokens of its questions' options, and what failed in it."""
        members = self._plan.row(number) if number < len(self._plan) else []
        examples, lost = [], {}
        options = np.zeros((MAX_QUESTIONS_PER_ROW, max(map(len, self._ids))), np.int32)
        for i in (self._order[m] for m in members):
            try:
                watched: SampledVideo = self._watch(self._questions[i].source)
                if watched.grid != self._grids[i]:
                    raise DataError(f"{self._questions[i].source.path}: has changed")
            except LiveCCError as error:
                lost[i] = str(error)
                continue
            options[len(examples), : len(self._ids[i])] = self._ids[i]
            examples.append((self._example(i), [watched.patches]))
        special = self._tokenizer.special
        return build_row(examples, self._shape, special, self._positions, "token"), options, lost

    def _told(self, logits: np.ndarray, lost: dict[int, str]) -> dict[str, float]:
        """Figures of float32 [rows, ANSWERS, options] logits; lost: questions not asked, and why."""
        answers: dict[str, dict[str, Any]] = {}
        losses = []
        for r in range(len(self._plan)):
            asked = (self._order[m] for m in self._plan.row(r))
            for slot, i in enumerate([i for i in asked if i not in lost]):
                question, own = self._questions[i], logits[r, slot, : len(self._ids[i])]
                if not np.isfinite(own).all():
                    lost[i] = "the model's logits are not finite"
                    continue
                answers[question.id] = {"response": question.responses[int(np.argmax(own))]}
                if (right := _right(question)) is not None:
                    losses.append(float(np.logaddexp.reduce(own) - own[right]))
        for i, why in lost.items():
            log.warning("%s %s: could not be asked: %s", self.benchmark, self._questions[i].id, why)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.json"
            write_results_file(self.benchmark, self._set, answers, path)
            scored = score_benchmark(
                self.benchmark, path, expected=len(self._questions), resamples=BOOTSTRAP_RESAMPLES
            )
        return {
            "accuracy": scored.headline.accuracy,
            "answer_loss": float(np.mean(losses)) if losses else float("nan"),
            "asked": float(len(answers)),
        }


def _right(question: Question) -> int | None:
    """Which option is the answer; None where none is (a count over nine in OVO-Bench)."""
    options: Sequence[str] = question.options
    return options.index(question.answer) if question.answer in options else None


def _grid_or_why(question: Question, budget: PixelBudget, max_frames: int) -> Grid | str:
    try:
        return sampled_grid(question.source, budget, max_frames)
    except LiveCCError as error:
        return str(error)
