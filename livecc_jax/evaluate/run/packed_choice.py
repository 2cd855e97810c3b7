"""Evaluate multiple choice during training: questions packed into rows of the training forward pass.

A question is an example whose only target is its answer. So it needs no second copy of the weights, and
runs on any mesh that trains the model. (`evaluate.run.choice` is faster for full benchmarks, because it
encodes and prefills a video once for all its questions.)
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.rows.packing import Packing, RowShape, pack_rows
from livecc_jax.data.rows.row import Row, build_row
from livecc_jax.errors import ConfigError, DataError, LiveCCError
from livecc_jax.evaluate.benchmarks.annotations import PROMPT_TEMPLATES, read_questions
from livecc_jax.evaluate.benchmarks.questions import Question
from livecc_jax.evaluate.benchmarks.results_writer import write_results_file
from livecc_jax.evaluate.metrics.score import score_benchmark
from livecc_jax.evaluate.run.prompt_encoder import PromptEncoder
from livecc_jax.evaluate.run.sampled_video import sample_video, sampled_grid
from livecc_jax.families import DEFAULT as DEFAULT_FAMILY
from livecc_jax.families.qwen2_vl import PATCH
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.parallel.batch import shard_batch
from livecc_jax.parallel.processes import broadcast_from_main, gather_json
from livecc_jax.parallel.rules import partition_spec
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.train.config import ComputeConfig

log = logging.getLogger(__name__)

MAX_QUESTIONS_PER_ROW = 16  # bounds the memory of the logits over the vocabulary
BOOTSTRAP_RESAMPLES = 20  # few, because the interval is not reported
ROW_THREADS = 8  # threads that build rows

Grid = tuple[int, int, int]


class PackedChoiceEvaluator:
    """Answers the same questions of a benchmark at every evaluation of a training run.

    All processes construct and call it at the same time.

    Args:
        benchmark: One of `evaluate.benchmarks.annotations.QUESTION_READERS`.
        data: Folder of the benchmark, or its annotation file.
        max_questions: Maximum number of questions, evenly spread over the benchmark.
        max_frames: Maximum number of frames of a video.
        budget: Pixels a frame.
        model: Architecture of the model.
        compute: Compute settings of training.
        tokenizer: Tokenizer of the model.
        positions: Rotary position mode.
        shape: Shape of the run's packed rows.
        rows: Packed rows of a micro-batch, over all processes.
        mesh: Mesh of the run.
        rules: How videos are read.
        media_root: Confines the videos.

    Raises:
        DataError: The benchmark cannot be read, or no question fits a row.
        TokenizerError: The tokenizer does not tell the options of a question apart.
    """

    def __init__(
        self,
        benchmark: str,
        data: str,
        max_questions: int,
        max_frames: int,
        budget: PixelBudget,
        model: ModelConfig,
        compute: ComputeConfig,
        tokenizer: Tokenizer,
        positions: str,
        shape: RowShape,
        rows: int,
        mesh: Mesh,
        rules: MediaRules = DEFAULT,
        media_root: MediaRoot | None = None,
    ) -> None:
        if model.family is not DEFAULT_FAMILY:
            raise ConfigError(f"questions with options are not asked of {model.family.name} models yet")
        self.benchmark, self._mesh, self._batch_rows = benchmark, mesh, rows
        self._tokenizer, self._positions = tokenizer, positions
        self._shape = dataclasses.replace(shape, targets=MAX_QUESTIONS_PER_ROW)
        self._sample_video = functools.partial(
            sample_video, budget=budget, max_frames=max_frames, rules=rules
        )
        self._question_set = read_questions(benchmark, data, media_root=media_root)
        all_questions = self._question_set.questions
        count = min(max_questions, len(all_questions))
        selected = np.linspace(0, len(all_questions) - 1, count).round().astype(int)
        self._questions = [all_questions[i] for i in np.unique(selected)]
        self._question_set.questions = self._questions
        self._prompt_encoder = PromptEncoder(tokenizer, PROMPT_TEMPLATES[benchmark])
        self._option_ids = [self._prompt_encoder.option_ids(q.options) for q in self._questions]
        # The main process decides: all processes must compute the same packing, even if a file
        # appears or disappears meanwhile.
        grids_or_errors = broadcast_from_main(
            [_grid_or_error(q, budget, max_frames, rules) for q in self._questions]
        )
        self._errors = {i: g for i, g in enumerate(grids_or_errors) if isinstance(g, str)}
        self._grids: dict[int, Grid] = {
            i: tuple(g) for i, g in enumerate(grids_or_errors) if i not in self._errors
        }
        self._packed_questions = list(self._grids)  # numbers of the questions that are packed
        self._packing = self._pack()

        def option_logits(params: Any, batch: dict[str, jax.Array], option_ids: jax.Array) -> jax.Array:
            rows = jax.tree.map(lambda x: x[0], batch)
            dtype = jnp.dtype(compute.dtype)
            bound = bind(model, jax.tree.map(lambda x: x.astype(dtype), params), compute.lora.scale)
            hidden = bound.hidden_states(rows, compute.remat, compute.unroll)
            states = jnp.take_along_axis(hidden, rows["target_slots"][..., None], axis=1)
            return jnp.take_along_axis(bound.text.logits(states), option_ids, axis=-1)

        replicated = NamedSharding(mesh, PartitionSpec())
        self._option_logits = jax.jit(option_logits, out_shardings=replicated)

    def __call__(self, params: Any, poll: Callable[[], bool]) -> dict[str, float] | None:
        """Answers the questions.

        Args:
            params: Parameters of the model, sharded over the mesh.
            poll: Called after every micro-batch; if it returns True, the evaluation stops.

        Returns:
            `accuracy`, in percent, by the benchmark's own scoring and mean; `answer_loss`, the mean
            cross entropy of the right option among the options; `asked`, the number of questions that
            could be answered. None if the evaluation was stopped.
        """
        steps = -(-len(self._packing) // self._batch_rows)
        local_rows = self._batch_rows // jax.process_count()
        row_numbers = [
            step * self._batch_rows + jax.process_index() * local_rows + i
            for step in range(steps)
            for i in range(local_rows)
        ]
        logits_of_steps: list[np.ndarray] = []
        local_errors: dict[int, str] = {}
        with ThreadPoolExecutor(ROW_THREADS) as pool:
            # The rows of the next step are built while the devices compute this one.
            futures = [pool.submit(self._build_row, r) for r in row_numbers[:local_rows]]
            for step in range(steps):
                built = [future.result() for future in futures]
                next_rows = row_numbers[(step + 1) * local_rows : (step + 2) * local_rows]
                futures = [pool.submit(self._build_row, r) for r in next_rows]
                for _, _, errors in built:
                    local_errors |= errors
                rows = {k: np.stack([row[k] for row, _, _ in built]) for k in built[0][0]}
                option_ids = jax.make_array_from_process_local_data(
                    NamedSharding(self._mesh, partition_spec(("batch", None, None))),
                    np.stack([ids for _, ids, _ in built]),
                )
                batch = shard_batch(self._mesh, rows, 1)
                logits_of_steps.append(np.asarray(self._option_logits(params, batch, option_ids)))
                if poll():
                    return None
        errors = dict(self._errors)
        for errors_of_process in gather_json(local_errors):  # JSON has strings for keys
            errors |= {int(i): error for i, error in errors_of_process.items()}
        return self._score(np.concatenate(logits_of_steps), errors)

    def _pack(self) -> Packing:
        """Packs the questions into rows; a member of a row is an index into `_packed_questions`."""
        sizes = []
        for i, (pairs, rows, cols) in self._grids.items():
            tokens = len(self._encode_example(i).encoded.tokens)
            pairs_per_window = self._shape.window // (rows * cols)
            windows = -(-pairs // pairs_per_window) if pairs_per_window else self._shape.windows + 1
            sizes.append((tokens, windows, 1))
        if not sizes:
            raise DataError(
                f"{self._question_set.annotation}: no video can be read, {self._errors.get(0, '')}"
            )
        packing = pack_rows(*np.array(sizes).T, self._shape, seed=0, epochs=1)
        self._errors |= {self._packed_questions[i]: "does not fit a row" for i in packing.dropped}
        return packing

    def _encode_example(self, i: int) -> EncodedExample:
        """Returns question i as an example whose only target is the answer."""
        grid, question, empty = self._grids[i], self._questions[i], np.zeros(0, np.int64)
        prompt = self._prompt_encoder.encode(grid, question.text)
        tokens = np.append(prompt.tokens, self._option_ids[i][_right_option(question) or 0])
        supervised = np.arange(len(tokens)) == len(tokens) - 1
        turns = np.zeros(len(tokens), np.int32)
        encoded = dataclasses.replace(prompt, tokens=tokens, supervised=supervised, turns=turns)
        media = MediaSlice("", empty, empty, PATCH * grid[1], PATCH * grid[2])
        return EncodedExample(encoded, (media,))

    def _build_row(self, number: int) -> tuple[Row, np.ndarray, dict[int, str]]:
        """Builds a packed row.

        Returns:
            The row; int32 [MAX_QUESTIONS_PER_ROW, options], the tokens of its questions' options;
            errors of the questions that are missing from the row, by number of question.
        """
        members = self._packing.row(number) if number < len(self._packing) else []
        examples, errors = [], {}
        max_options = max(map(len, self._option_ids))
        option_ids = np.zeros((MAX_QUESTIONS_PER_ROW, max_options), np.int32)
        for i in (self._packed_questions[m] for m in members):
            try:
                video = self._sample_video(self._questions[i].source)
                if video.grid != self._grids[i]:
                    raise DataError(f"{self._questions[i].source.path}: has changed")
            except LiveCCError as error:
                errors[i] = str(error)
                continue
            option_ids[len(examples), : len(self._option_ids[i])] = self._option_ids[i]
            examples.append((self._encode_example(i), [video.patches]))
        special = self._tokenizer.special
        row = build_row(examples, self._shape, special, self._positions, "token")
        return row, option_ids, errors

    def _score(self, logits: np.ndarray, errors: dict[int, str]) -> dict[str, float]:
        """Computes the metrics.

        Args:
            logits: float32 [rows, MAX_QUESTIONS_PER_ROW, options], logits of the options.
            errors: Errors of the questions that could not be answered, by number of question.
        """
        answers: dict[str, dict[str, Any]] = {}
        losses = []
        for r in range(len(self._packing)):
            members = (self._packed_questions[m] for m in self._packing.row(r))
            for slot, i in enumerate([i for i in members if i not in errors]):
                question = self._questions[i]
                question_logits = logits[r, slot, : len(self._option_ids[i])]
                if not np.isfinite(question_logits).all():
                    errors[i] = "the model's logits are not finite"
                    continue
                best = int(np.argmax(question_logits))
                answers[question.id] = {"response": question.responses[best]}
                if (right := _right_option(question)) is not None:
                    log_normalizer = np.logaddexp.reduce(question_logits)
                    losses.append(float(log_normalizer - question_logits[right]))
        for i, error in errors.items():
            question_id = self._questions[i].id
            log.warning("%s %s: could not be answered: %s", self.benchmark, question_id, error)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.json"
            write_results_file(self.benchmark, self._question_set, answers, path)
            scored = score_benchmark(
                self.benchmark, path, expected=len(self._questions), resamples=BOOTSTRAP_RESAMPLES
            )
        return {
            "accuracy": scored.headline.accuracy,
            "answer_loss": float(np.mean(losses)) if losses else float("nan"),
            "asked": float(len(answers)),
        }


def _right_option(question: Question) -> int | None:
    """Returns the number of the right option; None if no option is right, as for a count over nine in
    OVO-Bench."""
    if question.answer not in question.options:
        return None
    return question.options.index(question.answer)


def _grid_or_error(
    question: Question, budget: PixelBudget, max_frames: int, rules: MediaRules
) -> Grid | str:
    try:
        return sampled_grid(question.source, budget, max_frames, rules)
    except LiveCCError as error:
        return str(error)
