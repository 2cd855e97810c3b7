"""The command line: bad input ends with one sentence that names the file, and exit code 2."""

import dataclasses
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from livecc_jax.api.models import configure_compilation_cache
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.cli import main
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.text.open import open_tokenizer
from livecc_jax.train.config import Config, flatten, load_config
from livecc_jax.train.overrides import override
from tests.support.media import make_video
from tests.support.random_models import initial_params

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "data/clips/bbb_oddsize_317x179_derived.mp4"


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_tokenizer):
    """A tiny checkpoint in HuggingFace layout, with its own tokenizer."""
    home = tmp_path_factory.mktemp("model")
    tokenizer = open_tokenizer(small_tokenizer)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    block = LiveCCBlock(pixel_budget="16")
    export_hf(home / "hf", config, block, initial_params(config), tokenizer)
    return home / "hf"


@pytest.fixture
def fails(capfd):
    """Returns a function that runs a command, which must fail, and returns its one sentence."""

    def run(*argv):
        code = main([str(a) for a in argv])
        out = capfd.readouterr()
        assert code == 2, out
        sentence = out.err.strip()  # native decoders write to the same file descriptor
        assert "\n" not in sentence
        assert "Traceback" not in sentence
        assert sentence.startswith(f"livecc {argv[0]}: ")
        return sentence

    return run


def write_annotation(path, video, **span):
    user = {"role": "user", "content": [{"type": "video", "video": str(video), **span}]}
    stream = {"type": "text_stream", "text_stream": [[0.5, 1.0, "hello"]]}
    path.write_text(json.dumps([user, {"role": "assistant", "content": [stream]}]) + "\n")
    return path


def write_broken_videos(folder):
    """Writes videos that cannot be decoded; returns their names, and one that does not exist."""
    video = CLIP.read_bytes()
    files = {
        "truncated.mp4": video[: len(video) * 2 // 3],
        "headless.mp4": video[:400],
        "empty.mp4": b"",
        "text.mp4": b"This is no video at all.\n" * 50,
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    return [*files, "folder.mp4", "missing.mp4"]


def test_broken_videos(fails, model, tmp_path):
    for name in write_broken_videos(tmp_path):
        path = write_annotation(tmp_path / "a.jsonl", name)
        sentence = fails("inspect", path, "--model", model)
        assert name in sentence
        sentence = fails("index", path, "--out", tmp_path / "index", "--model", model)
        assert "none of 1 examples is usable" in sentence
        assert name in sentence
        assert name in fails("stream", model, tmp_path / name)
        assert name in fails("ask", model, tmp_path / name, "What is it?")


def test_extreme_aspect_ratio(fails, model, tmp_path):
    cv2.imwrite(str(tmp_path / "thin.png"), np.zeros((3, 900, 3), np.uint8))
    turns = [
        {"role": "user", "content": [{"type": "image", "image": "thin.png"}]},
        {"role": "assistant", "content": "A line."},
    ]
    (tmp_path / "a.jsonl").write_text(json.dumps(turns) + "\n")
    sentence = fails("inspect", tmp_path / "a.jsonl", "--model", model)
    assert "thin.png" in sentence
    assert "aspect ratio is above 200" in sentence


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b'[{"role": "user", \n', "broken JSON"),
        (b'["\xff"]\n', "not UTF-8"),
        (b'["a"]\n["b"]\n[0, 3]\n', "do not match its lines"),
        (None, "cannot be read"),
    ],
)
def test_broken_annotations(fails, model, tmp_path, content, reason):
    path = tmp_path / "broken.jsonl"
    if content is not None:
        path.write_bytes(content)
    for command in (["inspect", path], ["index", path, "--out", tmp_path / "index"]):
        sentence = fails(*command, "--model", model)
        assert str(path) in sentence
        assert reason in sentence
    assert not (tmp_path / "index").exists()


