"""Write results files in the published layouts, which `evaluate.benchmarks.results` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from livecc_jax.evaluate.benchmarks.questions import QuestionSet
from livecc_jax.writing import write_text

# Fields of a video in the layouts that group questions by video; the first identifies the video.
VIDEO_FIELDS = {
    "videomme": ("video_id", "duration", "domain", "sub_category"),
    "mvbench": ("video",),
    "livesports-qa": ("video_id",),
}


def write_results_file(
    benchmark: str, question_set: QuestionSet, answers: dict[str, dict[str, Any]], path: Path
) -> None:
    """Writes the results file of a benchmark in its published layout.

    A question without an answer has a null response, which scoring counts as unanswered.

    Args:
        benchmark: Name of the benchmark.
        question_set: Its questions.
        answers: Lines of the answers file by question id.
        path: The file to write.

    Raises:
        OutputError: The file cannot be written.
    """
    records: list[dict[str, Any]] = []
    videos: dict[str, dict[str, Any]] = {}
    video_fields = VIDEO_FIELDS.get(benchmark)
    for question in question_set.questions:
        response = answers.get(question.id, {}).get("response")
        answer_fields = {"answer": question.answer, "response": response}
        if video_fields is None:
            records.append(question.result_fields | answer_fields)
            continue
        name = question.result_fields[video_fields[0]]
        if name not in videos:
            videos[name] = {k: question.result_fields[k] for k in video_fields} | {"questions": []}
            records.append(videos[name])
        own_fields = {k: v for k, v in question.result_fields.items() if k not in video_fields}
        videos[name]["questions"].append(own_fields | answer_fields)
    write_text(path, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
