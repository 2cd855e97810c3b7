"""What is true of every match, whatever its seed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import ConfigError
from livecc_jax.world.facts import team_of
from livecc_jax.world.lexicon import COLOURS, KEEPER
from livecc_jax.world.match import HALF_LENGTH, HALF_WIDTH, TICKS, Match, MatchOptions, small_league
from livecc_jax.world.render import visible
from livecc_jax.world.rules import make_match
from livecc_jax.world.truth import truth

SEEDS = st.integers(0, 2**48)


def short_match(seed: int) -> Match:
    return make_match(seed, MatchOptions((25.0, 50.0), tempo=1.5))


@settings(max_examples=12, deadline=None)
@given(SEEDS)
def test_events_follow_the_rules(seed):
    match = short_match(seed)
    context, gone, holding_team = match.context, set(), None
    last_shot, previous_goal = None, None
    for event in match.events:
        who, other = event.actor, event.object
        assert 0.0 <= event.time < match.seconds
        assert team_of(who) in (context.home, context.away)
        assert who not in gone, event
        if event.action == "kickoff":
            assert previous_goal is None or who != team_of(previous_goal.actor), (
                "who let it in kicks off"
            )
            holding_team = who
        elif event.action == "pass":
            assert team_of(other) == team_of(who) == holding_team
            assert other != who
        elif event.action in ("steal", "foul", "dribble"):
            assert team_of(other) != team_of(who)
            holding_team = team_of(other) if event.action == "foul" else team_of(who)
        elif event.action == "save":
            assert who.endswith(KEEPER)
            assert last_shot
            assert team_of(last_shot.actor) != team_of(who)
            holding_team = team_of(who)
        elif event.action == "goal":
            assert last_shot
            assert last_shot.actor == who
            assert event.time - last_shot.time < 2.5
        elif event.action == "out":
            holding_team = context.other(team_of(who))
        elif event.action == "substitution":
            assert team_of(other) == team_of(who)
            gone.add(other)
        elif event.action == "red":
            assert any(e.action == "yellow" and e.actor == who for e in match.events)
            gone.add(who)
        if event.action == "shot":
            assert holding_team == team_of(who)
            last_shot = event
        previous_goal = (
            event if event.action == "goal" else None if event.action == "kickoff" else previous_goal
        )


@settings(max_examples=12, deadline=None)
@given(SEEDS)
def test_tracks_are_within_the_ground_and_nobody_runs_too_fast(seed):
    match = short_match(seed)
    ticks = round(match.seconds * TICKS)
    assert match.positions.shape == (ticks, len(match.shirts), 2)
    assert match.ball.shape == (ticks, 2)
    assert (np.abs(match.ball) < (HALF_LENGTH + 3, HALF_WIDTH + 3)).all()
    on = match.present
    assert (on.sum(1) >= 8).all()
    assert (on.sum(1) <= 11).all()
    cuts = {round(shot.start * TICKS) for shot in match.shots}
    step = np.hypot(*np.moveaxis(np.diff(match.positions, axis=0), -1, 0))
    step = np.where(on[1:] & on[:-1], step, 0.0).max(1)
    # Somebody is put elsewhere only where the camera cuts; otherwise nobody moves over 2 m in a tick.
    jumps = set((np.flatnonzero(step > 2.0) + 1).tolist())
    assert all(any(abs(jump - cut) <= 1 for cut in cuts) for jump in jumps), jumps - cuts
    for start, stop, holder in _holders(match):
        middle = (start + stop) // 2
        if holder >= 0 and stop - start > 8:
            reach = np.hypot(*(match.ball[middle] - match.positions[middle, holder]))
            assert reach < 4.5, "the ball is at the feet of who has it"


def _holders(match: Match) -> list[tuple[int, int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(match.holder)) + 1).tolist(), len(match.holder)]
    return [(a, b, int(match.holder[a])) for a, b in itertools.pairwise(edges)]


@settings(max_examples=12, deadline=None)
@given(SEEDS)
def test_shots_follow_one_another_without_gaps_and_replays_show_the_past(seed):
    match = short_match(seed)
    assert match.shots[0].start == 0.0
    assert match.shots[-1].stop >= match.seconds
    for shot, following in zip(match.shots, match.shots[1:]):
        assert shot.start < shot.stop == following.start
    for shot in match.shots:
        assert match.shot_at(shot.start + 1e-6) is shot
        if shot.kind == "replay":
            end = shot.source + shot.speed * (shot.stop - shot.start)
            assert shot.source > -3.0
            assert end <= shot.start + 1e-6


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_scores_streaks_and_fouls_are_what_the_events_add_up_to(seed):
    match = short_match(seed)
    true = truth(match)
    for time in np.linspace(0, match.seconds - 0.01, 9):
        before = [e for e in match.events if e.time <= time]
        goals = [e.actor for e in before if e.action == "goal"]
        count = {
            c: sum(team_of(g) == c for g in goals) for c in (match.context.home, match.context.away)
        }
        assert true.score_at(time).object == "-".join(map(str, count.values()))
        holding = {f.key for f in true.facts if f.kind == "streak" and f.time <= time < f.until}
        expected = {("streak", "goals", who, str(goals.count(who))) for who in goals}
        fouls = [e for e in before if e.action == "foul"]
        for foul in fouls:
            number = sum(other.actor == foul.actor for other in fouls)
            expected |= {
                ("streak", "fouls", foul.actor, str(number)),
                ("streak", "fouled", foul.object, ""),
            }
        if goals:
            team, row = team_of(goals[-1]), 0
            while row < len(goals) and team_of(goals[-1 - row]) == team:
                row += 1
            expected.add(("streak", "row", team, str(row)))
        assert holding == expected


def test_matches_differ_by_seed_and_by_nothing_else():
    first, again, other = make_match(5), make_match(5), make_match(6)
    assert first.events == again.events
    assert (first.positions == again.positions).all()
    assert first.context != other.context or first.events != other.events
    assert first.context.home != first.context.away
    assert {first.context.home, first.context.away} <= set(COLOURS)
    assert len(set(first.context.names)) == len(first.shirts) == 14


@pytest.mark.parametrize(
    "options",
    [
        {"seconds": (5.0, 6.0)}, {"seconds": (60.0, 30.0)}, {"tempo": 9.0}, {"quiet": -1.0},
        {"colours": ("red",)}, {"colours": ("red", "green")}, {"colours": ("red", "red", "blue")},
        {"marks": ("circle", "square")}, {"players": 1}, {"players": 5},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        MatchOptions(**options)


def test_a_long_match_changes_sides_and_has_quiet_spells():
    match = make_match(1, MatchOptions((300.0, 300.0)))
    keeper = match.positions[:, 0, 0]
    assert keeper[200] * keeper[-200] < 0, "the home keeper is on the other side after the break"
    times = [0.0, *(e.time for e in match.events), match.seconds]
    assert np.diff(times).max() > 7.0


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_a_small_league_shows_everything_in_one_picture(seed):
    match = make_match(seed, small_league((30.0, 40.0), tempo=1.5))
    assert {match.context.home, match.context.away} == {"red", "blue"}
    assert {shot.kind for shot in match.shots} == {"play"}
    assert len({shot.width for shot in match.shots}) == 1
    assert match.present.sum(1).max() <= 7  # two teams of a keeper and two, and one more in a change
    playing = {shirt for shirt, on in zip(match.shirts, match.present.any(0), strict=True) if on}
    marks = {shirt.split()[1] for shirt in playing}
    assert marks <= {"circle", "square", "triangle", KEEPER}
    for event in match.events:
        assert event.action == "kickoff" or visible(match, event.actor, event.time)