def test_invalid_examples(fails, model, tmp_path):
    path = write_annotation(tmp_path / "a.jsonl", CLIP, video_start=4, video_end=2)
    assert "video_end 2 is not after video_start 4" in fails("inspect", path, "--model", model)
    path = write_annotation(tmp_path / "a.jsonl", CLIP)
    turns = json.loads(path.read_text())
    turns[1]["content"][0]["text_stream"] = [[2, 3, "late"], [0, 1, "early"]]
    path.write_text(json.dumps(turns) + "\n")
    sentence = fails("inspect", path, "--model", model)
    assert f"{path} line 1" in sentence
    assert "runs backwards" in sentence
    assert "no example 7" in fails("inspect", path, "--model", model, "--example", "7")


def test_broken_checkpoints(fails, model, tmp_path):
    copy = tmp_path / "copy"

    def fresh_copy():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(model, copy)
        return copy

    assert "no such checkpoint" in fails("stream", tmp_path / "gone", CLIP)
    weights = next(fresh_copy().glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert weights.name in fails("stream", copy, CLIP)
    config = fresh_copy() / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 128'))
    assert str(copy) in fails("convert", copy, tmp_path / "out", "--to", "hf")
    (fresh_copy() / "config.json").write_text("{")
    assert "config.json" in fails("stream", copy, CLIP)
    (fresh_copy() / "tokenizer.model").unlink()
    assert "tokenizer" in fails("stream", copy, CLIP)
    assert not (tmp_path / "out").exists()


def test_broken_training_configs(fails, model, tmp_path):
    config = ROOT / "configs/demo.py"
    run = ["--run", tmp_path / "run"]
    assert "no config field 'data.token'" in fails("train", config, *run, "--data.token", "5")
    assert "takes int" in fails("train", config, *run, "--data.tokens", "many")
    assert "sets no data.index" in fails("train", config, *run)
    index = ["--data.index", tmp_path / "index"]
    assert str(tmp_path / "index") in fails("train", config, *run, *index)
    assert "no such config file" in fails("train", tmp_path / "gone.py")
    (tmp_path / "odd.py").write_text("config = 3\n")
    assert "odd.py: it must define `config`" in fails("train", tmp_path / "odd.py")
    (tmp_path / "bad.py").write_text(
        "from livecc_jax.train.config import Config\nconfig = Config(spead=1)\n"
    )
    assert "spead" in fails("train", tmp_path / "bad.py")
    write_annotation(tmp_path / "a.jsonl", CLIP)
    main(["index", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "index"), "--model", str(model)])
    sentence = fails("train", config, *run, *index, "--tokenizer", ROOT / "data/tokenizer")
    assert "another tokenizer" in sentence
    sentence = fails("train", config, *run, *index, "--tokenizer", model, "--mesh.fsdp", "3")
    assert "mesh.fsdp=3" in sentence
    assert not list((tmp_path / "run").glob("*/params"))


def test_invalid_options(fails, model, tmp_path):
    for option, value in {
        "start": "nan", "end": "0", "temperature": "nan", "repetition-penalty": "inf",
        "silence-base": "2", "max-new-tokens": "0", "pixel-budget": "much",
    }.items():  # fmt: skip
        assert option.split("-")[0] in fails("stream", model, CLIP, f"--{option}", value)
    assert "--ask 'soon:what?' is not of the form" in fails(
        "stream", model, CLIP, "--ask", "soon:what?"
    )
    assert "--start must be" in fails("stream", model, CLIP, "--start", "-5")
    assert CLIP.name in fails("stream", model, CLIP, "--start", "99")
    ask = ("ask", model, CLIP, "Why?")
    assert "max-new-tokens" in fails(*ask, "--max-new-tokens", "0")
    assert "max-frames must be at least 2" in fails(*ask, "--max-frames", "1")
    assert "--end 1 is not after --start 2" in fails(*ask, "--start", "2", "--end", "1")
    assert "no frame between 99 s" in fails(*ask, "--start", "99")
    assert "must say something" in fails(*ask, " ")
    twice = ("--query", "a", "--query", "b")
    assert "--query is given 2 times for 3" in fails("watch", model, CLIP, CLIP, CLIP, *twice)
    assert "--warm-up 'big' is not of the form" in fails("watch", model, CLIP, "--warm-up", "big")
    assert "one stream is split over mesh.tensor alone" in fails(
        "stream", model, CLIP, "--mesh", "data=2"
    )
    (tmp_path / "file").write_text("")
    path = write_annotation(tmp_path / "a.jsonl", CLIP)
    out = tmp_path / "file/index"
    assert str(tmp_path / "file") in fails("index", path, "--model", model, "--out", out)
    run = ["--run", tmp_path / "file", "--data.index", tmp_path / "index"]
    sentence = fails("train", ROOT / "configs/demo.py", *run)
    assert "file: the run must be a directory" in sentence


