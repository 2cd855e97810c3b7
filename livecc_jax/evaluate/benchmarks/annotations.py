"""Each benchmark's questions, from the layout its authors ship (and the one LiveCC made of it)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.ovobench import read_ovobench_questions
from livecc_jax.evaluate.benchmarks.questions import (
    LETTERS,
    PromptTemplate,
    Question,
    QuestionSet,
    VideoSource,
    find_annotation,
    find_video,
    format_question,
    load_records,
    parse_string_list,
    span_fields_us,
    string_field_or,
    with_letters,
)
from livecc_jax.evaluate.benchmarks.results import MalformedRecord, SkipMalformed, string_field

VIDEOMME_FILES = ("videomme.json*", "videomme/*.parquet", "*.parquet", "*.jsonl")
MVBENCH_FILES = ("mvbench*.jsonl", "*.jsonl")
QA_FILES = ("LiveSports-3K-QA.json", "LiveSports-3K-QA.csv", "*qa*.json*", "*QA*.json*")

# Folder of each MVBench task's videos under video/, as its authors name them.
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
    data: Path, subtitles: bool = False, wordings: dict | None = None
) -> QuestionSet:
    """Video-MME: rows of {video_id, videoID, duration, domain, sub_category, question_id, task_type,
    question, options, answer}; videos in data/, subtitles in subtitle/<videoID>.srt."""
    found = QuestionSet(find_annotation(data, VIDEOMME_FILES))
    root = found.annotation.parent
    if found.annotation.suffix == ".parquet" and root.name == "videomme":
        root = root.parent  # where the authors' repository keeps it
    spoken: dict[str, str] = {}
    for where, row in load_records(found.annotation, found.entries):
        with SkipMalformed(found.entries, where):
            name = string_field(row, "videoID") if "videoID" in row else string_field(row, "video_id")
            options = _options(row)
            if subtitles and name not in spoken:
                spoken[name] = _subtitles(row, root, name, found)
            said = spoken[name] if subtitles else None
            kept = {k: string_field(row, k) for k in ("video_id", "duration", "domain", "sub_category")}
            kept |= {k: string_field(row, k) for k in ("question_id", "task_type", "question")}
            source = VideoSource(
                find_video(root, ("data", "videos", "video", "."), string_field_or(row, "video", name))
            )
            found.add(
                Question(
                    kept["question_id"],
                    source,
                    format_question(kept["question"], options, said),
                    tuple(LETTERS[: len(options)]),
                    options,
                    string_field(row, "answer"),
                    kept | {"options": list(options)},
                )
            )
    return found


def read_mvbench_questions(
    data: Path, subtitles: bool = False, wordings: dict | None = None
) -> QuestionSet:
    """MVBench: json/<task>.json with {video, question, candidates, answer, start, end} and video/, or
    LiveCC's lines of {video, task_type, question, options, answer}."""
    folder = next((d for d in (data / "json", data) if (d / "action_sequence.json").exists()), None)
    if folder is None and data.is_dir() and list(data.glob("json/*.json")):
        folder = data / "json"
    found = QuestionSet(folder or find_annotation(data, MVBENCH_FILES))
    files = sorted(folder.glob("*.json")) if folder else [found.annotation]
    root = data if data.is_dir() else data.parent
    for file in files:
        for where, row in load_records(file, found.entries):
            with SkipMalformed(found.entries, where):
                name = string_field(row, "video")
                if "candidates" in row:
                    task, place = _mvbench_task(file.stem), MVBENCH_FOLDERS.get(file.stem, "")
                    options = with_letters(parse_string_list(row["candidates"]))
                    wanted = parse_string_list(row["candidates"])
                    if row.get("answer") not in wanted:
                        raise MalformedRecord(f"the answer {row.get('answer')!r:.40} is no candidate")
                    answer = LETTERS[wanted.index(row["answer"])]
                    folders = (f"video/{place}", place, "video", ".")
                else:
                    task, options, answer = (
                        string_field(row, "task_type"),
                        _options(row),
                        string_field(row, "answer"),
                    )
                    folders = (".", "video", "videos")
                asked = string_field(row, "question")
                start, end = span_fields_us(row, "start", "end")
                found.add(
                    Question(
                        f"{task}/{name}/{asked}",
                        VideoSource(find_video(root, folders, name), start, end),
                        format_question(asked, options),
                        tuple(LETTERS[: len(options)]),
                        options,
                        answer,
                        {"video": name, "task_type": task, "question": asked, "options": list(options)},
                    )
                )
    return found


