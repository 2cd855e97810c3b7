"""Answer the multiple-choice questions of a benchmark in a run folder that can be resumed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.evaluate.benchmarks.questions import Question, QuestionSet, VideoSource
from livecc_jax.evaluate.run.choice import ChoiceScorer, ChoiceScores, VideoQuestions
from livecc_jax.evaluate.run.prefetch import LoadedBatch, batch_loaded, one_behind, prefetch
from livecc_jax.evaluate.run.run_folder import (
    EvaluationProgress,
    all_answers,
    answers_path,
    append_lines,
    write_lines,
)
from livecc_jax.evaluate.run.sampled_video import SampledVideo, sample_video
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.rules import DEFAULT, MediaRules


def answer_questions(
    scorer: ChoiceScorer,
    question_set: QuestionSet,
    folder: Path,
    budget: PixelBudget,
    *,
    shard: tuple[int, int] = (0, 1),
    max_frames: int | None = None,
    rules: MediaRules = DEFAULT,
    last_frames: int | None = None,
    on_progress: Callable[[EvaluationProgress, int], None] = lambda progress, total: None,
) -> EvaluationProgress:
    """Answers the questions that have no answer in the run folder yet.

    A question whose video cannot be read has a line with an error, and is tried again by the next run.

    Args:
        scorer: Model that scores the options.
        question_set: Questions of the benchmark.
        folder: Run folder.
        budget: Pixels a frame.
        shard: (index, count) of this process among those that divide the videos of the run: it takes
            every count-th video.
        max_frames: Maximum frames of a video; None is the published 480.
        rules: How videos are read.
        last_frames: Shows only so many of the last frames of each video; see `sample_video`.
        on_progress: Called after each batch of videos with the progress, and the number of questions of
            this shard.

    Returns:
        The progress at the end.
    """
    answers = all_answers(folder)
    groups = [g for i, g in enumerate(_by_video(question_set)) if i % shard[1] == shard[0]]
    total = sum(len(g) for g in groups)
    progress, began = EvaluationProgress(), time.perf_counter()
    todo = []
    for group in groups:
        unanswered = [q for q in group if "response" not in answers.get(q.id, {})]
        progress.already_answered += len(group) - len(unanswered)
        if unanswered:
            todo.append(unanswered)
    with append_lines(answers_path(folder, shard)) as file:
        load = functools.partial(
            _sample_video,
            budget=budget,
            max_frames=max_frames,
            rules=rules,
            last_frames=last_frames,
        )
        batches = batch_loaded(prefetch(todo, load, scorer.batch_size), scorer.batch_size)
        submitted = ((batch, _submit(scorer, batch)) for batch in batches)
        for batch, wait in one_behind(submitted):
            lines = [{"id": q.id, "error": str(error)} for group, error in batch.failed for q in group]
            for (group, _), scores in zip(batch.loaded, wait()):
                lines += [_answer_line(q, score) for q, score in zip(group, scores, strict=True)]
            write_lines(file, lines)
            progress.videos += len(batch.loaded) + len(batch.failed)
            progress.answered += sum("response" in line for line in lines)
            progress.failed += sum("error" in line for line in lines)
            progress.seconds = time.perf_counter() - began
            on_progress(progress, total)
    return progress


def _by_video(question_set: QuestionSet) -> list[list[Question]]:
    """Returns the questions grouped by video, in order of each video's first question."""
    groups: dict[VideoSource, list[Question]] = {}
    for question in question_set.questions:
        groups.setdefault(question.source, []).append(question)
    return list(groups.values())


def _sample_video(
    group: list[Question],
    budget: PixelBudget,
    max_frames: int | None,
    rules: MediaRules,
    last_frames: int | None,
) -> SampledVideo:
    return sample_video(group[0].source, budget, max_frames, rules, last_frames)


def _submit(
    scorer: ChoiceScorer, batch: LoadedBatch[list[Question], SampledVideo]
) -> Callable[[], list[list[ChoiceScores]]]:
    """Submits a batch; returns a function that waits for the scores."""
    if not batch.loaded:
        return list
    return scorer.submit(
        [VideoQuestions(video, [q.text for q in group], [q.options for q in group])
         for group, video in batch.loaded]
    )  # fmt: skip


def _answer_line(question: Question, scores: ChoiceScores) -> dict[str, Any]:
    """Returns a line of the answers file."""
    if not np.isfinite(scores.logits).all():
        return {"id": question.id, "error": "the model's logits are not finite"}
    best = int(np.argmax(scores.logits))
    return {
        "id": question.id,
        "response": question.responses[best],
        "option": question.options[best],
        "logits": [round(float(v), 4) for v in scores.logits],
        "tokens": scores.prompt_tokens,
    }
