"""Each benchmark from its authors' layout to a report, with shipped clips and a tiny model."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.names import table
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.cli import main
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.evaluate.benchmarks.annotations import READERS, read_questions
from livecc_jax.evaluate.metrics.timed import read_references
from livecc_jax.evaluate.run import run_folder
from livecc_jax.evaluate.run.choice import Chooser
from livecc_jax.evaluate.run.commentary import event_prompt, read_events
from livecc_jax.evaluate.run.run_folder import read_answers
from livecc_jax.evaluate.run.teacher_forced import force
from livecc_jax.evaluate.run.video_turns import frames_of
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patch_places, patchify
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.model.vocabulary import fit_vocabulary
from livecc_jax.stream.session import Session, StreamModel
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate, Visual
from livecc_jax.timeline.positions import token_positions

CLIPS = Path(__file__).parents[2] / "data/clips"
BUNNY, BIKES = CLIPS / "bbb_espeak_narration_30s.mp4", CLIPS / "bikes.mp4"


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_tokenizer):
    """A tiny checkpoint in HuggingFace layout."""
    tokenizer = open_tokenizer(small_tokenizer)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    # One layer: what layers compute is tested elsewhere, and each costs compiling.
    config = dataclasses.replace(
        config,
        text=dataclasses.replace(config.text, max_positions=4096, layers=1),
        vision=dataclasses.replace(config.vision, depth=1),
    )
    rng = np.random.default_rng(0)
    flat = {}
    for e in table(config):
        flat[e.path] = jnp.asarray(0.2 * rng.standard_normal(e.full_shape), jnp.float32)
        if "norm" in e.path and not e.path.endswith("bias"):
            flat[e.path] += 1
    # Ids that no piece has, up to the padded size, are never said.
    flat["text/embed"] = flat["text/embed"].at[tokenizer.vocab_size :].set(0)
    home = tmp_path_factory.mktemp("model") / "hf"
    export_hf(home, config, LiveCCBlock(), traverse_util.unflatten_dict(flat, sep="/"), tokenizer)
    return str(home)


def videomme(root):
    """Two videos of three questions, one video that is missing; subtitles of one."""
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
    # LiveCC's file holds each line as JSON within JSON; a broken line and a repeated one besides.
    lines = [json.dumps(json.dumps(row)) for row in rows]
    (root / "videomme.jsonl").write_text("\n".join([*lines, '{"video_id": "0', lines[0]]) + "\n")
    return root


def mvbench(root):
    """Two tasks as their authors ship them: candidates, own folders, spans, frames as pictures."""
    (root / "json").mkdir(parents=True)
    star, frames = root / "video/star/Charades_v1_480", root / "video/tvqa/frames_fps3_hq/clip_00"
    star.mkdir(parents=True)
    frames.mkdir(parents=True)
    shutil.copy(BUNNY, star / "X.mp4")
    for i in range(12):
        shutil.copy(CLIPS / "frame.png", frames / f"{i:05}.png")
    asked = {
        "video": "X.mp4", "question": "What next?", "candidates": ["sit", "run", "eat"],
        "answer": "run", "start": 2.0, "end": 6.0,
    }  # fmt: skip
    (root / "json/action_sequence.json").write_text(
        json.dumps([asked, asked | {"question": "And then?", "answer": "fly"}])
    )
    other = {"video": "clip_00", "question": "Who?", "candidates": ["he", "she"], "answer": "he"}
    (root / "json/episodic_reasoning.json").write_text(json.dumps([other | {"start": 0.5, "end": 3.0}]))
    return root


def ovobench(root):
    """The nested layout: an item asked once, and items asked at each of several times."""
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


def livesports(root):
    """The columns of the published file."""
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


MAKERS = {
    "videomme": videomme, "mvbench": mvbench, "ovobench": ovobench, "livesports-qa": livesports
}  # fmt: skip
OPTIONS = ["--pixel-budget", "16", "--max-frames", "6"]


def evaluate(benchmark, model, data, out, *more):
    return main(["evaluate", benchmark, model, "--data", str(data), "--out", str(out), *OPTIONS, *more])


def test_videomme_killed_and_resumed(model, tmp_path, monkeypatch, capsys):
    """The same answers whether killed or not; what is missing is counted, and asked again."""
    data = videomme(tmp_path / "videomme")
    assert evaluate("videomme", model, data, tmp_path / "whole") == 0
    out = capsys.readouterr().out
    assert "6 questions answered" in out
    assert "3 could not be asked" in out
    assert "3 unanswered" in out
    assert "Of the annotation: 1 malformed, 1 duplicate." in out
    whole = read_answers(tmp_path / "whole/answers.jsonl")
    assert "gone.mp4" in whole["003-1"]["error"]

    seen = []

    def dies(self, shown):
        seen.append(shown)
        if len(seen) > 1:
            raise KeyboardInterrupt
        return choose(self, shown)

    choose = Chooser.ask
    with monkeypatch.context() as patch:
        patch.setattr(Chooser, "ask", dies)
        assert evaluate("videomme", model, data, tmp_path / "cut") == 130
    answers = tmp_path / "cut/answers.jsonl"
    lines = answers.read_text().splitlines()
    assert len(lines) == 3
    # A kill within a line, and within a video's questions.
    answers.write_text("\n".join(lines[:2]) + "\n" + lines[2][:25])
    # What is left is asked on four devices, two videos at once.
    assert evaluate("videomme", model, data, tmp_path / "cut", "--mesh", "data=2,tensor=2") == 0
    assert "4 questions answered in" in capsys.readouterr().out
    cut = read_answers(answers)
    assert cut.keys() == whole.keys()
    for key in whole:
        assert cut[key].get("response") == whole[key].get("response")
        np.testing.assert_allclose(cut[key].get("logits", []), whole[key].get("logits", []), atol=1e-3)
    for name in ("results.json", "report.md", "report.html", "report.json", "run.json"):
        assert (tmp_path / "cut" / name).stat().st_size
    # Nothing is left but the missing video: once it is there, only it is asked.
    shutil.copy(BIKES, data / "data/gone.mp4")
    assert evaluate("videomme", model, data, tmp_path / "cut") == 0
    assert "3 questions answered in" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "whole"), str(tmp_path / "cut")]) == 0
    assert "9 items are in both" in capsys.readouterr().out
    # However it is divided, what is answered is not asked again.
    assert evaluate("videomme", model, data, tmp_path / "cut", "--share", "1/2") == 0
    assert "0 questions answered in" in capsys.readouterr().out
    # Another setting does not mix with these answers.
    assert evaluate("videomme", model, data, tmp_path / "cut", "--positions", "sequential") == 2
    assert "was begun with positions 'mrope'" in capsys.readouterr().err
    assert evaluate("videomme", model, data, tmp_path / "cut", "--limit", "0") == 2


def test_two_processes_write_what_one_does(model, tmp_path):
    """Processes that find each other go on with what one began: the same results, one report."""
    data, two = videomme(tmp_path / "videomme"), tmp_path / "two"
    assert evaluate("videomme", model, data, tmp_path / "one") == 0
    shutil.copytree(tmp_path / "one", two)
    lines = (two / "answers.jsonl").read_text().splitlines(keepends=True)
    (two / "answers.jsonl").write_text(lines[1])
    for name in ("results.json", "report.json"):
        (two / name).unlink()
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = ["evaluate", "videomme", model, "--data", str(data), "--out", str(two), *OPTIONS]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "livecc_jax.cli", *command],
            cwd=CLIPS.parents[1],
            text=True,
            stdout=subprocess.PIPE,
            env=os.environ
            | {
                "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
                "TPU_SKIP_MDS_QUERY": "1",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(number),
            },
        )
        for number in range(2)
    ]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0]
    # Of three videos: two (one of them is missing), and one.
    assert "2 questions answered" in said[0]
    assert "3 questions answered" in said[1]
    assert [("report.md" in text) for text in said] == [True, False]
    assert sorted(p.name for p in two.glob("answers*")) == [
        "answers-0-of-2.jsonl", "answers-1-of-2.jsonl", "answers.jsonl"
    ]  # fmt: skip
    assert (two / "results.json").read_text() == (tmp_path / "one/results.json").read_text()
    reports = [json.loads((d / "report.json").read_text()) for d in (tmp_path / "one", two)]
    assert [r["setting"]["processes"] for r in reports] == [1, 2]
    assert reports[0]["counts"] == reports[1]["counts"]


def test_subtitles_and_the_other_layouts(tmp_path):
    data = videomme(tmp_path / "videomme")
    plain = {q.id: q.text for q in read_questions("videomme", data).questions}
    assert plain["001-1"] == (
        "Which 1?\nA. One.\nB. Two.\nC. Three.\nD. Four.\nPlease select the correct answer."
    )
    found = read_questions("videomme", data, subtitles=True)
    spoken = {q.id: q.text for q in found.questions}
    assert spoken["001-1"] == (
        "This video's subtitles are listed below:\nA big rabbit comes out.\n"
        "According to the video and subtitles, " + plain["001-1"]
    )
    assert found.entries.problems["without subtitles"] == 2
    import pyarrow
    import pyarrow.parquet

    rows = [json.loads(json.loads(x)) for x in (data / "videomme.jsonl").read_text().splitlines()[:9]]
    (data / "videomme").mkdir()
    file = data / "videomme/test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    for where in (file, data):
        (data / "videomme.jsonl").unlink(missing_ok=True)
        again = {q.id: q for q in read_questions("videomme", where).questions}
        assert {k: q.text for k, q in again.items()} == plain
        assert again["001-1"].source.path == str(data / "data/bunny.mp4")


def test_ovobench_is_unfolded(tmp_path):
    """One question for each test time, watched up to then; the answer is yes, no or a number."""
    found = read_questions("ovobench", ovobench(tmp_path / "data"))
    told = {q.id: (q.answer, q.source.start_us, q.source.end_us) for q in found.questions}
    s = 1_000_000
    assert told == {
        "OJR/0": ("B", 0, 4 * s),
        "EPM/1": ("A", 0, 4 * s),
        "REC/2#0": ("0", 0, 3 * s),
        "REC/2#1": ("12", 0, 8 * s),
        "SSR/3#0": ("Yes", 0, 5 * s),
        "CRR/4#0": ("No", 2 * s, 7 * s),
        "CRR/4#1": ("Yes", 2 * s, 99 * s),
    }
    assert found.entries.problems["malformed"] == 1
    assert "jump" in found.questions[2].text
    assert len(found.questions[0].options) == 17
    theirs = {"REC": "Count: {activity}"}
    asked = read_questions("ovobench", tmp_path / "data", wordings=theirs).questions[2].text
    assert asked == "Count: jump"


@pytest.mark.parametrize(
    ("benchmark", "asked", "videos"),
    [("mvbench", 2, 2), ("ovobench", 7, 6), ("livesports-qa", 2, 1)],
)
def test_each_benchmark(benchmark, asked, videos, model, tmp_path, monkeypatch, capsys):
    """From files to a table; each span of a video is seen once."""
    seen = []
    watch = run_folder.watch
    monkeypatch.setattr(run_folder, "watch", lambda *args: seen.append(args) or watch(*args))
    data = MAKERS[benchmark](tmp_path / "data")
    # Two processes share the videos; the second to finish writes the report.
    for share in ("0/2", "1/2"):
        assert evaluate(benchmark, model, data, tmp_path / "out", "--share", share) == 0
    out = capsys.readouterr().out
    assert len(seen) == videos
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert told["counts"]["items"] == asked
    assert told["counts"]["unanswered"] == 0
    assert told["setting"]["annotation_sha256"]
    assert "95% interval" in out
    known = {q.id: q for q in READERS[benchmark](data).questions}
    answers = run_folder.all_answers(tmp_path / "out")
    assert answers.keys() == known.keys()
    for key, row in answers.items():
        best = int(np.argmax(row["logits"]))
        assert row["response"] == known[key].responses[best]


def livesports_cc(root):
    """Events with transcripts; one of a video that is not there."""
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


def forced_by_hand(checkpoint, prompt, frames):
    """For each turn of event a: (tokens of words, nats of its supervised tokens)."""
    tokenizer = checkpoint.open_tokenizer()
    template, special = ChatTemplate(tokenizer), tokenizer.special
    patches, grid = patchify(frames)
    pairs, height, width = grid
    tokens, grids, answers = [], [], []
    for number, (shown, label, text) in enumerate(
        [(3, "0.0-3.0", "one"), (1, "3.0-4.0", "two"), (1, "4.0-5.0", "three")]
    ):
        grids.append((shown, height, width))
        asked = (f"Time={label}s", Visual("video", grids[-1]), *([prompt] if number == 0 else []))
        tokens += (template.continuation if number else template.opening)(asked).tokens.tolist()
        said = tokenizer.encode(text + " ...")
        answers.append((len(tokens), len(said) + 1, len(tokenizer.encode(text))))
        tokens += said
    tokens = np.array([*tokens, special.im_end], np.int32)
    is_vision = tokens == special.video_pad
    window = height * width
    rows, cols = patch_places(height, width)
    row = {
        "tokens": tokens,
        "segment_ids": np.ones(len(tokens), np.int32),
        "positions": token_positions(tokens, np.array(grids), special, "mrope")[0],
        "patches": patches.reshape(pairs, window, -1),
        "patch_pairs": np.ones((pairs, window), np.int32),
        "patch_rows": np.tile(rows, (pairs, 1)),
        "patch_cols": np.tile(cols, (pairs, 1)),
        "vision_index": np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32),
    }
    whole = jax.jit(lambda params, row: bind(checkpoint.config, params)(row))
    logits = whole(checkpoint.load_params(np.float32), {k: v[None] for k, v in row.items()})[0]
    costs = -np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)
    return [
        (words, costs[np.arange(at - 1, at + n - 1), tokens[at : at + n]]) for at, n, words in answers
    ]


def test_commentary_on_events(model, tmp_path, capsys):
    """Predictions in the published layout, equal to a session by hand, scored beside baselines."""
    data, out = livesports_cc(tmp_path / "data"), tmp_path / "out"
    args = ["evaluate", "livesports-cc", model, "--data", str(data), "--pixel-budget", "16"]
    args += ["--max-new-tokens", "3"]
    assert main([*args, "--out", str(out), "--share", "0/2"]) == 0
    assert "1 events are in other shares" in capsys.readouterr().out
    assert main([*args, "--out", str(out), "--share", "1/2"]) == 0
    told = capsys.readouterr().out
    assert "Of the annotation: 1 duplicate, 1 malformed." in told
    assert "Could not be asked: 1" in told
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [(r["video_id"], r["event_id"], r["begin"], r["end"]) for r in rows] == [
        ("a", 3, 2.0, 7.0), ("b", 3, 1.0, 4.0)
    ]  # fmt: skip
    assert [(t["start"], t["stop"]) for t in rows[0]["turns"]] == [(2, 5), (5, 6), (6, 7)]
    report = json.loads((out / "report.json").read_text())
    assert report["clips"] == 2
    assert report["problems"]["missing"] == 1
    assert "silence only" in report["metrics"]

    # By hand: the same frames through a session.
    checkpoint = open_checkpoint(model)
    stream = StreamModel(
        checkpoint.config, checkpoint.load_params(np.float32), checkpoint.open_tokenizer()
    )
    options = StreamOptions(max_new_tokens=3, repetition_penalty=1.15, context=4096)
    event = read_events(data).events[0]
    assert "A match" in event_prompt(event, "instruct")
    assert event_prompt(event, "base") == "so far"
    session = Session(stream, options, event_prompt(event, "instruct"))
    frames = frames_of(event.source, PixelBudget.parse("16"))
    said = [session.push(frames[a:b]) for a, b in ((0, 6), (6, 8), (8, 10))]
    assert [s.text for s in said] == [t["text"] for t in rows[0]["turns"]]
    assert rows[0]["pred"] == " ".join(s.words for s in said if s.words) + "..."

    # What the transcript costs, against full logits of the whole conversation.
    by_hand = forced_by_hand(checkpoint, event_prompt(event, "instruct"), frames)
    forced = rows[0]["forced"]
    assert forced["left_out"] == 0
    assert [(t["start"], t["stop"]) for t in forced["turns"]] == [(2, 5), (5, 6), (6, 7)]
    for turn, (words, nats) in zip(forced["turns"], by_hand, strict=True):
        assert (turn["word_tokens"], turn["tokens"]) == (words, len(nats))
        np.testing.assert_allclose(
            [turn["word_nats"], turn["nats"]], [nats[:words].sum(), nats.sum()], rtol=1e-4
        )
    reference = read_references(data / "LiveSports-3K-CC.json")[event.id]
    again = force(stream, frames, reference, event_prompt(event, "instruct"), "mrope", 4096, chunk=256)
    np.testing.assert_allclose([t.nats for t in again.turns], [x.sum() for _, x in by_hand], rtol=1e-4)
    short = force(stream, frames, reference, event_prompt(event, "instruct"), "mrope", 310, chunk=256)
    assert short.left_out == 3 - len(short.turns) == 1
    tokens = sum(t["word_tokens"] for r in rows for t in r["forced"]["turns"])
    nats = sum(t["word_nats"] for r in rows for t in r["forced"]["turns"])
    measured = report["metrics"]["prediction"]["perplexity, reference's words"]
    assert measured == pytest.approx(np.exp(nats / tokens))
    assert [c["from_s"] for c in report["perplexity_by_second"]] == [0, 3, 4]
    assert f"over 2 of 2 clips, {tokens} tokens of words; 0 words" in told

    # A baseline without memory: each turn is the first of a session over the last frames.
    assert main([*args, "--out", str(tmp_path / "k"), "--memory", "6", "--limit", "1"]) == 0
    row = json.loads((tmp_path / "k/predictions.jsonl").read_text())
    alone = Session(stream, options, event_prompt(event, "instruct")).push(frames[2:8])
    assert row["turns"][1]["text"] == alone.text
    assert main([*args, "--out", str(tmp_path / "k"), "--memory", "3"]) == 2
    # Against each other: the folders know their transcripts.
    assert main(["compare", str(tmp_path / "k"), str(out)]) == 0
    assert "1 clips are in both; 1 of B alone" in capsys.readouterr().out
