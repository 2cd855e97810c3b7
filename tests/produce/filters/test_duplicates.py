"""Near duplicates against a comparison of every pair; hashes of pictures; evaluation sets."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import DataError
from livecc_jax.produce.filters.decontamination import decontaminate
from livecc_jax.produce.filters.duplicates import find_duplicates, share_alike
from livecc_jax.produce.filters.fingerprints import fingerprints, plain_words, shingles, similarity
from livecc_jax.produce.filters.pictures import distance, picture_hash, pictures
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Clip, Rejection, Word
from tests.support.media import make_video


def clip(text, number=0, video="v.mp4", **fields):
    words = tuple(Word(500 * i, 500 * i + 400, w) for i, w in enumerate(text.split()))
    return Clip(number, 0, f"id{number}", video, 0, 500 * len(words), words, **fields)


def duplicates_of(texts):
    clips = [fingerprints(clip(text, i), PRETRAIN)[0] for i, text in enumerate(texts)]
    return list(find_duplicates(clips, PRETRAIN, lambda numbers: {n: clips[n] for n in numbers}))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_repeats_an_earlier_text_is_found_and_nothing_else(data):
    """Texts that repeat others whole, or with a few words changed, or not at all."""
    vocabulary = st.integers(0, 5000).map("w{}".format)
    texts = [data.draw(st.lists(vocabulary, min_size=60, max_size=90, unique=True))]
    for _ in range(data.draw(st.integers(1, 6))):
        text = list(data.draw(st.sampled_from(texts)))
        for place in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=12)):
            text[place] = data.draw(vocabulary)
        texts.append(text)
    found = {d.clip: d for d in duplicates_of([" ".join(t) for t in texts])}
    sets = [{tuple(t[i : i + 5]) for i in range(len(t) - 4)} for t in texts]
    kept = []
    for i, own in enumerate(sets):
        values = {j: len(own & sets[j]) / len(own | sets[j]) for j in kept}
        best = max(values.values(), default=0.0)
        if i in found:
            assert values[found[i].earlier] == pytest.approx(found[i].value, abs=1e-4)
            assert found[i].value >= 0.8
        else:
            kept.append(i)
            # A pair at 0.8 is missed with a probability of 0.002, at 0.9 of 1e-7.
            assert best < 0.9


def test_many_copies_keep_the_first_alone_whatever_the_case_and_punctuation():
    text = " ".join(f"word{i}" for i in range(80))
    found = duplicates_of([text, "other " * 80, text.upper(), text.replace(" ", ", "), *[text] * 30])
    assert [d.clip for d in found] == list(range(2, 34))
    assert {d.earlier for d in found} == {0}


def test_texts_without_words_are_no_duplicates():
    assert duplicates_of(["... ---", "... ---", "!"]) == []
    assert shingles("a b c", 5) == {"a b c"}
    assert similarity(set(), set()) == 0.0
    assert plain_words("It's ÉTÉ—now, 日本語 १२ नमस्ते!") == ["its", "été", "now", "日本語", "१२", "नमस्ते"]


def test_a_picture_s_hash_hardly_changes_with_size_quality_and_brightness():
    rng = np.random.default_rng(0)
    picture = cv2.resize(
        rng.integers(0, 255, (6, 8, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
    )
    other = cv2.resize(
        rng.integers(0, 255, (6, 8, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC
    )
    own = picture_hash(picture)
    smaller = cv2.resize(picture, (160, 120), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])
    darker = (picture * 0.8).astype(np.uint8)
    for changed in (smaller, cv2.imdecode(jpeg, cv2.IMREAD_COLOR), darker):
        assert distance(own, picture_hash(changed)) <= 6
    for different in (other, picture[:, ::-1], picture[::-1]):
        assert distance(own, picture_hash(different)) > 12
    assert picture_hash(np.full((90, 90, 3), 77, np.uint8)) is None


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A video of one pattern, its copy at another size and rate, and one that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    first = make_video(folder / "first.mp4", range(0, 40_000, 500), size=(120, 160))
    copy = make_video(folder / "copy.mp4", range(0, 40_000, 250), size=(96, 128))
    (folder / "broken.mp4").write_bytes(b"no video")
    return first, copy, folder / "broken.mp4"


def test_clips_that_show_the_same_are_found_and_unreadable_ones_rejected(videos):
    parameters = dataclasses.replace(PRETRAIN, duplicate_frames=8)
    texts = [" ".join(f"{name}{i}" for i in range(60)) for name in "abc"]
    first = clip(texts[0], 0, str(videos[0]))
    again = clip(texts[1], 1, str(videos[0]))
    broken = clip(texts[2], 2, str(videos[2]))
    hashed = [pictures(fingerprints(c, parameters)[0], parameters)[0] for c in (first, again, broken)]
    assert isinstance(hashed[2], Rejection)
    assert hashed[2].reason == "frames cannot be read"
    found = list(find_duplicates(hashed[:2], parameters, lambda ns: {n: hashed[n] for n in ns}))
    assert [(d.clip, d.earlier, d.kind, d.value) for d in found] == [(1, 0, "pictures", 1.0)]


def test_frames_that_show_nothing_do_not_count():
    assert share_alike(["", "", "", "ff"], ["", "", "", "ff"], 6) == 0.0
    assert share_alike(["0f"] * 3 + [""], ["0f", "0e", "", ""], 6) == pytest.approx(2 / 3)


def evaluated(tmp_path, text, video="v.mp4", **changes):
    sets = tmp_path / "sets"
    parameters = dataclasses.replace(PRETRAIN, evaluation_sets=(str(sets),), **changes)
    return decontaminate(clip(text, video=video), parameters, Models())[0]


def test_clips_of_evaluation_sets_are_dropped(tmp_path):
    (tmp_path / "sets").mkdir()
    said = "and here comes the striker with the ball at his feet he shoots and scores again today"
    lines = [
        {"video_id": "dQw4w9WgXcQ", "event_asr_text": said.title() + "!"},
        [{"role": "assistant", "content": [{"text_stream": [[0, 1, w] for w in ["x", "y", "z"] * 6]}]}],
    ]
    (tmp_path / "sets/bench.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "sets/ids.txt").write_text("held_out_video\nhttps://youtu.be/Qw4w9WgXcQd\n")
    other = " ".join(f"w{i}" for i in range(40))
    assert isinstance(evaluated(tmp_path, other), Clip)
    for video in (
        "a/dQw4w9WgXcQ.mp4",
        "Some title [dQw4w9WgXcQ].webm",
        "held_out_video.mkv",
        "Qw4w9WgXcQd.mp4",
    ):
        dropped = evaluated(tmp_path, other, video)
        assert dropped.reason == "video of an evaluation set"
    run = said.split()[2:15]
    dropped = evaluated(tmp_path, f"{other} {' '.join(run)} {other}")
    assert dropped.reason == "shares 13 words in a row with an evaluation set"
    assert dropped.value == " ".join(run)
    assert isinstance(evaluated(tmp_path, f"{other} {' '.join(run[:12])} {other}"), Clip)
    assert evaluated(tmp_path, f"{other} {'x y z ' * 5}").stage == "decontamination"
    (tmp_path / "sets/bad.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"bad\.jsonl line 1"):
        evaluated(tmp_path, other)


def test_tables_hold_ids_and_texts_and_a_set_in_which_nothing_can_be_read_is_refused(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/bench.parquet").write_bytes(b"PAR1")
    other = " ".join(f"w{i}" for i in range(40))
    with pytest.raises(DataError, match="sets: holds no ids, texts or videos"):
        evaluated(tmp_path, other)
    said = "and here comes the striker, with the ball at his feet, he shoots\nand scores again today"
    (tmp_path / "sets/bench.csv").write_text(f'video,title,text\nheld,x,"{said}"\n')
    assert evaluated(tmp_path, other, "held.mp4").reason == "video of an evaluation set"
    dropped = evaluated(tmp_path, f"{other} {said}")
    assert dropped.reason == "shares 13 words in a row with an evaluation set"
    assert isinstance(evaluated(tmp_path, other), Clip)


def test_frames_of_evaluation_videos_are_found_in_other_encodings(tmp_path, videos):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets/evaluation_video.mp4").write_bytes(videos[0].read_bytes())
    parameters = dataclasses.replace(
        PRETRAIN, evaluation_sets=(str(tmp_path / "sets"),), duplicate_frames=8
    )
    said = " ".join(f"w{i}" for i in range(40))
    [shown] = pictures(clip(said, video=str(videos[0])), parameters)
    [dropped] = decontaminate(shown, parameters, Models())
    assert dropped.reason == "shows frames of an evaluation set"
    [black] = decontaminate(
        dataclasses.replace(shown, measures={"picture_hashes": [""] * 8}), parameters, Models()
    )
    assert isinstance(black, Clip)
