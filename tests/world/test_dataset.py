"""A world on disk: the same bytes from every process, read by the project's own readers."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from livecc_jax.cli import main
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.annotations import read_livesports_qa_questions
from livecc_jax.evaluate.benchmarks.livesports_cc import read_events
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.example import ChatExample
from livecc_jax.world.commentary import STYLES, commentate
from livecc_jax.world.dataset import WorldOptions, match_seed, write_dataset
from livecc_jax.world.facts import parse_facts, parse_title
from livecc_jax.world.grammar import WORDINGS
from livecc_jax.world.lexicon import ALL_MARKS, COLOURS, NAMES, TEAMS
from livecc_jax.world.match import MatchOptions
from livecc_jax.world.rules import make_match
from livecc_jax.world.texts import ClipOptions, cut_clips, stream_annotation
from livecc_jax.world.truth import read_truth

OPTIONS = WorldOptions(2, 1, seed=3, match=MatchOptions((10.0, 14.0), tempo=2.0), questions=2)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(OPTIONS, folder)
    return folder


@pytest.mark.parametrize("frames", ["stored", "video"])
def test_the_bytes_are_the_same_in_other_processes(tmp_path, frames):
    options = ["--matches=2", "--held-out=1", "--seed=3", "--seconds=10:14", "--tempo=2"]
    options += ["--questions=2", f"--frames={frames}"]
    assert main(["world", *options, "--workers", "1", "--out", str(tmp_path / "a")]) == 0
    command = [sys.executable, "-m", "livecc_jax.cli", "world", *options, "--workers", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "b")], check=True, capture_output=True)
    first, second = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert len(first) == 3 + 3 + 3 + 6 + 2
    assert first == second


def test_held_out_matches_do_not_depend_on_how_many_others_there_are(tmp_path, world):
    write_dataset(replace(OPTIONS, matches=1), tmp_path)
    small, large = digests(tmp_path), digests(world)
    same = {name for name in small if small[name] == large[name]}
    assert {"videos/held-00000.frames", "truth/held-00000.json", "held_out/clean.jsonl"} <= same
    assert {"videos/train-00000.frames", "truth/train-00000.json", "tokenizer/tokenizer.model"} <= same
    first = (tmp_path / "train" / "clean.jsonl").read_text().splitlines()[0]
    assert first == (world / "train" / "clean.jsonl").read_text().splitlines()[0]
    seeds = {match_seed(o, s, n) for o in (OPTIONS, replace(OPTIONS, seed=4))
             for s in ("train", "held_out") for n in (0, 1, 99999)}  # fmt: skip
    assert len(seeds) == 12


def test_annotations_are_read_by_the_readers_of_the_project(world):
    for split, names in (("train", 2), ("held_out", 1)):
        for kind in ("clean", "noisy"):
            file = AnnotationFile(world / split / f"{kind}.jsonl")
            assert len(file) == names
            for example in file:
                truth = read_truth(world / "truth" / f"{Path(example.clip.path).stem}.json")
                assert Path(example.clip.path).is_file()
                assert example.title == truth.context.title
                assert example.reordered == 0
                words = [(w.start_us / 1e6, w.end_us / 1e6, w.text) for w in example.words]
                said = parse_facts(words, truth.context)
                assert said
                if kind == "clean":
                    assert example.query.startswith("Comment on the match in the")
                    assert all(truth.holds(fact, fact.time) for fact in said)
                else:
                    assert example.query == ""
                    assert parse_title(example.title).teams == dict(truth.context.teams)
        questions = AnnotationFile(world / split / "questions.jsonl")
        assert all(isinstance(example, ChatExample) for example in questions)
    assert len(read_events(world / "held_out").events) == 1
    asked = read_livesports_qa_questions(world / "held_out").questions
    assert len(asked) == 2
    assert all(Path(question.source.path).is_file() for question in asked)
    assert all(
        option.startswith(letter) for letter, option in zip("ABCD", asked[0].result_fields["options"])
    )
    content = json.loads((world / "world.json").read_text())
    assert content["lines"]["held_out"] == {"clean": 1, "noisy": 1, "questions": 2, "second": 1}


def test_stored_frames_are_indexed_and_built_into_rows_without_a_video_decoder(tmp_path, world):
    # As on a machine that has neither PyAV nor OpenCV's ways of resizing: frames keep their size.
    code = f"""
import sys
for name in ("av", "tensorflow_datasets"): sys.modules[name] = None
from livecc_jax.cli import main
train, index = {str(world / "train")!r}, {str(tmp_path / "index")!r}
assert main(["index", train + "/clean.jsonl", train + "/questions.jsonl", "--tokenizer",
    train + "/../tokenizer", "--pixel-budget", "12", "--workers", "0", "--out", index]) == 0
