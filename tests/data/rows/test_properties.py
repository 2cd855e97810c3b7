"""Rows are valid for any annotations (property tests)."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.examples.encode import FORMS, encode_example
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.index.build import build_index
from livecc_jax.data.index.codec import decode, encode
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import DataError, ExampleError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.position_modes import POSITION_MODES

texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["<|im_end|>", "<|im_start|>assistant\n", "<|video_pad|>", " ...", "Time=0.0-3.0s"]
)
sizes = st.fixed_dictionaries({"width": st.integers(20, 90), "height": st.integers(20, 90)})


@st.composite
def videos(draw):
    video = {"type": "video", "video": "v.mp4", "duration": draw(st.integers(1, 25))} | draw(sizes)
    if draw(st.booleans()):
        video["video_start"] = draw(st.integers(0, 5))
        video["video_end"] = video["video_start"] + draw(st.integers(1, 25))
    return video


@st.composite
def clips(draw):
    ends = sorted(draw(st.lists(st.integers(0, 3000), max_size=25)))
    words = [[max(0, e - 20) / 100, e / 100, draw(texts)] for e in ends]
    text = {"type": "text", "text": draw(texts), "title": draw(texts), "previous": draw(texts)}
    stream = {"type": "text_stream", "text_stream": words}
    return [
        {"role": "user", "content": [draw(videos()), text]},
        {"role": "assistant", "content": [stream]},
    ]


images = sizes.map(lambda size: {"type": "image", "image": "i.png"} | size)
asked = st.lists(texts.map(lambda t: {"type": "text", "text": t}) | images | videos(), max_size=4)
turns = st.one_of(
    st.builds(lambda c: {"role": "user", "content": c}, asked),
    st.builds(lambda t: {"role": "assistant", "content": t}, texts),
    st.builds(lambda t: {"role": "system", "content": t}, texts),
)
conversations = clips() | st.lists(turns, min_size=1, max_size=5)


class BlackFiles(MediaFiles):
    """Files with the duration and size that their annotations declare, and black frames."""

    def __init__(self):
        super().__init__(declared=True)

    def frames(self, info, indices):
        return np.zeros((len(indices), info.height, info.width, 3), np.uint8)

    def image(self, path):
        return np.zeros((50, 60, 3), np.uint8)


class BlackRows(RowSource):
    """Rows over such files."""

    files = BlackFiles()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(conversations, min_size=1, max_size=8),
    st.sampled_from(POSITION_MODES),
    st.sampled_from(FORMS),
)
def test_rows_are_valid(small_tokenizer, lines, mode, form):
    tokenizer = open_tokenizer(small_tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
        try:
            index = build_index(
                [path], Path(folder, "index"), tokenizer, PixelBudget.parse(6),
                provisional=True, row_tokens=500, form=form,
            )  # fmt: skip
        except DataError as error:
            assert "none of" in str(error)  # noqa: PT017
            return
        rows = BlackRows(str(index.path), str(small_tokenizer), 500, 40, 300, mode, "example", 0, 1)
        try:
            count = len(rows)
        except DataError as error:
            assert "no example fits" in str(error)  # noqa: PT017
            return
        for r in range(count):
            row, failed = rows.row(r)
            assert failed == []
            check(row, tokenizer, mode)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(conversations, st.sampled_from(FORMS))
def test_the_codec_gives_every_token_back(small_tokenizer, conversation, form):
    """Text and media give every token back; counting alone gives the same counts."""
    template, budget = ChatTemplate(open_tokenizer(small_tokenizer)), PixelBudget.parse(6)
    options = {"form": form, "files": BlackFiles()}
    try:
        example = encode_example(parse(conversation, "", "here"), template, budget, **options)
    except (ExampleError, MediaError):
        assume(False)
    kind, text = encode(example)
    decoded = decode(kind, text, example.media, template)
    for name in ("tokens", "supervised", "grids", "turns"):
        np.testing.assert_array_equal(getattr(decoded.encoded, name), getattr(example.encoded, name))
    assert decoded.turns == example.turns
    counted = encode_example(
        parse(conversation, "", "here"), template, budget, count_only=True, **options
    )
    assert (counted.tokens, counted.targets) == (example.tokens, example.targets)


def check(row, tokenizer, mode):
    ids, segments, special = row["tokens"], row["segment_ids"], tokenizer.special
    used = int(np.count_nonzero(segments))
    assert not segments[used:].any()
    assert not ids[used:].any()
    assert set(np.diff(segments[:used])) <= {0, 1}
    # Every vision token has its four patches, every patch its token, in order.
    vision = np.isin(ids, (special.video_pad, special.image_pad)) & (segments > 0)
    vision_index = row["vision_index"]
    np.testing.assert_array_equal(vision_index >= 0, vision)
    assert len(np.unique(vision_index[vision])) == vision.sum()
    patches = np.flatnonzero(row["patch_pairs"].reshape(-1) > 0)
    np.testing.assert_array_equal(np.sort(patches[::4] // 4), np.sort(vision_index[vision]))
    assert 4 * vision.sum() == len(patches)
    # The weights of an example sum to one; only tokens of assistant turns are predicted.
    slots = row["target_slots"][row["target_weights"] > 0]
    assert (np.diff(slots) > 0).all()
    for segment in range(1, segments.max() + 1):
        in_segment = np.flatnonzero(segments == segment)
        segment_slots = slots[np.isin(slots, in_segment)]
        assert len(segment_slots)
        weights = row["target_weights"][: len(slots)][np.isin(slots, in_segment)]
        assert weights.sum() == pytest.approx(1, abs=1e-4)
        is_answer = np.zeros(len(ids), bool)
        for start in in_segment[ids[in_segment] == special.im_start]:
            stop = start + 1 + int(np.argmax(ids[start + 1 :] == special.im_end))
            role = tokenizer.decode(ids[start + 1 : stop].tolist()).lstrip()
            is_answer[start + 1 : stop + 1] = role.startswith("assistant")
        assert is_answer[segment_slots + 1].all()
        positions = row["positions"][:, in_segment]
        assert positions[:, 0].tolist() == [0, 0, 0]
        largest = np.maximum.accumulate(positions.max(0))
        is_text = ~vision[in_segment]
        assert (positions[:, is_text] == positions[0, is_text]).all()
        assert (positions[0, is_text][1:] > largest[np.flatnonzero(is_text)[1:] - 1]).all()
        if mode == "sequential":
            np.testing.assert_array_equal(positions, np.arange(len(in_segment))[None].repeat(3, 0))
