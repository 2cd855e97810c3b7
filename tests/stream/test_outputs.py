"""Files that commentary is written to, and the choice of a token, against slow definitions."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.decoding.sampling import choose, forbid_hasty_silence, penalize
from livecc_jax.errors import DataError
from livecc_jax.serving.sinks import JsonLines, Srt, WebVtt, timestamp
from livecc_jax.stream.session import SpokenTurn


def turn(start, text, stop=None):
    return SpokenTurn(start, stop or start + 1, text, (5, 6), False, 0.0412)


TURNS = [
    turn(0.0, "A rabbit & <friends> ...", 3.0),
    turn(3.0, " ..."),
    turn(4.5, "line\n\nbreak --> x ..."),
]


def test_files_are_complete_after_every_turn(tmp_path):
    files = {kind: tmp_path / kind for kind in ("jsonl", "vtt", "srt")}
    sinks = [JsonLines(files["jsonl"]), WebVtt(files["vtt"]), Srt(files["srt"])]
    for n, spoken in enumerate(TURNS, 1):
        for sink in sinks:
            sink.write(spoken)
        lines = [json.loads(x) for x in files["jsonl"].read_text().splitlines()]
        assert len(lines) == n
        assert files["vtt"].read_text().endswith("\n\n")
    assert lines[0] == {
        "start": 0.0,
        "stop": 3.0,
        "text": "A rabbit & <friends> ...",
        "tokens": [5, 6],
        "latency_ms": 41.2,
    }
    assert files["vtt"].read_text() == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:03.000\nA rabbit &amp; &lt;friends&gt;\n\n"
        "00:00:04.500 --> 00:00:05.500\nline break --&gt; x\n\n"
    )
    assert files["srt"].read_text() == (
        "1\n00:00:00,000 --> 00:00:03,000\nA rabbit & <friends>\n\n"
        "2\n00:00:04,500 --> 00:00:05,500\nline break --> x\n\n"
    )
    with pytest.raises(DataError, match="cannot be written"):
        WebVtt(tmp_path / "no/such/folder.vtt")


@given(st.integers(0, 10**9))
def test_timestamps_come_back(ms):
    shown = timestamp(ms / 1000, ".")
    h, m, s, rest = map(int, re.fullmatch(r"(\d{2,}):(\d\d):(\d\d)\.(\d{3})", shown).groups())
    assert m < 60
    assert s < 60
    assert ((h * 60 + m) * 60 + s) * 1000 + rest == ms


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.5, 2.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 0.2),
    st.integers(0, 8),
)
def test_scores_are_their_definition(seed, penalty, base, step, n):
    """Divided if positive, multiplied if negative; silence judged on what comes out of that."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (2, 12)).astype(np.float32)
    seen = rng.random((2, 12)) < 0.5
    expected = logits.copy()
    for row in range(2):
        for i in range(12):
            if seen[row, i]:
                value = expected[row, i]
                expected[row, i] = value / penalty if value > 0 else value * penalty
    got = penalize(jnp.asarray(logits), jnp.asarray(seen), jnp.full(2, penalty, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    scores = forbid_hasty_silence(
        got, 7, jnp.full(2, base, jnp.float32), jnp.full(2, step, jnp.float32), jnp.asarray(n)
    )
    for row in range(2):
        p = np.exp(expected[row] - expected[row].max())
        p = p[7] / p.sum()
        if abs(p - (base + step * n)) > 1e-5:
            assert bool(np.isneginf(scores[row, 7])) == (p <= base + step * n)
    np.testing.assert_array_equal(np.delete(scores, 7, 1), np.delete(got, 7, 1))


def test_a_row_draws_for_itself():
    """The same key and scores give the same token, whoever else is there; frequencies are right."""
    scores = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    keys = jax.random.split(jax.random.key(0), 2000)
    many = choose(jnp.repeat(scores, 2000, 0), jnp.ones(2000), keys)
    alone = choose(scores, jnp.ones(1), keys[3:4])
    assert int(alone[0]) == int(many[3])
    share = np.bincount(np.asarray(many), minlength=3) / 2000
    np.testing.assert_allclose(share, [0.7, 0.2, 0.1], atol=0.04)
    mixed = choose(jnp.repeat(scores, 2, 0), jnp.array([0.0, 1.0]), keys[2:4])
    assert mixed.tolist() == [0, int(many[3])]
