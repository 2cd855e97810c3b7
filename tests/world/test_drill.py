"""Drills: deterministic, true to their options, and seen as they are told."""

import numpy as np
import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.world.commentary import STYLES, commentate
from livecc_jax.world.drill import ACTIONS, PLAYERS, DrillOptions, introduce, make_drill
from livecc_jax.world.facts import parse_facts, parse_text
from livecc_jax.world.render import render
from livecc_jax.world.truth import truth


def test_a_drill_follows_from_its_seed():
    first, again, other = make_drill(3), make_drill(3), make_drill(4)
    assert first.events == again.events
    assert first.events != other.events
    np.testing.assert_array_equal(first.positions, again.positions)
    times = np.arange(0, 24, 4.0)
    np.testing.assert_array_equal(render(first, times, (56, 84)), render(again, times, (56, 84)))


def test_every_event_is_seen_and_can_be_told():
    """All are in the picture; a commentary's facts are true when they are said."""
    actions = set()
    for seed in range(12):
        match = make_drill(seed, DrillOptions(quiet=0.2))
        true = truth(match)
        assert not true.unseen
        gaps = np.diff([e.time for e in match.events])
        assert (gaps >= 2.7).all()
        for event in match.events:
            actions.add(event.action)
            shown = render(match, np.array([event.time - 0.1, event.time + 0.5]), (56, 84))
            assert (shown[0] != shown[1]).any()
        spoken = commentate(match, STYLES["calm"], 0, true=true)
        for fact in parse_facts(spoken.words, match.context):
            assert true.holds(fact, fact.time, 6.0), fact
    assert actions == set(ACTIONS)


def test_players_and_introduction():
    match = make_drill(5)
    assert match.present[0].nonzero()[0].tolist() == list(PLAYERS)
    facts = parse_text(" ".join(introduce(match)), match.context)
    assert [f.actor for f in facts] == [match.shirts[p] for p in PLAYERS]
    assert {f.object: f.actor for f in facts} == match.context.names
    alone = make_drill(5, DrillOptions(players=1, actions=("shot",)))
    assert alone.present[0].sum() == 2
    assert {e.actor for e in alone.events} <= {alone.shirts[p] for p in PLAYERS[::2]}


def test_close_by_only_who_acts_is_seen():
    match = make_drill(2, DrillOptions(close=True, players=1))
    assert not truth(match).unseen
    times = np.arange(0, 24, 0.5)
    frames = render(match, times, (56, 84))
    busy = np.array([any(0 <= t - e.time < 1.35 for e in match.events) for t in times])
    # Without players every picture is the same grass.
    assert (frames[~busy] == frames[~busy][0]).all()
    assert all((frame != frames[~busy][0]).any() for frame in frames[busy])


@pytest.mark.parametrize(
    "options",
    [
        {"seconds": 5.0}, {"gap": (1.0, 2.0)}, {"gap": (4.0, 3.0)}, {"colours": ("red",)},
        {"colours": ("red", "green")}, {"marks": ("circle",)}, {"marks": ("circle", "star")},
        {"actions": ()}, {"actions": ("dance",)}, {"players": 3},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        DrillOptions(**options)
