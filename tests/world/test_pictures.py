"""Frames show what the truth says, and stored frames are those of the video."""

import numpy as np
import pytest

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.sampling import sample_strict
from livecc_jax.media.video import iter_frames, probe
from livecc_jax.world.dataset import WorldOptions, stored_times, write_frames
from livecc_jax.world.lexicon import ALL_MARKS, COLOURS
from livecc_jax.world.match import MatchOptions
from livecc_jax.world.render import BORDER_COLOUR, render, visible
from livecc_jax.world.rules import make_match
from livecc_jax.world.sprites import BALL, player_sprite
from livecc_jax.world.watch import png

SIZE = (84, 112)
# How far stored frames (as drawn) are from those decoded from H.264, whose colours have half the
# resolution, as stated in docs/world.md: mean of a frame, and share of values over 64 apart.
MEAN_BOUND, SHARE_BOUND = 7.0, 0.01


def like(frame: np.ndarray, colour: tuple[int, int, int], far: int = 24) -> np.ndarray:
    """Which pixels have a colour, bool [height, width]."""
    return (np.abs(frame.astype(int) - colour) <= far).all(-1)


def test_who_acts_and_the_ball_are_in_the_picture_in_their_colours():
    checked = 0
    for seed in range(6):
        match = make_match(seed)
        for event in match.events:
            if event.action not in ("pass", "steal", "save", "shot"):
                continue
            assert visible(match, event.actor, event.time)
            (frame,) = render(match, np.array([event.time]), SIZE)
            assert like(frame, COLOURS[event.actor.split()[0]]).sum() > 8, event
            assert like(frame, BALL, 60).sum() >= 2, event
            checked += 1
    assert checked > 40


def test_the_marks_of_a_colour_look_different():
    scale = SIZE[1] / 34
    pictures = {mark: player_sprite(f"red {mark}", scale) for mark in ALL_MARKS}
    side = max(len(p.keep) for p in pictures.values())
    padded = {}
    for mark, picture in pictures.items():
        room = (side - len(picture.keep)) // 2
        padded[mark] = np.pad(picture.colour.astype(int), ((room, room), (room, room), (0, 0)))
    for a in ALL_MARKS:
        for b in ALL_MARKS:
            different = (np.abs(padded[a] - padded[b]).max(-1) > 80).sum()
            assert (different > 14) == (a != b), (a, b, different)


def test_replays_have_a_border_and_repeat_what_was_seen():
    match, shot = next(
        (m, s) for m in map(make_match, range(30)) for s in m.shots
        if s.kind == "replay" and s.source > 0 and s.stop < m.seconds
    )  # fmt: skip
    replay = render(match, np.array([shot.start + 1.0]), SIZE)[0]
    assert like(replay, BORDER_COLOUR, 0)[0].all()
    assert like(replay, BORDER_COLOUR, 0)[:, -1].all()
    live = render(match, np.array([shot.start - 0.5]), SIZE)[0]
    assert not like(live, BORDER_COLOUR, 0)[0].any()
    assert not visible(match, match.shirts[1], shot.start + 1.0), "a replay is not live"


def test_a_frame_does_not_depend_on_those_it_is_rendered_with():
    match = make_match(8)
    times = np.arange(0, 40, 1.7)
    together = render(match, times, SIZE)
    for i in (0, 7, 20):
        assert (render(match, times[i : i + 1], SIZE)[0] == together[i]).all()
    assert together.shape == (len(times), *SIZE, 3)
    for size in ((20, 112), (84, 4000)):
        with pytest.raises(ConfigError):
            render(match, times, size)


@pytest.mark.parametrize("size", [(84, 112), (168, 224)])
def test_stored_frames_are_the_frames_of_the_video_within_the_stated_bound(tmp_path, size):
    match = make_match(1, MatchOptions((10.0, 12.0)))
    times, frames = [], []
    for kind, name in (("stored", "a.frames"), ("video", "a.mp4")):
        write_frames(match, tmp_path / name, WorldOptions(1, size=size, frames=kind))
        info = probe(tmp_path / name)
        shown = sample_strict(info.frame_times_us, 0, round(match.seconds * 1e6))
        times.append(info.frame_times_us[shown])
        frames.append(np.stack(list(iter_frames(info, shown))).astype(int))
    assert (times[0] == times[1]).all()
    assert len(times[0]) == -(-len(stored_times(match.seconds)) // 2) * 2
    difference = np.abs(frames[0] - frames[1])
    assert difference.mean((1, 2, 3)).max() < MEAN_BOUND
    assert (difference > 64).mean() < SHARE_BOUND
    # A clip that begins on the grid of stored frames shows the same frames, too.
    for name in ("a.frames", "a.mp4"):
        info = probe(tmp_path / name)
        shown = sample_strict(info.frame_times_us, 3_100_000, 8_000_000)
        assert info.frame_times_us[shown][:2].tolist() == [3_100_000, 3_600_000]


def test_videos_need_even_sides(tmp_path):
    with pytest.raises(ConfigError, match="sides must be even"):
        write_frames(make_match(1), tmp_path / "a.mp4", WorldOptions(1, size=(85, 112), frames="video"))
    assert not list(tmp_path.iterdir())


def test_png_is_read_back_by_another_decoder():
    import cv2

    (frame,) = render(make_match(1), np.array([3.0]), SIZE)
    decoded = cv2.imdecode(np.frombuffer(png(frame), np.uint8), cv2.IMREAD_COLOR)
    assert (decoded[..., ::-1] == frame).all()


def test_a_missing_frames_file_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"no\.frames"):
        probe(tmp_path / "no.frames")