from livecc_jax.data.index.reader import Index
index = Index({str(tmp_path / "index")!r})
print(len(index), index.rejected)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "6 {}"


def test_clips_cut_no_word_and_lose_none():
    match = make_match(4, MatchOptions((120.0, 120.0)))
    words = commentate(match, STYLES["club"]).words
    options = ClipOptions((20.0, 35.0), previous_words=12)
    clips = cut_clips(words, ["Before."], match.seconds, 0.1, options, 7)
    assert [word for clip in clips for word in clip.words] == list(words)
    assert clips[0].previous == "Before."
    said = ["Before.", *(w for _, _, w in words)]
    for clip in clips[1:]:
        assert 20.0 <= clip.end - clip.start <= 35.0 or clip.end == match.seconds
        assert round((clip.start - 0.1) * 10) % 5 == 0, "it begins on a frame that is stored"
        i = words.index(clip.words[0])
        assert clip.previous.split() == said[max(0, i + 1 - 12) : i + 1]
    assert clips == cut_clips(words, ["Before."], match.seconds, 0.1, options, 7)
    short = cut_clips(words, [], match.seconds, 0.1, replace(options, trailing=2.0), 7)
    for clip, whole in zip(short, clips, strict=True):
        assert clip.end == min(whole.end, round(clip.words[-1][1] + 2.0, 3))


@pytest.mark.parametrize(
    ("context", "title", "previous"),
    [("either", "T", "said."), ("both", "T", "T\nsaid."), ("title", "T", ""), ("previous", "", "said."),
     ("none", "", "")],
)  # fmt: skip
def test_clips_are_given_the_context_that_is_asked_for(context, title, previous):
    clips = cut_clips([(1.0, 1.5, "Hello.")], ["said."], 10.0, 0.1, ClipOptions(), 0)
    user, _ = stream_annotation(clips[0], "a.mp4", "T", "Q", "calm", context)
    text = user["content"][1]
    assert (text["title"], text["previous"], text["text"], text["category"]) == (
        title,
        previous,
        "Q",
        "calm",
    )


def test_the_tokenizer_has_a_piece_for_every_common_word(world):
    tokenizer = open_tokenizer(world / "tokenizer")
    assert tokenizer.silence_id is not None
    grammar = {
        word for registers in WORDINGS.values() for wordings in registers.values()
        for wording in wordings for word in wording.split() if "{" not in word
    }  # fmt: skip
    for word in {*COLOURS, *ALL_MARKS, *NAMES, *TEAMS, *grammar}:
        capital = word[0].upper() + word[1:]
        for text in (word, f" {word}", capital, f" {capital}"):
            ids = tokenizer.encode(text)
            assert len(ids) == 1, text
            assert tokenizer.decode(ids) == text
    assert tokenizer.encode("Answer: A")[:-1] == tokenizer.encode("Answer:")


@pytest.mark.parametrize(
    "options",
    [["--size", "big"], ["--size", "9x9"], ["--seconds", "9"], ["--seconds", "60:30"],
     ["--style", "loud"], ["--clips", "1:2"], ["--lag", "9"], ["--seed", "-1"], ["--fps", "7"],
     ["--matches", "0", "--held-out", "0"], ["--page", "a.html"], ["--trailing", "-1"],
     ["--tempo", "x:y"]],
)  # fmt: skip
def test_bad_options_end_with_one_sentence(tmp_path, capsys, options):
    arguments = [
        "world",
        "--matches",
        "1",
        "--held-out",
        "0",
        "--workers",
        "0",
        "--out",
        str(tmp_path),
        *options,
    ]
    if options == ["--tempo", "x:y"]:
        with pytest.raises(SystemExit):
            main(arguments)
        return
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("livecc world: ")


def test_watch_shows_the_words_and_the_facts_behind_them(tmp_path, capsys):
    page = tmp_path / "match.html"
    arguments = ["world", "--watch", "--seed", "3", "--seconds", "12:12", "--page", str(page)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "kickoff" in out
    assert "[event: " in out
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 48
    assert "<script>" in text
    assert "DATA" not in text
    assert "TITLE" not in text
    assert main(["world"]) == 2


def test_options_are_checked_in_code_too():
    for change in ({"frames": "film"}, {"fps": 0}, {"styles": ("loud",)}, {"seed": -1}):
        with pytest.raises(ConfigError):
            WorldOptions(1, **change)
    with pytest.raises(ConfigError):
        ClipOptions(context="all")
