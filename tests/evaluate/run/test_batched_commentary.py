"""Clips streamed in a batch say what each says alone."""

import functools

import numpy as np
import pytest

from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.evaluate.run.batched_commentary import (
    StreamedClip,
    comment_clips,
    comment_without_memory,
)
from livecc_jax.stream.model import StreamModel

S = 1_000_000
OPTIONS = StreamOptions(max_new_tokens=3, context=150)


@pytest.fixture(scope="module")
def model(checkpoint):
    opened = open_checkpoint(checkpoint)
    return StreamModel(opened.config, opened.load_params(np.float32), opened.open_tokenizer())


def clip(number, frames):
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (frames, 28, 28, 3), np.uint8)
    return StreamedClip(f"clip {number}", pixels, f"clip {number}", number * S)


def test_a_batch_says_what_each_clip_says_alone(model, caplog):
    """Also where one clip is longer than another, and where one fills its context."""
    clips = [clip(0, 8), clip(1, 6), clip(2, 16)]
    comment = functools.partial(comment_clips, model, options=OPTIONS, context_size=256)
    said = comment(clips=clips, batch=2)
    assert "ends early" in caplog.text
    assert list(said) == ["clip 0", "clip 1", "clip 2"]
    assert [len(turns) for turns in said.values()][:2] == [2, 1]
    assert 1 < len(said["clip 2"]) < 6
    for one in clips:
        assert said[one.id] == comment(clips=[one], batch=1)[one.id]
    assert any(t.text for turns in said.values() for t in turns)
    assert [(t.start_us // S, t.stop_us // S) for t in said["clip 0"]] == [(0, 3), (3, 4)]
    assert [(t.start_us // S, t.stop_us // S) for t in said["clip 1"]] == [(1, 4)]

    # Without memory each turn is the first of a stream of its own.
    without = comment_without_memory(model, clips[:1], OPTIONS, 2, 4, context_size=256)["clip 0"]
    parts = [StreamedClip(str(n), clips[0].frames[n - 4 : n], clips[0].prompt) for n in (6, 8)]
    alone = comment(clips=parts, batch=2)
    assert [t.text for t in without] == [alone[p.id][0].text for p in parts]
    assert [t.stop_us for t in without] == [t.stop_us for t in said["clip 0"]]
