"""Write small benchmarks in the layouts of their authors, with the clips of this repository."""

import json
import shutil
from pathlib import Path

from livecc_jax.cli import main

CLIPS = Path(__file__).parents[2] / "data/clips"
BUNNY, BIKES = CLIPS / "bbb_espeak_narration_30s.mp4", CLIPS / "bikes.mp4"


def write_videomme(root):
    """Two videos with three questions each and a missing one; one video has subtitles."""
    (root / "data").mkdir(parents=True)
    (root / "subtitle").mkdir()
    shutil.copy(BUNNY, root / "data/bunny.mp4")
    shutil.copy(BIKES, root / "data/bikes.mp4")
    (root / "subtitle/bunny.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nA <i>big</i> rabbit\ncomes\n\n"
        "2\n00:00:03,000 --> 00:00:04,000\n \n\n3\n00:00:05,000 --> 00:00:06,000\nout.\n"
    )
    rows = [
        {
            "video_id": f"{v:03}", "videoID": name, "duration": "short", "domain": "Knowledge",
            "sub_category": "Law", "question_id": f"{v:03}-{q}", "task_type": "OCR Problems",
            "question": f"Which {q}?", "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
            "answer": "ABCD"[q],
        }
        for v, name in enumerate(("bunny", "bikes", "gone"), 1)
        for q in (1, 2, 3)
    ]  # fmt: skip
    # In LiveCC's file each line is JSON in a JSON string. One line is broken and one is repeated.
    lines = [json.dumps(json.dumps(row)) for row in rows]
    (root / "videomme.jsonl").write_text("\n".join([*lines, '{"video_id": "0', lines[0]]) + "\n")
    return root


def write_mvbench(root):
    """Two tasks in the authors' layout: candidates, spans, and a video that is a folder of frames."""
    (root / "json").mkdir(parents=True)
    star, frames = root / "video/star/Charades_v1_480", root / "video/tvqa/frames_fps3_hq/clip_00"
    star.mkdir(parents=True)
    frames.mkdir(parents=True)
    shutil.copy(BUNNY, star / "X.mp4")
    for i in range(12):
        shutil.copy(CLIPS / "frame.png", frames / f"{i:05}.png")
    record = {
        "video": "X.mp4", "question": "What next?", "candidates": ["sit", "run", "eat"],
        "answer": "run", "start": 2.0, "end": 6.0,
    }  # fmt: skip
    (root / "json/action_sequence.json").write_text(
        json.dumps([record, record | {"question": "And then?", "answer": "fly"}])
    )
    other = {"video": "clip_00", "question": "Who?", "candidates": ["he", "she"], "answer": "he"}
    (root / "json/episodic_reasoning.json").write_text(json.dumps([other | {"start": 0.5, "end": 3.0}]))
    return root


def write_ovobench(root):
    """The authors' layout: items asked once, and items asked at several times."""
    (root / "src").mkdir(parents=True)
    shutil.copy(BUNNY, root / "src/a.mp4")
    (root / "ovo_bench_new.json").write_text(
        json.dumps(
            [
                {"id": 0, "task": "OJR", "video": "src/a.mp4", "question": "What?", "realtime": 4,
                 "options": ["a fox", "a rabbit"], "gt": 1},
                {"id": 1, "task": "EPM", "video": "src/a.mp4", "question": "Where?", "realtime": 4,
                 "options": ["here", "there"], "gt": 0},
                {"id": 2, "task": "REC", "video": "src/a.mp4", "activity": "jump",
                 "test_info": [{"realtime": 3, "count": 0}, {"realtime": 8, "count": 12}]},
                {"id": 3, "task": "SSR", "video": "src/a.mp4",
                 "test_info": [{"realtime": 5, "step": "stretch", "type": 1}]},
                {"id": 4, "task": "CRR", "video": "src/a.mp4", "question": "Why?", "ask_time": 2,
                 "test_info": [{"realtime": 7, "type": 0}, {"realtime": 99, "type": 1}]},
                {"id": 5, "task": "OJR", "video": "src/a.mp4", "question": "What?", "realtime": 4,
                 "options": ["a fox"], "gt": 3},
            ]
        )
    )  # fmt: skip
    return root


def write_livesports_qa(root):
    """LiveSports-3K QA with the columns of the published file."""
    (root / "videos").mkdir(parents=True)
    shutil.copy(BIKES, root / "videos/v1.mp4")
    rows = [
        {
            "video_id": "v1", "video": "v1.mp4", "q_type": kind, "OCR": ocr, "question": f"{kind}?",
            "option_A": "x", "option_B": "y", "option_C": "z", "option_D": "w", "answer": "B",
        }
        for kind, ocr in (("Who", 1), ("When", 0))
    ]  # fmt: skip
    (root / "LiveSports-3K-QA.json").write_text(json.dumps(rows))
    return root


def write_livesports_cc(root):
    """LiveSports-3K CC: events with transcripts, one of them of a missing video."""
    (root / "videos").mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(BUNNY, root / "videos" / name)
    event = {"event_title": "A match", "preasr_text": "so far", "class": "Bowling"}
    spans = {"a": (2.0, 7.0), "b": (1.0, 4.0), "c": (0.0, 9.0)}
    rows = [
        event | {
            "video_id": name, "event_id": 3, "video": f"{name}.mp4", "begin": begin, "end": end,
            "event_asr": json.dumps([[begin, end, "one two three"]]),
        }
        for name, (begin, end) in spans.items()
    ]  # fmt: skip
    (root / "LiveSports-3K-CC.json").write_text(json.dumps([*rows, rows[0], {"video_id": "d"}]))
    return root


WRITERS = {
    "videomme": write_videomme,
    "mvbench": write_mvbench,
    "ovobench": write_ovobench,
    "livesports-qa": write_livesports_qa,
}
SMALL_OPTIONS = ["--pixel-budget", "16", "--max-frames", "6"]


def run_evaluate(benchmark, checkpoint, data, out, *options):
    """Exit code of `livecc evaluate` with few small frames."""
    command = ["evaluate", benchmark, checkpoint, "--data", str(data), "--out", str(out)]
    return main([*command, *SMALL_OPTIONS, *options])
