"""Talking heads by a plug-in, a detector's output and P(Yes); cuts; words of speech recognition."""

import dataclasses
import math
from types import SimpleNamespace

import av
import numpy as np
import pytest

from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.produce import speech
from livecc_jax.produce.filters import faces as faces_module
from livecc_jax.produce.filters.faces import FaceDetector, faces
from livecc_jax.produce.filters.plug_in import is_plug_in
from livecc_jax.produce.filters.shots import find_cuts, shots
from livecc_jax.produce.line.phases import PHASES, run_unit
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Clip, Rejection, Source, Word
from livecc_jax.produce.speech import recognise, words_of


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """8 seconds at 10 frames a second: red, green and blue, with hard cuts at 2 s and 5 s, and sound
    from 1 s on."""
    path = tmp_path_factory.mktemp("faces") / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        sound = container.add_stream("aac", rate=16000, layout="mono")
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(80):
            picture = np.zeros((64, 96, 3), np.uint8)
            channel, brightness = (0, 200) if i < 20 else (1, 90) if i < 50 else (2, 250)
            picture[..., channel] = brightness
            picture[i % 64] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        wave = (0.5 * np.sin(np.arange(7 * 16000) * 0.3)).astype(np.float32)
        for at in range(0, len(wave), 1024):
            frame = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 16000 + at
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return str(path)


def clip(video, start_ms=0, end_ms=8000):
    words = tuple(Word(t, t + 400, "w") for t in range(start_ms, end_ms - 400, 500))
    return Clip(0, 0, "v", video, start_ms, end_ms, words)


def with_faces(name, **changes):
    return dataclasses.replace(PRETRAIN, face_model=name, **changes)


def test_a_plug_in_judges_even_frames_of_the_clip(video):
    parameters = with_faces("tests.support.produce:share_of_red", max_face_share=0.5)
    [green] = faces(clip(video, 2500, 5000), parameters, Models())
    assert green.measures["face_share"] == 0.0
    [red] = faces(clip(video, 0, 2000), parameters, Models())
    assert (red.stage, red.reason, red.value) == ("faces", "face in more than 0.5 of frames", 1.0)


def test_a_plug_in_that_raises_costs_one_clip_and_a_missing_one_the_run(video, tmp_path):
    phase = next(p for p in PHASES if p.name == "faces")
    parameters = with_faces("tests.support.produce:no_judge")
    [[dropped]], _ = run_unit(phase, [clip(video)], parameters, Models())
    assert (dropped.reason, dropped.value) == ("the stage failed", "ValueError: cannot judge 8 frames")
    with pytest.raises(ConfigError, match="cannot be imported"):
        run_unit(phase, [clip(video)], with_faces(f"{tmp_path}/none.py:f"), Models())
    (tmp_path / "mine.py").write_text("def judge(frames, clip):\n    return float('nan')\n")
    [[dropped]], _ = run_unit(phase, [clip(video)], with_faces(f"{tmp_path}/mine.py:judge"), Models())
    assert dropped.reason == "cannot be measured"
    assert is_plug_in("a.b:c")
    assert not is_plug_in("/models/Qwen2-VL")
    assert not is_plug_in("https://host:8000/v1")


