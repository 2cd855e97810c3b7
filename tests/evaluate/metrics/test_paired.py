"""Paired tests of two runs: accuracy on the same items, commentary on the same clips."""

import json

import pytest

from livecc_jax.cli import main


def write(path, value):
    path.write_text(json.dumps(value))
    return str(path)


def test_paired_accuracy(tmp_path, capsys):
    """Items are paired: discordant pairs, the exact test, the difference of the headline."""

    def results(responses):
        return [
            {
                "video": f"{i}.mp4",
                "questions": [{"task_type": "T", "question": "?", "answer": "A", "response": response}],
            }
            for i, response in enumerate(responses)
        ]

    a = write(tmp_path / "a.json", results("AAAABBBBBBB"))
    b = write(tmp_path / "b.json", results("ABAAAAAAAB"))  # one item fewer
    out = tmp_path / "c.json"
    assert main(["compare", a, b, "--benchmark", "mvbench", "--json", str(out)]) == 0
    row = json.loads(out.read_text())["rows"][0]
    assert (row["count"], row["only_a"], row["only_b"]) == (10, 1, 5)
    assert row["mcnemar"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert row["difference"] == pytest.approx(40.0)
    assert row["low"] < 40 < row["high"]
    assert "10 items are in both; 1 in A alone and 0 in B alone" in capsys.readouterr().out
    assert main(["score", "mvbench", b, "--baseline", a]) == 0
    assert main(["compare", a, b]) == 2


def test_paired_commentary(tmp_path, capsys):
    """Both runs are scored on their common clips; a run does not differ from itself."""
    words = [[i + 0.1, i + 0.5, f"w{i}"] for i in range(6)]
    events = [
        {"video_id": f"v{n}", "event_id": 1, "begin": 0, "end": 8, "event_asr": words} for n in range(4)
    ]
    reference = tmp_path / "CC.json"
    reference.write_text(json.dumps(events))

    def predictions(name, words_by_clip):
        lines = []
        for n, count in enumerate(words_by_clip):
            turns = [{"start": i, "stop": i + 1, "text": f"w{i}"} for i in range(count)]
            lines.append(json.dumps({"video_id": f"v{n}", "event_id": 1, "turns": turns}))
        (tmp_path / name).write_text("\n".join(lines))
        return str(tmp_path / name)

    a, b = predictions("a.jsonl", (1, 1, 2)), predictions("b.jsonl", (6, 5, 6, 6))
    out = tmp_path / "c.json"
    assert main(["compare", a, b, "--reference", str(reference), "--json", str(out)]) == 0
    assert "3 clips are in both; 1 of B alone" in capsys.readouterr().out
    metrics = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    recall = metrics["word recall"]
    assert recall["a"] == pytest.approx(100 * 4 / 18)
    assert recall["b"] == pytest.approx(100 * 17 / 18)
    assert recall["difference"] == pytest.approx(recall["b"] - recall["a"])
    assert 0 < recall["low"] <= recall["difference"] <= recall["high"]
    assert recall["p"] < 0.01
    assert main(["compare", a, a, "--reference", str(reference), "--json", str(out)]) == 0
    same = {row["name"]: row for row in json.loads(out.read_text())["rows"]}["word recall"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    assert same["p"] == 1
    assert main(["compare", a, str(tmp_path / "none")]) == 2
    assert "none: there is no such file or folder" in capsys.readouterr().err
