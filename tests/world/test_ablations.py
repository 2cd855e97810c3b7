"""The ablations train on what `livecc world`, `livecc index` and the input pipeline give, in memory."""

import dataclasses
import itertools

import numpy as np
import pytest

from benchmarks.ablations.examples import cut_at_silences, whole, with_context
from benchmarks.ablations.matches import MatchSpec, StoredFiles, make_matches
from benchmarks.ablations.training import Rows, encode_all
from benchmarks.ablations.variants import TEXTS
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.data.index.build import build_index
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.turns import stream_prompt
from livecc_jax.world.dataset import WorldOptions, write_dataset
from livecc_jax.world.match import MatchOptions

SIZE, BUDGET = (28, 56), PixelBudget.parse(2)
OPTIONS = MatchOptions(seconds=(16.0, 16.0))


@pytest.fixture(scope="module")
def matches(tmp_path_factory):
    specs = [MatchSpec(seed, OPTIONS, SIZE, TEXTS) for seed in range(3)]
    return make_matches(specs, tmp_path_factory.mktemp("matches"), processes=1, chunk=2)


def test_rows_in_memory_are_those_of_the_pipeline(matches, tmp_path):
    options = WorldOptions(3, held_out=0, match=OPTIONS, size=SIZE, styles=("calm",))
    write_dataset(options, tmp_path)
    tokenizer = open_tokenizer(tmp_path / "tokenizer")
    annotation = tmp_path / "train/clean.jsonl"
    build_index([annotation], tmp_path / "index", tokenizer, BUDGET, silent_tail=2)
    sizes = {"tokens": 640, "windows": 40, "targets": 240}
    source = RowSource(
        str(tmp_path / "index"), str(tmp_path / "tokenizer"), **sizes, positions="mrope",
        weighting="token", seed=0, epochs=1,
    )  # fmt: skip
    file = AnnotationFile(annotation)
    examples = [
        dataclasses.replace(e, clip=dataclasses.replace(e.clip, path=m.path))
        for e, m in zip((file[i] for i in range(3)), matches, strict=True)
    ]
    template = ChatTemplate(tokenizer)
    encoded, rejected = encode_all(examples, template, BUDGET, StoredFiles(matches), silent_tail=2)
    assert rejected == 0
    rows = Rows(encoded, source.shape, tokenizer.special, 1, len(source), seed=0)
    assert [list(row) for row in rows.unique] == [source.packing.row(i) for i in range(len(source))]
    for i in range(len(source)):
        wanted, failed = source.row(i)
        assert not failed
        row = rows.row(i)
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(row[name], value, err_msg=name)


def test_clips_that_are_cut_hold_every_word_once(matches):
    for match in matches:
        words = whole(match, "calm").words
        for tail in (0, 4_000_000):
            clips = cut_at_silences(match, "calm", tail)
            assert [w for c in clips for w in c.words] == list(words)
            for clip, following in itertools.pairwise(clips):
                assert clip.words[0].start_us >= clip.clip.start_us
                assert clip.clip.end_us >= clip.words[-1].end_us
                assert following.words[0].start_us - clip.words[-1].end_us > 3_000_000
                assert following.previous.endswith(clip.words[-1].text)


def test_forms_of_context(matches):
    example = dataclasses.replace(whole(matches[0], "club"), title="T", previous="P")
    prompts = {
        context: stream_prompt(e.query, e.title, e.previous)
        for context in ("none", "title", "previous", "both", "title or previous")
        for e in [with_context(example, context)]
    }
    assert prompts == {
        "none": "", "title": "T", "previous": "P", "both": "T\n\nP", "title or previous": "P"
    }  # fmt: skip
    without = dataclasses.replace(example, previous="")
    assert with_context(without, "title or previous").title == "T"


def test_every_job_has_a_key_of_its_own():
    from benchmarks.ablations.variants import all_jobs

    keys = [job.key for job in all_jobs()]
    assert len(keys) == len(set(keys))
    assert {job.arm for job in all_jobs()} >= {0, 1, 2, 3, 4, 5, 6, 7, 9, 11}
