"""Read each benchmark's questions from the layout of its authors, or from the one LiveCC made of it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.errors import DataError, MediaError
from livecc_jax.evaluate.benchmarks.ovobench import read_ovobench_questions
from livecc_jax.evaluate.benchmarks.questions import (
    LETTERS,
    PromptTemplate,
    Question,
    QuestionSet,
    VideoSource,
    format_question,
    with_letters,
)
from livecc_jax.evaluate.benchmarks.record_fields import (
    MalformedRecord,
    SkipMalformed,
    parse_string_list,
    span_fields_us,
    string_field,
    string_field_or,
)
from livecc_jax.evaluate.benchmarks.record_files import (
    find_annotation,
    find_video,
    load_records,
    path_exists,
)

VIDEOMME_FILES = ("videomme.json*", "videomme/*.parquet", "*.parquet", "*.jsonl")
MVBENCH_FILES = ("mvbench*.jsonl", "*.jsonl")
QA_FILES = ("LiveSports-3K-QA.json", "LiveSports-3K-QA.csv", "*qa*.json*", "*QA*.json*")

# The folder of each MVBench task's videos in video/, as the authors name them.
MVBENCH_FOLDERS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "object_interaction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "counterfactual_inference": "clevrer/video_validation",
    "object_shuffle": "perception/videos",
    "action_count": "perception/videos",
    "state_change": "perception/videos",
    "character_order": "perception/videos",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "fine_grained_pose": "nturgbd",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
}


def read_videomme_questions(
    data: Path,
    subtitles: bool = False,
    wordings: dict | None = None,
    media_root: MediaRoot | None = None,
) -> QuestionSet:
    """Reads Video-MME.

    A record is {video_id, videoID, duration, domain, sub_category, question_id, task_type, question,
    options, answer}; videos are in data/, subtitles in subtitle/<videoID>.srt.
    """
    question_set = QuestionSet(find_annotation(data, VIDEOMME_FILES))
    root = question_set.annotation.parent
    if question_set.annotation.suffix == ".parquet" and root.name == "videomme":
        root = root.parent  # the authors' repository has its Parquet file in a folder of its own
    subtitles_of: dict[str, str] = {}
    for where, record in load_records(question_set.annotation, question_set.problem_log):
        with SkipMalformed(question_set.problem_log, where):
            name = string_field(record, "videoID" if "videoID" in record else "video_id")
            options = _read_options(record)
            if subtitles and name not in subtitles_of:
                subtitles_of[name] = _read_subtitles(record, root, name, question_set, media_root)
            keys = ("video_id", "duration", "domain", "sub_category", "question_id", "task_type")
            result_fields = {k: string_field(record, k) for k in (*keys, "question")}
            video = find_video(
                root, ("data", "videos", "video", "."), string_field_or(record, "video", name)
            )
            question_set.add(
                Question(
                    result_fields["question_id"],
                    VideoSource(video),
                    format_question(result_fields["question"], options, subtitles_of.get(name)),
                    tuple(LETTERS[: len(options)]),
                    options,
                    string_field(record, "answer"),
                    result_fields | {"options": list(options)},
                )
            )
    return question_set


def read_mvbench_questions(
    data: Path,
    subtitles: bool = False,
    wordings: dict | None = None,
    media_root: MediaRoot | None = None,
) -> QuestionSet:
    """Reads MVBench.

    The authors' layout is json/<task>.json with records {video, question, candidates, answer, start,
    end} and videos in video/; LiveCC's is lines of {video, task_type, question, options, answer}.
    """
    folder = next((d for d in (data / "json", data) if (d / "action_sequence.json").exists()), None)
    if folder is None and data.is_dir() and list(data.glob("json/*.json")):
        folder = data / "json"
    question_set = QuestionSet(folder or find_annotation(data, MVBENCH_FILES))
    files = sorted(folder.glob("*.json")) if folder else [question_set.annotation]
    root = data if data.is_dir() else data.parent
    for file in files:
        for where, record in load_records(file, question_set.problem_log):
            with SkipMalformed(question_set.problem_log, where):
                name = string_field(record, "video")
                if "candidates" in record:
                    task = _mvbench_task_name(file.stem)
                    candidates = parse_string_list(record["candidates"])
                    options = with_letters(candidates)
                    if record.get("answer") not in candidates:
                        raise MalformedRecord(
                            f"the answer {record.get('answer')!r:.40} is no candidate"
                        )
                    answer = LETTERS[candidates.index(record["answer"])]
                    task_folder = MVBENCH_FOLDERS.get(file.stem, "")
                    folders = (f"video/{task_folder}", task_folder, "video", ".")
                else:
                    task, options = string_field(record, "task_type"), _read_options(record)
                    answer = string_field(record, "answer")
                    folders = (".", "video", "videos")
                question = string_field(record, "question")
                start_us, end_us = span_fields_us(record, "start", "end")
                question_set.add(
                    Question(
                        f"{task}/{name}/{question}",
                        VideoSource(find_video(root, folders, name), start_us, end_us),
                        format_question(question, options),
                        tuple(LETTERS[: len(options)]),
                        options,
                        answer,
                        {
                            "video": name,
                            "task_type": task,
                            "question": question,
                            "options": list(options),
                        },
                    )
                )
    return question_set


def read_livesports_qa_questions(
    data: Path,
    subtitles: bool = False,
    wordings: dict | None = None,
    media_root: MediaRoot | None = None,
) -> QuestionSet:
    """Reads LiveSports-3K QA.

    A record is {video_id, video, q_type, OCR, question, answer} with `options`, or `option_A` to
    `option_D`; a span is given by video_start and video_end, or by begin and end.
    """
    question_set = QuestionSet(find_annotation(data, QA_FILES))
    root = question_set.annotation.parent
    records = load_records(question_set.annotation, question_set.problem_log)
    for number, (where, record) in enumerate(records):
        with SkipMalformed(question_set.problem_log, where):
            name, options = string_field(record, "video_id"), _read_options(record)
            start_us, end_us = span_fields_us(record, "video_start", "video_end")
            if start_us is None and end_us is None:
                start_us, end_us = span_fields_us(record, "begin", "end")
            question = string_field(record, "question")
            result_fields = {
                "video_id": name,
                "question_id": record.get("question_id", record.get("q_id", number)),
                "q_type": string_field(record, "q_type"),
                "OCR": int(record.get("OCR") in (1, "1", True)),
                "question": question,
                "options": list(options),
            }
            video = find_video(root, ("videos", "video", "."), string_field_or(record, "video", name))
            question_set.add(
                Question(
                    f"{name}/{result_fields['question_id']}",
                    VideoSource(video, start_us, end_us),
                    format_question(question, options),
                    tuple(LETTERS[: len(options)]),
                    options,
                    string_field(record, "answer"),
                    result_fields,
                )
            )
    return question_set


QUESTION_READERS: dict[str, Callable[..., QuestionSet]] = {
    "videomme": read_videomme_questions,
    "mvbench": read_mvbench_questions,
    "ovobench": read_ovobench_questions,
    "livesports-qa": read_livesports_qa_questions,
}
PROMPT_TEMPLATES = {
    "videomme": PromptTemplate(),
    "mvbench": PromptTemplate(),
    "ovobench": PromptTemplate("The answer is:\n", "\n"),
    "livesports-qa": PromptTemplate(),
}


def read_questions(
    benchmark: str,
    data: str | Path,
    subtitles: bool = False,
    wordings: dict[str, str] | None = None,
    media_root: MediaRoot | None = None,
) -> QuestionSet:
    """Reads the questions of a benchmark.

    Args:
        benchmark: One of QUESTION_READERS.
        data: Folder of the benchmark, or its annotation file.
        subtitles: Whether the prompts of Video-MME include the subtitles.
        wordings: Questions for OVO-Bench's tasks that replace the default ones; see `read_wordings`.
        media_root: Confines the videos and subtitles; a question about another one cannot be asked.

    Raises:
        DataError: There is no annotation, or no usable question in it.
    """
    question_set = QUESTION_READERS[benchmark](Path(data), subtitles, wordings, media_root)
    question_set.questions = [
        dataclasses.replace(q, source=dataclasses.replace(q.source, media_root=media_root))
        for q in question_set.questions
    ]
    if not question_set.questions:
        why = "; ".join(question_set.problem_log.notes[:1])
        raise DataError(
            f"{question_set.annotation}: holds no question that can be asked {why}".rstrip()
        )
    return question_set


def _read_options(record: dict[str, Any]) -> tuple[str, ...]:
    if record.get("options") is not None:
        options = parse_string_list(record["options"])
    else:
        options = [str(record[f"option_{c}"]) for c in LETTERS if record.get(f"option_{c}")]
    if not 2 <= len(options) <= len(LETTERS):
        raise MalformedRecord("there are no options")
    return with_letters(options)


def _mvbench_task_name(stem: str) -> str:
    """Returns the name of a task as results files spell it, from the name of its file."""
    name = stem.replace("fine_grained", "fine-grained").replace("_", " ")
    return " ".join(word[:1].upper() + word[1:] for word in name.split())


def _read_subtitles(
    record: dict[str, Any],
    root: Path,
    name: str,
    question_set: QuestionSet,
    media_root: MediaRoot | None,
) -> str:
    """Returns all subtitles of a video joined by spaces; a video without any gives "" and a count."""
    if isinstance(record.get("subtitles"), str):
        return record["subtitles"]
    path = next(
        (p for d in ("subtitle", "subtitles", ".") if path_exists(p := root / d / f"{name}.srt")), None
    )
    if path is None:
        question_set.problem_log.add_problem("without subtitles", name)
        return ""
    if media_root is not None:
        try:
            media_root.check(str(path))
        except MediaError as error:
            raise MalformedRecord(str(error)) from None
    cues = re.split(
        r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace").replace("\r", "")
    )
    texts = []
    for cue in cues:
        _, arrow, body = cue.partition("-->")
        lines = body.split("\n")[1:] if arrow else []
        text = re.sub(r"<[^>]*>|\{\\[^}]*\}", "", " ".join(lines)).replace("\\N", " ").strip()
        if text:
            texts.append(text)
    return " ".join(texts)