def test_a_video_that_cannot_be_read_is_rejected(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for stage in (
        lambda c: faces(c, with_faces("tests.support.produce:share_of_red"), Models()),
        lambda c: shots(c, dataclasses.replace(PRETRAIN, max_shots_per_minute=1.0)),
    ):
        [dropped] = stage(clip(str(tmp_path / "broken.mp4")))
        assert dropped.reason == "frames cannot be read"


@pytest.mark.parametrize(("probability", "kept"), [(0.29, True), (0.3, False), (0.9, False)])
def test_p_yes_is_over_the_whole_vocabulary(video, monkeypatch, probability, kept):
    class Scorer:
        def score(self, sampled, texts, options):
            assert sampled.grid[0] == 4  # 8 frames
            assert options == [["Yes"]]
            # Logits of two tokens alone would give another probability.
            return [SimpleNamespace(logits=np.array([math.log(probability)]), log_total=0.0)]

    monkeypatch.setattr(faces_module, "open_scorer", lambda path: Scorer())
    [result] = faces(clip(video), with_faces("/model"), Models())
    if kept:
        assert result.measures["talking_head"] == probability
    else:
        assert (result.reason, result.value) == ("talking head: P(Yes) 0.3 or more", probability)


class _Net:
    """A detector that finds one face of so many pixels in red pictures."""

    side = 40

    def getUnconnectedOutLayersNames(self):
        return ["heat", "scale"]

    def setInput(self, blob):
        self.red = blob[0, 0].mean() > 100

    def forward(self, names):
        heat, scale = np.zeros((1, 1, 16, 24), np.float32), np.zeros((1, 2, 16, 24), np.float32)
        heat[0, 0, 5, 7] = 0.9 if self.red else 0.1
        scale[:] = np.log(self.side / 4)
        return [heat, scale]


def test_the_share_of_frames_with_a_large_face_while_something_is_said(video, monkeypatch):
    import cv2

    monkeypatch.setattr(cv2.dnn, "readNetFromONNX", lambda path: _Net())
    parameters = with_faces("faces.onnx", face_frames=16)
    [dropped] = faces(clip(video), parameters, Models())
    assert dropped.value == 4 / 16  # 2 of 8 seconds are red
    monkeypatch.setattr(_Net, "side", 10)  # less than a fifth of 64 pixels
    [kept] = faces(clip(video), parameters, Models())
    assert kept.measures["face_share"] == 0.0


def test_files_that_are_no_detector_are_refused(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"a\.onnx: is no ONNX network"):
        FaceDetector(str(tmp_path / "a.onnx"))


def test_hard_cuts_are_found_where_they_are(video):
    assert find_cuts(clip(video)) == [2_000_000, 5_000_000]
    [kept] = shots(clip(video), dataclasses.replace(PRETRAIN, max_shots_per_minute=15.0))
    assert kept.measures["shots_per_minute"] == 15.0
    [dropped] = shots(clip(video), dataclasses.replace(PRETRAIN, max_shots_per_minute=14.0))
    assert (dropped.reason, dropped.value) == ("more than 14 cuts a minute", 15.0)


def segments(*groups):
    return [
        SimpleNamespace(words=[SimpleNamespace(start=s, end=e, word=w) for s, e, w in group])
        for group in groups
    ]


def test_pieces_without_a_space_go_on_with_the_word_before_and_times_do_not_run_backwards():
    found = words_of(
        segments(
            [(0.0, 0.5, " rock"), (0.5, 0.9, "-solid"), (0.9, 1.0, " 5"), (1.0, 1.2, ",000")],
            [],
            [(1.1, 1.05, " back"), (0.9, 2.0, " on"), (2.0, 2.1, " ")],
        )
    )
    assert list(found) == [
        (0, 900, "rock-solid"), (900, 1200, "5,000"), (1100, 1100, "back"), (1100, 2000, "on"),
    ]  # fmt: skip


def test_sound_is_read_from_the_file_s_first_moment(video):
    sound = speech.read_sound(video)
    assert sound.dtype == np.float32
    loud = np.flatnonzero(np.abs(sound) > 0.2)
    assert loud[0] / speech.RATE == pytest.approx(1.0, abs=0.1)
    assert len(sound) / speech.RATE == pytest.approx(8.0, abs=0.2)


def test_sound_that_begins_before_the_first_picture_is_counted_from_that(tmp_path):
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        wave = np.zeros((1, 64000), np.int16)
        wave[0, 32000:] = 10000  # from 2 s on; the first picture is at 1.5 s
        for at in range(0, 64000, 1600):
            frame = av.AudioFrame.from_ndarray(wave[:, at : at + 1600], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16000, at
            container.mux(sound.encode(frame))
            if at >= 24000:
                shown = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")
                shown.pts = at // 1600
                container.mux(stream.encode(shown))
        container.mux(stream.encode())
        container.mux(sound.encode())
    loud = np.flatnonzero(speech.read_sound(str(path)) > 0.2)
    assert loud[0] / speech.RATE == pytest.approx(0.5, abs=0.01)


def test_pieces_of_a_language_without_spaces_are_words():
    pieces = [(0.0, 0.5, "今日"), (0.5, 0.7, "は"), (0.7, 1.0, "晴れ")]
    assert [w.text for w in words_of(segments(pieces))] == ["今日", "は", "晴れ"]


def test_what_has_no_sound_is_a_reason(tmp_path):
    from tests.support.media import make_video

    silent = make_video(tmp_path / "silent.mp4", range(0, 1000, 100))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    parameters = dataclasses.replace(PRETRAIN, speech_model="tiny.en")
    reasons = []
    for path in (silent, tmp_path / "broken.mp4", tmp_path / "none.mp4"):
        result = recognise(Source(0, "v", str(path)), parameters, Models())
        assert isinstance(result, Rejection)
        reasons.append(result.reason)
    assert reasons == ["video has no sound", "sound cannot be decoded", "video is not there"]


def test_recognised_words_become_the_source_s(video, monkeypatch):
    class Recogniser:
        model = SimpleNamespace(is_multilingual=True)

        def transcribe(self, sound, **options):
            assert options["language"] == "en"
            assert options["vad_filter"]
            assert options["temperature"] == 0.0
            return iter(segments([(1.0, 1.5, " hello")])), SimpleNamespace(language="en")

    monkeypatch.setattr(speech, "open_recogniser", lambda name: Recogniser())
    parameters = dataclasses.replace(PRETRAIN, speech_model="tiny.en", caption_language="en-GB")
    source = recognise(Source(0, "v", video), parameters, Models())
    assert (source.words, source.language, source.captions_kind) == (
        ((1000, 1500, "hello"),),
        "en",
        "asr",
    )
