"""Scores of hand-made commentaries, worked out by hand."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.evaluate.metrics.commentary import PredictedTurn, Reference
from livecc_jax.evaluate.metrics.fact_alignment import ANY_TIME, align_facts
from livecc_jax.evaluate.metrics.fact_counts import FactClip, count_facts, holds, said_facts
from livecc_jax.evaluate.metrics.fact_errors import INVENTED, LATE, MISSED, NAMES, PLAYER, RIGHT, TRUE
from livecc_jax.evaluate.metrics.fact_judge import verdict, win_rate
from livecc_jax.evaluate.metrics.fact_metrics import (
    HEADLINE,
    action_table,
    fact_intervals,
    fact_metrics,
)
from livecc_jax.timeline.example import Word
from livecc_jax.world.facts import Context, Fact

S = 1_000_000
CONTEXT = Context("red", "blue", {"Foxes": "red", "Owls": "blue"}, {})


def words(*sentences):
    """Timed words of (second at which the sentence ends, sentence), a tenth of a second each."""
    out = []
    for end, text in sentences:
        parts = text.split()
        for i, part in enumerate(parts):
            stop = round((end - 0.1 * (len(parts) - 1 - i)) * S)
            out.append(Word(stop - S // 10, stop, part))
    return tuple(out)


def turns(*said):
    """A turn for each (second in which its words are emitted, text)."""
    return [
        PredictedTurn(round((t - 0.5) * S), round((t + 0.5) * S), text, round(t * S))
        for t, text in said
    ]


# 20 seconds of a match. Ada is introduced as the red square; five facts besides.
SENTENCES = (
    (2.0, "red square is Ada."),
    (5.0, "Ada passes to circle."),
    (8.0, "red circle shoots."),
    (9.5, "red circle scores."),
    (11.0, "red lead one nil."),
    (17.0, "blue ring fouls Ada."),
)
TRUTH = (
    Fact("name", "name", "red square", "Ada", 0.0, 20.0),
    Fact("event", "pass", "red square", "red circle", 4.0, 4.0),
    Fact("event", "shot", "red circle", "", 7.0, 7.0),
    Fact("event", "goal", "red circle", "", 8.5, 8.5),
    Fact("score", "score", "red", "1-0", 8.5, 20.0),
    Fact("event", "dribble", "blue ring", "red circle", 13.0, 13.0),
    Fact("event", "foul", "blue ring", "red square", 15.5, 15.5),
)
CLIP = FactClip(Reference("clip", 0, 20 * S, words(*SENTENCES)), CONTEXT, TRUTH, "match 1")


def test_the_reference_says_what_it_should():
    assert [f.key for f in CLIP.facts] == [TRUTH[i].key for i in (0, 1, 2, 3, 4, 6)]


def test_own_words_score_one():
    counts = count_facts(CLIP, turns(*SENTENCES))
    metrics = fact_metrics([counts])
    for name in (HEADLINE, "fact F1, at any time", "fact F1, names aside", "right names", "right score",
                 "true facts", "seconds told right"):  # fmt: skip
        assert metrics[name] == 100, name
    # Each sentence is said at once when its last word is due. So 9.5 and 11 follow pauses of 1.5 s,
    # while their first words in the reference follow shorter ones: 4 onsets against 6.
    assert metrics["trigger F1"] == pytest.approx(100 * 2 * 4 / (4 + 6))
    # Turns of one emission each: words at 2, 5, 8, 9.5, 11, 17; events at 4, 7, 8.5, 15.5.
    assert counts.delays_us == [1 * S, 1 * S, 1 * S, 1.5 * S]
    assert metrics["delay after an event, median"] == 1.0
    assert metrics["facts a minute"] == 18  # six in 20 s
    assert counts.errors[RIGHT] == 6
    assert counts.errors[MISSED] == 0


def test_worked_example():
    said = turns(
        (3.0, "red square is Bo."),  # the right shirt with a wrong name
        (5.5, "Bo passes to circle."),  # by now Bo is the red square: right
        (9.0, "red circle shoots."),  # right, 1.0 s after the reference
        (9.6, "blue circle scores."),  # right action, wrong player
        (14.0, "blue ring dribbles past circle."),  # true, but the reference does not say it
        (15.5, "red lead one nil."),  # right and true, but 4.5 s after the reference
        (19.0, "two goals in a row for blue."),  # nothing of it is right
    )  # fmt: skip
    counts = count_facts(CLIP, said)
    assert (counts.said, counts.reference, counts.in_time, counts.any_time) == (7, 6, 2, 3)
    metrics = fact_metrics([counts])
    assert metrics[HEADLINE] == pytest.approx(100 * 2 * 2 / 13)
    assert metrics["fact precision, in time"] == pytest.approx(100 * 2 / 7)
    assert metrics["fact recall, in time"] == pytest.approx(100 * 2 / 6)
    assert metrics["fact F1, at any time"] == pytest.approx(100 * 2 * 3 / 13)
    assert metrics["fact F1, names aside"] == pytest.approx(100 * 2 * 3 / 13)  # and the wrong name
    assert metrics["right names"] == pytest.approx(100 * 1 / 2)  # of "Bo" twice, one is right
    assert metrics["right score"] == 100
    # True: the pass, the shot, the dribble and the score.
    assert metrics["true facts"] == pytest.approx(100 * 4 / 7)
    assert counts.errors == {RIGHT: 2, LATE: 1, TRUE: 1, NAMES: 1, PLAYER: 1, INVENTED: 1, MISSED: 4}
    table = {name: rest for name, *rest in action_table([counts])}
    assert table["event goal"] == [1, 1, 0, 0.0]
    assert table["event shot"] == [1, 1, 1, 100.0]
    assert table["event foul"] == [0, 1, 0, 0.0]
    # After the events at 4, 7, 8.5 and 15.5 words come at 5.5, 9, 9 and 15.5.
    assert counts.delays_us == [1.5 * S, 2 * S, 0.5 * S, 0]


def test_other_seconds_lose_time_alone():
    """Each sentence 8 s later, the last ones first: nothing is in time, all is right regardless."""
    moved = sorted(((t + 8) % 20, text) for t, text in SENTENCES[2:])
    metrics = fact_metrics([count_facts(CLIP, turns(*SENTENCES[:2], *moved))])
    assert metrics["fact F1, at any time"] == 100
    assert metrics[HEADLINE] == pytest.approx(100 * 2 / 6)


def test_shuffled_names_lose_exactly_the_names():
    """Two players whose names are exchanged where they are used."""
    sentences = (
        (1.0, "red square is Ada."), (2.0, "red circle is Bo."), (5.0, "Ada shoots."),
        (8.0, "Bo scores."), (12.0, "blue ring shoots."),
    )  # fmt: skip
    clip = FactClip(Reference("clip", 0, 20 * S, words(*sentences)), CONTEXT, ())
    swap = {"Ada": "Bo", "Bo": "Ada"}
    swapped = [
        (t, text if " is " in text else " ".join(swap.get(w, w) for w in text.split()))
        for t, text in sentences
    ]
    metrics = fact_metrics([count_facts(clip, turns(*swapped))])
    assert metrics["fact F1, names aside"] == 100
    assert metrics[HEADLINE] == pytest.approx(100 * 3 / 5)
    assert metrics["right names"] == pytest.approx(100 * 2 / 4)  # the two introductions
    assert metrics["true facts"] == 0  # this clip has no truth


def test_silence_and_nothing_to_say():
    counts = count_facts(CLIP, [])
    assert (counts.said, counts.in_time, counts.f1, counts.delays_us) == (0, 0, 0.0, [])
    metrics = fact_metrics([counts])
    assert metrics[HEADLINE] == 0
    assert np.isnan(metrics["fact precision, in time"])
    assert metrics["silence recall"] == 100
    quiet = FactClip(Reference("clip", 0, 20 * S, ()), CONTEXT, ())
    assert count_facts(quiet, []).f1 == 1.0


def test_judge():
    perfect, late, silent = (
        count_facts(CLIP, turns(*said))
        for said in (SENTENCES, [(min(t + 4, 19.9), s) for t, s in SENTENCES], ())
    )
    assert verdict(perfect, late) == verdict(late, silent) == 1.0
    assert verdict(late, perfect) == 0.0
    assert verdict(silent, silent) == 0.5
    rate = win_rate([perfect, late, silent], [silent, perfect, silent], ["a", "b", "b"])
    assert (rate.wins, rate.ties, rate.losses, rate.rate) == (1, 1, 1, 50.0)
    assert rate.interval.low <= 50 <= rate.interval.high
    assert win_rate([perfect], [silent], ["a"]).interval.low == 100
    assert fact_intervals([perfect], ["a"], 100, 0) == {}
    interval = fact_intervals([perfect, silent], ["a", "b"], 200, 0)[HEADLINE]
    assert (interval.low, interval.high) == (0, 100)


def test_what_holds_is_true_while_it_holds():
    score = Fact("score", "score", "red", "1-0", 5.0, 9.0)
    for said_at, expected in ((4.9, False), (5.0, True), (12.0, True), (12.1, False)):
        assert holds(score.at(said_at), [score]) is expected
    assert not holds(dataclasses.replace(score, object="2-0").at(6), [score])


@st.composite
def fact_lists(draw):
    """Two short lists of facts about two players, some called by name."""
    fact = st.builds(
        lambda who, action, t, named: Fact(
            "event", action, who, time=t, until=t, names=("Ada",) if named else ()
        ),
        st.sampled_from(["red square", "red circle"]),
        st.sampled_from(["shot", "goal"]),
        st.integers(0, 8).map(float),
        st.booleans(),
    )
    return draw(st.lists(fact, max_size=5)), draw(st.lists(fact, max_size=5))


@settings(max_examples=150, deadline=None)
@given(fact_lists(), st.sampled_from([1.0, ANY_TIME]))
def test_alignment_has_as_many_pairs_as_there_can_be(lists, window):
    """Against every assignment of the said facts to reference facts."""
    said, reference = lists
    alignment = align_facts(said, reference, window)

    def most(pair):
        best = 0
        for k in range(min(len(said), len(reference)), 0, -1):
            for i, j in itertools.product(
                itertools.combinations(range(len(said)), k),
                itertools.permutations(range(len(reference)), k),
            ):
                if all(pair(said[a], reference[b]) for a, b in zip(i, j)):
                    return k
        return best

    near = lambda a, b: abs(a.until - b.until) <= window  # noqa: E731
    assert len(alignment.exact) == most(lambda a, b: a.key == b.key and near(a, b))
    for i, j in alignment.exact:
        assert said[i].key == reference[j].key
        assert near(said[i], reference[j])
    for i, j in alignment.but_names:
        assert said[i].names
        assert said[i].action == reference[j].action
        assert said[i].actor != reference[j].actor
        assert near(said[i], reference[j])
    used = [*alignment.exact, *alignment.but_names]
    assert len({i for i, _ in used}) == len({j for _, j in used}) == len(used)


def test_a_phrase_may_go_on_in_the_next_turn():
    facts = said_facts(turns((3.0, "red square"), (4.0, "shoots")), CONTEXT)
    assert [(f.action, f.time, f.until) for f in facts] == [("shot", 3.0, 4.0)]
