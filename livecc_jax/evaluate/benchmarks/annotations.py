"""Each benchmark's questions, from the layout its authors ship (and the one LiveCC made of it)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.ovobench import read_ovobench
from livecc_jax.evaluate.benchmarks.questions import (
    LETTERS,
    Asking,
    Question,
    QuestionSet,
    Source,
    ask,
    find_annotation,
    find_video,
    lettered,
    listed,
    named,
    rows_of,
    span_of,
)
from livecc_jax.evaluate.benchmarks.results import Malformed, Reading, text

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


def read_videomme(data: Path, subtitles: bool = False, wordings: dict | None = None) -> QuestionSet:
    """Video-MME: rows of {video_id, videoID, duration, domain, sub_category, question_id, task_type,
    question, options, answer}; videos in data/, subtitles in subtitle/<videoID>.srt."""
    found = QuestionSet(find_annotation(data, VIDEOMME_FILES))
    root = found.annotation.parent
    if found.annotation.suffix == ".parquet" and root.name == "videomme":
        root = root.parent  # where the authors' repository keeps it
    spoken: dict[str, str] = {}
    for where, row in rows_of(found.annotation, found.entries):
        with Reading(found.entries, where):
            name = text(row, "videoID") if "videoID" in row else text(row, "video_id")
            options = _options(row)
            if subtitles and name not in spoken:
                spoken[name] = _subtitles(row, root, name, found)
            said = spoken[name] if subtitles else None
            kept = {k: text(row, k) for k in ("video_id", "duration", "domain", "sub_category")}
            kept |= {k: text(row, k) for k in ("question_id", "task_type", "question")}
            source = Source(
                find_video(root, ("data", "videos", "video", "."), named(row, "video", name))
            )
            found.add(
                Question(
                    kept["question_id"],
                    source,
                    ask(kept["question"], options, said),
                    tuple(LETTERS[: len(options)]),
                    options,
                    text(row, "answer"),
                    kept | {"options": list(options)},
                )
            )
    return found


def read_mvbench(data: Path, subtitles: bool = False, wordings: dict | None = None) -> QuestionSet:
    """MVBench: json/<task>.json with {video, question, candidates, answer, start, end} and video/, or
    LiveCC's lines of {video, task_type, question, options, answer}."""
    folder = next((d for d in (data / "json", data) if (d / "action_sequence.json").exists()), None)
    if folder is None and data.is_dir() and list(data.glob("json/*.json")):
        folder = data / "json"
    found = QuestionSet(folder or find_annotation(data, MVBENCH_FILES))
    files = sorted(folder.glob("*.json")) if folder else [found.annotation]
    root = data if data.is_dir() else data.parent
    for file in files:
        for where, row in rows_of(file, found.entries):
            with Reading(found.entries, where):
                name = text(row, "video")
                if "candidates" in row:
                    task, place = _mvbench_task(file.stem), MVBENCH_FOLDERS.get(file.stem, "")
                    options = lettered(listed(row["candidates"]))
                    wanted = listed(row["candidates"])
                    if row.get("answer") not in wanted:
                        raise Malformed(f"the answer {row.get('answer')!r:.40} is no candidate")
                    answer = LETTERS[wanted.index(row["answer"])]
                    folders = (f"video/{place}", place, "video", ".")
                else:
                    task, options, answer = text(row, "task_type"), _options(row), text(row, "answer")
                    folders = (".", "video", "videos")
                asked = text(row, "question")
                start, end = span_of(row, "start", "end")
                found.add(
                    Question(
                        f"{task}/{name}/{asked}",
                        Source(find_video(root, folders, name), start, end),
                        ask(asked, options),
                        tuple(LETTERS[: len(options)]),
                        options,
                        answer,
                        {"video": name, "task_type": task, "question": asked, "options": list(options)},
                    )
                )
    return found


def read_livesports_qa(
    data: Path, subtitles: bool = False, wordings: dict | None = None
) -> QuestionSet:
    """LiveSports-3K QA: rows of {video_id, video, q_type, OCR, question, answer} with `options` or
    `option_A` to `option_D`; a span as video_start and video_end, or begin and end."""
    found = QuestionSet(find_annotation(data, QA_FILES))
    root = found.annotation.parent
    for number, (where, row) in enumerate(rows_of(found.annotation, found.entries)):
        with Reading(found.entries, where):
            name, options = text(row, "video_id"), _options(row)
            start, end = span_of(row, "video_start", "video_end")
            if start is None and end is None:
                start, end = span_of(row, "begin", "end")
            asked = text(row, "question")
            kept = {
                "video_id": name,
                "question_id": row.get("question_id", row.get("q_id", number)),
                "q_type": text(row, "q_type"),
                "OCR": int(row.get("OCR") in (1, "1", True)),
                "question": asked,
                "options": list(options),
            }
            video = find_video(root, ("videos", "video", "."), named(row, "video", name))
            found.add(
                Question(
                    f"{name}/{kept['question_id']}",
                    Source(video, start, end),
                    ask(asked, options),
                    tuple(LETTERS[: len(options)]),
                    options,
                    text(row, "answer"),
                    kept,
                )
            )
    return found


READERS: dict[str, Callable[..., QuestionSet]] = {
    "videomme": read_videomme,
    "mvbench": read_mvbench,
    "ovobench": read_ovobench,
    "livesports-qa": read_livesports_qa,
}
ASKING = {
    "videomme": Asking(),
    "mvbench": Asking(),
    "ovobench": Asking("The answer is:\n", "\n"),
    "livesports-qa": Asking(),
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
    found = READERS[benchmark](Path(data), subtitles, wordings)
    if not found.questions:
        why = "; ".join(found.entries.notes[:1])
        raise DataError(f"{found.annotation}: holds no question that can be asked {why}".rstrip())
    return found


def _options(row: dict[str, Any]) -> tuple[str, ...]:
    if row.get("options") is not None:
        options = listed(row["options"])
    else:
        options = [str(row[f"option_{c}"]) for c in LETTERS if row.get(f"option_{c}")]
    if not 2 <= len(options) <= len(LETTERS):
        raise Malformed("there are no options")
    return lettered(options)


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