def test_stream_files_agree_with_the_terminal(model, tmp_path, capsys):
    """Times are those of the source, also with --start; two devices give the same words."""
    files = {kind: tmp_path / f"out.{kind}" for kind in ("jsonl", "vtt", "srt")}
    argv = [model, CLIP, "--start", "1.5", *(x for k, p in files.items() for x in (f"--{k}", p))]
    assert main(["stream", *map(str, argv)]) == 0
    lines = [json.loads(x) for x in files["jsonl"].read_text().splitlines()]
    assert [(x["start"], x["stop"]) for x in lines] == [(1.5, 4.5), (4.5, 5.5), (5.5, 6.5)][
        : len(lines)
    ]
    assert set(lines[0]) == {"start", "stop", "text", "tokens", "latency_ms"}
    tokenizer = open_tokenizer(model)
    assert all(tokenizer.decode(x["tokens"]) == x["text"] for x in lines)
    assert files["vtt"].read_text().startswith("WEBVTT\n\n")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=3)[:3] for line in printed[: len(lines)]] == [
        [f"{x['start']:.1f}", "-", f"{x['stop']:.1f}"] for x in lines
    ]
    assert main(["stream", "--mesh", "tensor=2", "--warm-up", *map(str, argv)]) == 0
    sharded = [json.loads(x) for x in files["jsonl"].read_text().splitlines()]
    assert [x["tokens"] for x in sharded] == [x["tokens"] for x in lines]


@pytest.fixture
def compilation_cache():
    """Restores JAX's compilation cache after the test."""
    folder = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.mark.usefixtures("compilation_cache")
def test_compilation_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for backend, option, folder in (
        ("cpu", "auto", None),
        ("gpu", "auto", str(tmp_path / "livecc/programs")),
        ("cpu", str(tmp_path), str(tmp_path)),
        ("gpu", "none", None),
    ):
        jax.config.update("jax_compilation_cache_dir", None)
        configure_compilation_cache(option, backend)
        assert jax.config.jax_compilation_cache_dir == folder
    jax.config.update("jax_compilation_cache_dir", "configured")
    configure_compilation_cache("auto", "gpu")
    assert jax.config.jax_compilation_cache_dir == "configured"


def test_ask(model, tmp_path, capsys, monkeypatch):
    """Arguments and standard input give the same answers, in the file and in the terminal."""
    out = tmp_path / "out.jsonl"
    questions = ["What is it?", "And then?"]
    argv = ["ask", "--end", "4", "--max-new-tokens", "8", "--jsonl", out, model, CLIP]
    assert main([str(a) for a in [*argv, *questions]]) == 0
    lines = [json.loads(x) for x in out.read_text().splitlines()]
    assert [(x["at"], x["question"]) for x in lines] == [(4.0, q) for q in questions]
    assert all(len(x["tokens"]) <= 8 for x in lines)
    printed = capsys.readouterr().out
    assert printed == "".join(f"? {x['question']}\n> {x['text'].strip()}\n" for x in lines)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([questions[0], "", questions[1], ""])))
    assert main([str(a) for a in argv]) == 0
    again = [json.loads(x) for x in out.read_text().splitlines()]
    assert [x["tokens"] for x in again] == [x["tokens"] for x in lines]
    assert capsys.readouterr().out == printed