def read_livesports_qa_questions(
    data: Path, subtitles: bool = False, wordings: dict | None = None
) -> QuestionSet:
    """LiveSports-3K QA: rows of {video_id, video, q_type, OCR, question, answer} with `options` or
    `option_A` to `option_D`; a span as video_start and video_end, or begin and end."""
    found = QuestionSet(find_annotation(data, QA_FILES))
    root = found.annotation.parent
    for number, (where, row) in enumerate(load_records(found.annotation, found.entries)):
        with SkipMalformed(found.entries, where):
            name, options = string_field(row, "video_id"), _options(row)
            start, end = span_fields_us(row, "video_start", "video_end")
            if start is None and end is None:
                start, end = span_fields_us(row, "begin", "end")
            asked = string_field(row, "question")
            kept = {
                "video_id": name,
                "question_id": row.get("question_id", row.get("q_id", number)),
                "q_type": string_field(row, "q_type"),
                "OCR": int(row.get("OCR") in (1, "1", True)),
                "question": asked,
                "options": list(options),
            }
            video = find_video(root, ("videos", "video", "."), string_field_or(row, "video", name))
            found.add(
                Question(
                    f"{name}/{kept['question_id']}",
                    VideoSource(video, start, end),
                    format_question(asked, options),
                    tuple(LETTERS[: len(options)]),
                    options,
                    string_field(row, "answer"),
                    kept,
                )
            )
    return found


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
    benchmark: str, data: str | Path, subtitles: bool = False, wordings: dict[str, str] | None = None
) -> QuestionSet:
    """A benchmark's questions.

    Args:
        benchmark: one of READERS.
        data: the benchmark's folder, or its annotation file there.
        subtitles: Video-MME: with them.
        wordings: OVO-Bench: in place of ours.

    Raises:
        DataError: there is no annotation, or no usable question in it.
    """
    found = QUESTION_READERS[benchmark](Path(data), subtitles, wordings)
    if not found.questions:
        why = "; ".join(found.entries.notes[:1])
        raise DataError(f"{found.annotation}: holds no question that can be asked {why}".rstrip())
    return found


def _options(row: dict[str, Any]) -> tuple[str, ...]:
    if row.get("options") is not None:
        options = parse_string_list(row["options"])
    else:
        options = [str(row[f"option_{c}"]) for c in LETTERS if row.get(f"option_{c}")]
    if not 2 <= len(options) <= len(LETTERS):
        raise MalformedRecord("there are no options")
    return with_letters(options)


def _mvbench_task(stem: str) -> str:
    name = stem.replace("fine_grained", "fine-grained").replace("_", " ")
    return " ".join(word[:1].upper() + word[1:] for word in name.split())


def _subtitles(row: dict[str, Any], root: Path, name: str, found: QuestionSet) -> str:
    """All subtitles of a video joined by spaces; empty when it has none."""
    if isinstance(row.get("subtitles"), str):
        return row["subtitles"]
    path = next(
        (p for d in ("subtitle", "subtitles", ".") if (p := root / d / f"{name}.srt").exists()), None
    )
    if path is None:
        found.entries.problem("without subtitles", name)
        return ""
    cues = re.split(
        r"\n\s*\n", path.read_text(encoding="utf-8-sig", errors="replace").replace("\r", "")
    )
    spoken = []
    for cue in cues:
        _, arrow, body = cue.partition("-->")
        lines = body.split("\n")[1:] if arrow else []
        words = re.sub(r"<[^>]*>|\{\\[^}]*\}", "", " ".join(lines)).replace("\\N", " ").strip()
        if words:
            spoken.append(words)
    return " ".join(spoken)
