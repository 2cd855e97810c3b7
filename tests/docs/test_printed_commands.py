"""Commands and Python marked `<!-- run -->` in README and tutorial run as printed, in an empty folder.

The fast tests run what needs no training: they have a model of random weights and a small vocabulary
where `livecc demo` leaves its own. The slow test runs everything, in order.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.serving.sinks import Srt
from livecc_jax.shipped import EXAMPLE_ANNOTATIONS, shipped_data
from livecc_jax.stream.turn import SpokenTurn
from livecc_jax.text.open import open_tokenizer
from tests.docs.pages import FENCE, ROOT
from tests.support.random_models import initial_params

MARK = "<!-- run -->"
PAGES = ("README.md", "docs/tutorial.md")
TRAINING = re.compile(r"livecc (demo|train)\b")


def marked_blocks(page):
    """(kind, text) of the fenced blocks right below a mark, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [
        (fence["kind"].strip(), fence["text"])
        for fence in FENCE.finditer(text)
        if text[: fence.start()].rstrip("\n").endswith(MARK)
    ]
    assert len(blocks) == text.count(MARK), f"{page}: a mark stands above no fenced block"
    return blocks


def run_block(kind, text, folder, optimise=False):
    """Runs a block as a reader does who copies it; raises if it fails. Returns what it prints.

    Programs are compiled as those of the tests, quickly, unless `optimise`.
    """
    scripts = Path(sys.executable).parent
    env = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}", "COLUMNS": "100"}
    if optimise:
        env.pop("XLA_FLAGS", None)
    if kind == "python":
        command = [sys.executable, "-c", text]
    else:
        assert kind in ("", "bash", "sh")
        command = ["bash", "-euo", "pipefail", "-c", text]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, f"{text}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    assert "Traceback" not in ran.stderr
    return ran.stdout


def before_training(page):
    """The blocks of a page up to the first that trains, without `livecc demo`, whose model there is."""
    blocks = [block for block in marked_blocks(page) if block[1].strip() != "livecc demo"]
    end = next((i for i, (_, text) in enumerate(blocks) if TRAINING.search(text)), len(blocks))
    return blocks[:end]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_tokenizer):
    """A folder with `demo_out/`: a model of random weights, and the narration as subtitles."""
    folder = tmp_path_factory.mktemp("reader")
    tokenizer = open_tokenizer(small_tokenizer)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    params = initial_params(config)
    export_hf(folder / "demo_out/hf", config, LiveCCBlock(pixel_budget="24"), params, tokenizer)
    words = AnnotationFile(shipped_data(EXAMPLE_ANNOTATIONS))[0].words
    subtitles = Srt(folder / "demo_out/commentary.srt")
    for i in range(0, len(words), 4):
        text = " ".join(word.text for word in words[i : i + 4])
        start, stop = words[i].start_us / 1e6, words[min(i + 3, len(words) - 1)].end_us / 1e6
        subtitles.write(SpokenTurn(start, stop, text, (), False, 0.0))
    subtitles.close()
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_there_is_something_to_run(page):
    assert marked_blocks(page)


def test_the_python_of_readme(folder, monkeypatch, capsys):
    """In this process, for speed; the slow test starts a new one."""
    [python] = [text for kind, text in marked_blocks("README.md") if kind == "python"]
    assert len(python.strip().splitlines()) <= 16
    monkeypatch.chdir(folder)
    exec(compile(python, "README.md", "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r" +26\.0 - 27\.0  \S", line) for line in lines)
    assert {line.partition(" ")[0] for line in lines} >= {"left", "right"}


def test_the_tutorial_up_to_training(folder):
    blocks = before_training("docs/tutorial.md")
    printed = [run_block(kind, text, folder) for kind, text in blocks]
    assert len(printed) >= 2
    assert (folder / "index/meta.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_everything_as_printed(tmp_path):
    """README and tutorial from an empty folder, on a CPU in minutes."""
    assert "46 of 46" in run_block(
        "", "livecc demo", tmp_path, True
    )  # README names it above its Python
    for page in PAGES:
        for kind, text in marked_blocks(page):
            if text.strip() != "livecc demo":
                printed = run_block(kind, text, tmp_path, True)
                if kind == "python":
                    assert "A big rabbit comes" in printed
    assert "rabbit" in (tmp_path / "rabbit.vtt").read_text()