@pytest.fixture
def watch(model, tmp_path, capsys):
    """Returns a function that watches sources and returns (exit code, lines of each, printed text)."""

    def run(sources, *options):
        out = tmp_path / "out"
        argv = ["watch", model, *sources, "--batch", 1, "--out", out, *options]
        code = main([str(a) for a in argv])
        printed = capsys.readouterr()
        assert not printed.err.strip()
        assert all(path.read_text().startswith("WEBVTT\n\n") for path in out.glob("*.vtt"))
        lines = {path.stem: read_lines(path) for path in out.glob("*.jsonl")}
        assert {path.name for path in out.iterdir()} == {
            f"{name}.{kind}" for name in lines for kind in ("jsonl", "vtt", "srt")
        }
        return code, lines, printed.out

    return run


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_watch_equals_stream(watch, model, tmp_path):
    """A source that cannot be decoded does not disturb the others."""
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 1000)
    code, lines, printed = watch([CLIP, garbage, CLIP])
    assert code == 2
    assert main(["stream", str(model), str(CLIP), "--jsonl", str(tmp_path / "alone")]) == 0
    alone = [(x["start"], x["tokens"]) for x in read_lines(tmp_path / "alone")]
    assert set(lines) == {CLIP.stem, "garbage", f"{CLIP.stem}-2"}
    for name in (CLIP.stem, f"{CLIP.stem}-2"):
        assert [(x["start"], x["tokens"]) for x in lines[name]] == alone
    assert not lines["garbage"]
    assert "garbage is over: " in printed
    assert "2 finished, 1 failed" in printed


def test_watch_is_interrupted(watch, model, tmp_path):
    """After the first words, all sources are closed and what was said so far is in the files."""
    long = make_video(tmp_path / "long.mp4", range(0, 60_000, 250))
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"no video" * 1000)

    ended = threading.Event()

    def interrupt():
        while not ended.wait(0.05):
            if any(path.stat().st_size for path in (tmp_path / "out").glob("*.jsonl")):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        code, lines, printed = watch([long, garbage, long], "--pace", "own", "--warm-up", "80x64")
    finally:
        ended.set()
        thread.join()
    assert code == 2
    assert "2 closed, 1 failed" in printed
    assert main(["stream", str(model), str(long), "--end", "9", "--jsonl", str(tmp_path / "a")]) == 0
    alone = [x["tokens"] for x in read_lines(tmp_path / "a")]
    assert 1 <= len(lines["long"]) + len(lines["long-2"]) <= 2 * len(alone)
    for name in ("long", "long-2"):
        assert [x["tokens"] for x in lines[name]] == alone[: len(lines[name])]


def test_inspect_shows_and_saves_the_timeline(model, tmp_path, capsys):
    path = ROOT / "data/annotations/windows.jsonl"
    out = tmp_path / "x.npz"
    argv = [path, "--example", "1", "--model", model, "--positions", "hybrid", "--npz", out]
    assert main(["inspect", *map(str, argv)]) == 0
    text = capsys.readouterr().out
    assert "Time=0.0-3.0s<frames 7.5" in text
    assert "[He looks" in text
    assert "positions hybrid" in text
    with np.load(out) as arrays:
        t = len(arrays["tokens"])
        assert arrays["supervised"].shape == (t,)
        assert arrays["positions"].shape == (3, t)
        assert len(arrays["patches"]) == np.prod(arrays["grid"], axis=1).sum()
        assert arrays["patches"].dtype == np.uint8
        assert len(arrays["frame_times"]) == 2 * arrays["grid"][:, 0].sum()
        assert 7.5 <= arrays["frame_times"][0] < 7.6


def test_import_and_help_are_instant():
    """Neither imports a heavy library."""
    heavy = ("jax", "cv2", "av", "grain", "torch", "numpy", "orbax")
    code = (
        "import sys, livecc_jax.cli as c; c.build_parser(); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_field_can_be_set():
    config = override(
        Config(), [("optim.learning_rate", "1e-5"), ("compute.freeze", "vision,text/embed")]
    )
    assert config.optim.learning_rate == 1e-5
    assert config.compute.freeze == ("vision", "text/embed")
    assert flatten(config)["compute.freeze"] == ["vision", "text/embed"]
    assert dataclasses.replace(config, optim=Config().optim, compute=Config().compute) == Config()


def test_shipped_configs_are_valid():
    for path in sorted((ROOT / "configs").glob("*.py")):
        config = override(load_config(path), [("run", "run"), ("data.index", "index")])
        if not config.preset:
            config = override(config, [("init", "model")])
        config.check()
