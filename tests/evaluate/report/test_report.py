"""Reports: complete, self-contained, and safe against markup in responses and names."""

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.evaluate.report.thumbnails import MAX_BYTES, encode_jpeg
from livecc_jax.media.video import probe, read_frames
from tests.reports.pages import check_page

ANNOTATIONS = Path(__file__).parents[3] / "data/annotations/narration.jsonl"
CLIP = Path(__file__).parents[3] / "data/clips/bbb_espeak_narration_30s.mp4"
MARKUP = '<script>alert("x")</script> | `_*`'


def check_report(path):
    """Checks a report's page; returns its text, the parsed page and its drawings."""
    text = path.read_text()
    return text, *check_page(text)


def test_benchmark_report(tmp_path, capsys):
    def results(name, responses):
        path = tmp_path / name
        path.write_text(
            json.dumps(
                [
                    {
                        "video_id": f"v{i}",
                        "questions": [
                            {
                                "question_id": i, "q_type": MARKUP if i % 2 else "Who", "OCR": 0,
                                "answer": "A", "response": response,
                            }
                        ],
                    }
                    for i, response in enumerate(responses)
                ]
            )
        )  # fmt: skip
        return str(path)

    run, baseline = results("ours.json", "AAAB"), results("theirs.json", "ABAB")
    out = tmp_path / "report"
    assert main(["score", "livesports-qa", run, "--baseline", baseline, "--report", str(out)]) == 0
    page, _, drawings = check_report(out / "report.html")
    assert len(drawings) == 2  # overall and by question type
    assert "overall 75.0%" in page
    assert "1,170 missing" in page
    record = json.loads((out / "report.json").read_text())
    assert record["headline"]["accuracy"] == 75.0
    assert record["difference"][0]["only_b"] == 1
    assert record["setting"]["numpy"]
    markdown = (out / "report.md").read_text()
    table = [line for line in markdown.splitlines() if line.startswith("| q")]
    # The name with markup is one cell, here and in the comparison.
    assert len(table) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {8, 10}
    assert re.findall(r".<script", markdown)[0] == "\\<script"


def test_commentary_report(tmp_path, capsys):
    one = tmp_path / "one.jsonl"
    one.write_text(ANNOTATIONS.read_text().splitlines()[0] + "\n")
    predictions = tmp_path / "predictions.jsonl"
    turns = [(0, 3, "A big rabbit ..."), (3, 4, f"{MARKUP} ..."), (4, 5, " ...")]
    predictions.write_text(
        "\n".join(json.dumps({"start": a, "stop": b, "text": t}) for a, b, t in turns) + "\n"
    )
    out = tmp_path / "report"
    args = ["score", "commentary", str(predictions), "--reference", str(one), "--report", str(out)]
    assert main(args) == 0
    page, _, drawings = check_report(out / "report.html")
    assert len(drawings) == 2  # the lateness histogram and the clip's timeline
    assert "3 matched words" in page
    assert "@0-30" in page
    record = json.loads((out / "report.json").read_text())
    assert record["metrics"]["prediction"]["word precision"] == pytest.approx(100 * 3 / 7)
    assert not check_page(page)[0].loaded  # the clip is not next to the copied annotation


def test_thumbnails_are_frames_of_the_clip(tmp_path, capsys):
    """They are small, inside the page, and show the frames at the times of their captions."""
    one = tmp_path / "one.jsonl"
    example = json.loads(ANNOTATIONS.read_text().splitlines()[0])
    example[0]["content"][0]["video"] = str(CLIP)
    one.write_text(json.dumps(example) + "\n")
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text('{"start": 0, "stop": 3, "text": "A big rabbit ..."}\n')
    out = tmp_path / "report"
    args = ["score", "commentary", str(predictions), "--reference", str(one), "--report", str(out)]
    assert main(args) == 0
    page, parsed, _ = check_report(out / "report.html")
    images = re.findall(r'<img src="(.*?)" width="(\d+)" height="(\d+)" alt="(.*?) s">', page)
    assert [float(at) for *_, at in images] == [2.5, 7.5, 12.5, 17.5, 22.5, 27.5]
    assert [address for address, *_ in images] == parsed.loaded
    info = probe(CLIP)
    for address, width, height, at in images:
        jpeg = base64.b64decode(address.partition("base64,")[2], validate=True)
        assert len(jpeg) <= MAX_BYTES
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert picture.shape == (int(height), int(width), 3) == (72, 128, 3)
        frames = read_frames(info, [int(np.searchsorted(info.frame_times_us, float(at) * 1e6))])
        expected = cv2.resize(frames[0], (128, 72), interpolation=cv2.INTER_AREA)
        assert (
            np.abs(picture.astype(int) - expected).mean() < 8
        )  # frames of other scenes differ by over 50
    assert "Pictures in report.html" in (out / "report.md").read_text()
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    assert encode_jpeg(noise) is None
