"""`livecc evaluate --last-frames`: the score of the last frames alone, beside that of the whole video.

Questions that the last frames answer as well as the whole video say nothing about memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_jax.commands.processes import gather_answers, progress_printer

if TYPE_CHECKING:
    from livecc_jax.evaluate.benchmarks.questions import QuestionSet
    from livecc_jax.evaluate.metrics.paired_accuracy import AccuracyComparison
    from livecc_jax.evaluate.metrics.score import BenchmarkScore
    from livecc_jax.evaluate.run.choice import ChoiceScorer
    from livecc_jax.media.budget import PixelBudget


def check_last_frames(frames: int | None) -> None:
    """Raises ConfigError when `--last-frames` is not an even number of frames of at least 2."""
    from livecc_jax.errors import ConfigError

    if frames is not None and (frames < 2 or frames % 2):
        raise ConfigError(f"--last-frames must be an even number of at least 2, not {frames}")


class LastFrames:
    """The answers from the last frames alone, in a run folder inside the run's own.

    Args:
        question_set: The questions.
        folder: The run folder of the whole videos.
        settings: The settings of that run.
        frames: How many of the last sampled frames are shown, even.
    """

    def __init__(
        self, question_set: QuestionSet, folder: Path, settings: dict[str, Any], frames: int
    ) -> None:
        from livecc_jax.evaluate.run.run_folder import lock_settings

        self.name = f"the last {frames} frames alone"
        self._question_set, self._frames = question_set, frames
        self._folder = folder / f"last-{frames}-frames"
        lock_settings(self._folder, settings | {"last_frames": frames})

    def answer(self, scorer: ChoiceScorer, budget: PixelBudget, **options: Any) -> None:
        """Answers every question that has no answer yet; every process of a run calls this.

        Args:
            scorer: The model that answers from the whole videos too.
            budget: Pixels of a frame.
            **options: Further arguments of `answer_questions`.
        """
        from livecc_jax.evaluate.run.multiple_choice import answer_questions

        with progress_printer("questions") as printer:
            self._progress = answer_questions(
                scorer,
                self._question_set,
                self._folder,
                budget,
                last_frames=self._frames,
                on_progress=printer,
                **options,
            )
        print(f"{self.name}: ", end="")
        ids = [q.id for q in self._question_set.questions]
        self._answers = gather_answers(self._progress, "questions", self._folder, ids)

    def compare(self, whole: BenchmarkScore) -> AccuracyComparison | None:
        """Prints both scores and their difference, question by question.

        Args:
            whole: The score of the whole videos.

        Returns:
            The comparison, of which A is the last frames and B the whole videos; None if answers are
            missing.
        """
        from livecc_jax.evaluate.benchmarks.results_writer import write_results_file
        from livecc_jax.evaluate.metrics.paired_accuracy import compare_accuracy
        from livecc_jax.evaluate.metrics.score import score_benchmark
        from livecc_jax.evaluate.report.terminal import format_comparison

        if self._answers is None:
            return None
        results = self._folder / "results.json"
        write_results_file(whole.benchmark, self._question_set, self._answers, results)
        last = score_benchmark(whole.benchmark, results, expected=whole.answers.expected)
        comparison = compare_accuracy(
            whole.layout, last.answers, whole.answers, whole.resamples, whole.seed
        )
        print(
            f"\n{whole.headline.name}: {self.name} {last.headline.accuracy:.1f}%, "
            f"whole videos {whole.headline.accuracy:.1f}%"
        )
        print(format_comparison(comparison, self.name, "whole videos"))
        return comparison
