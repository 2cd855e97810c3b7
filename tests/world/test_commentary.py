"""What is said is true, known and seen when it is said; noise stays within its rates."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from livecc_jax.errors import ConfigError, DataError
from livecc_jax.timeline.example import Word
from livecc_jax.timeline.turns import check_words
from livecc_jax.world.captions import MAX_LAG, Noise, noisy
from livecc_jax.world.commentary import STYLES, commentate, lineup, style
from livecc_jax.world.facts import Context, Fact, parse_facts, parse_text
from livecc_jax.world.lexicon import ADVERTISEMENTS, CHATTER, FILLERS
from livecc_jax.world.match import MatchOptions
from livecc_jax.world.questions import questions
from livecc_jax.world.rules import make_match
from livecc_jax.world.truth import read_truth, to_json, truth

OPTIONS = MatchOptions((25.0, 40.0), tempo=1.5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(STYLES)), st.integers(0, 5), st.booleans())
# An introduction took longer than the possession it was for.
@example(92863283730664, "lively", 1, False)
@example(17954971691979, "lively", 5, False)
def test_every_spoken_fact_is_known_and_seen_and_the_words_parse_to_exactly_the_facts(
    seed, name, draw, introduced
):
    match = make_match(seed, OPTIONS)
    true = truth(match)
    spoken = commentate(match, STYLES[name], draw, introduced, true)
    check_words([Word(round(a * 1e6), round(b * 1e6), w) for a, b, w in spoken.words])
    # The names are learnt from what is said, as somebody who listens learns them.
    unknown = Context(match.context.home, match.context.away, match.context.teams)
    before = " ".join(lineup(match, STYLES[name], draw)) if introduced else ""
    heard = {f.object: f.actor for f in parse_text(before, unknown)}
    parsed = parse_facts(spoken.words, Context(unknown.home, unknown.away, unknown.teams, heard))
    assert parsed == list(spoken.facts)
    details = [(f.time, f.until, f.words, f.names) for f in spoken.facts]
    assert [(f.time, f.until, f.words, f.names) for f in parsed] == details
    seen = true.seen_events
    for fact in spoken.facts:
        assert fact.until <= match.seconds
        if fact.kind == "event":
            assert any(e == fact and e.time < fact.time <= e.time + 3.0 for e in seen), fact
        else:
            assert true.holds(fact, fact.time, 0.0), fact


def test_another_draw_says_much_of_the_same_with_other_times():
    both = same = 0
    for seed in range(4):
        match = make_match(seed)
        first, second = (commentate(match, STYLES["calm"], draw) for draw in (0, 1))
        assert first == commentate(match, STYLES["calm"], 0) != second
        left = list(second.facts)
        for fact in first.facts:
            near = [g for g in left if g == fact and abs(g.time - fact.time) <= 3]
            same += len(near[:1])
            if near:
                left.remove(near[0])
        both += len(first.facts) + len(second.facts)
    assert 0.5 < 2 * same / both < 0.95


def test_styles_call_players_and_teams_in_their_own_way():
    match = make_match(5)
    for name, manner in STYLES.items():
        draws = [commentate(match, manner, draw) for draw in range(4)]
        spoken = draws[3]
        names = {n for draw in draws for fact in draw.facts for n in fact.names}
        assert bool(names) == (manner.introduces > 0), name
        assert ("!" in spoken.text) == manner.exclaims
        assert (" the " in spoken.text.replace(" the ball", "")) == (
            manner.articles > 0
        ) or name != "terse"
    assert " circle." in commentate(match, STYLES["terse"], 3).text
    with pytest.raises(ConfigError, match="there is no style 'loud'"):
        style("loud")


def test_truth_files_hold_everything(tmp_path):
    true = truth(make_match(3, OPTIONS))
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(to_json(true)))
    again = read_truth(path)
    assert again == true
    assert [(f.time, f.until) for f in again.facts] == [(f.time, f.until) for f in true.facts]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: "no json", "no truth file"),
        (lambda data: {**data, "version": 2}, "its version is 2, not 1"),
        (lambda data: {k: v for k, v in data.items() if k != "home"}, "no truth file"),
        (lambda data: {**data, "facts": [[1, 2]]}, "a row has not 6 values"),
        (lambda data: {**data, "shots": [["a", "b", "play"]]}, "no truth file"),
        (lambda data: {**data, "facts": 7}, "no truth file"),
        (lambda data: [], "no truth file"),
    ],
)
def test_damaged_truth_files_are_refused_in_a_sentence(tmp_path, change, reason):
    path = tmp_path / "truth.json"
    changed = change(to_json(truth(make_match(3, MatchOptions((10.0, 10.0))))))
    path.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(DataError, match=reason) as caught:
        read_truth(path)
    assert "truth.json" in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_truth(tmp_path / "none.json")


def test_noise_stays_within_its_rates():
    noise = Noise(lag=1.2, dropped=0.1, misheard=0.2, fillers=0.05, chatter=6.0, advertisements=3.0)
    plain = Noise(lag=0.0, dropped=0.0, misheard=0.0, fillers=0.0, chatter=0.0, advertisements=0.0)
    spoken = dropped = misheard = added = 0
    for seed in range(8):
        words = commentate(make_match(seed, MatchOptions((60.0, 60.0))), STYLES["calm"]).words
        heard = noisy(words, noise, seed, 60.0)
        times = [t for start, end, _ in heard.words for t in (start, end)]
        assert all(0 <= lag <= noise.lag <= MAX_LAG for lag in heard.lags)
        assert times == sorted(times)
        assert not times or times[-1] <= 60.0
        assert all(word[-1] not in ".!?" for _, _, word in heard.words)
        assert heard.words == noisy(words, noise, seed, 60.0).words
        spoken, dropped = spoken + heard.spoken, dropped + heard.dropped
        misheard, added = misheard + heard.misheard, added + heard.added
        clean = noisy(words, plain, seed, 60.0)
        said = [w.strip(".").lower() for _, _, w in words]
        assert [w.lower() for _, _, w in clean.words] == said
    for count, rate in ((dropped, 0.1), (misheard, 0.2)):
        deviation = np.sqrt(rate * (1 - rate) / spoken)
        assert abs(count / spoken - rate) < 4 * deviation
    talk = max(len(text.split()) for text in (*CHATTER, *ADVERTISEMENTS, *FILLERS))
    assert 0 < added <= spoken * 0.05 * 4 + 8 * 9 * 3 * talk


def test_captions_of_lines_lag_by_their_lag():
    words = [(1.0 + 0.3 * i, 1.25 + 0.3 * i, "goal") for i in range(4)]
    heard = noisy(words, Noise(1.0, 0.0, 0.0, 0.0, 0.0, 0.0), 4, 30.0)
    (lag,) = heard.lags
    assert heard.words[0][0] == pytest.approx(1.0 + lag, abs=1e-3)
    assert heard.words[-1][1] == pytest.approx(words[-1][1] + lag, abs=1e-3)
    lengths = {round(b - a, 3) for a, b, _ in heard.words}
    assert max(lengths) - min(lengths) < 0.002, "the words of a line share its time evenly"


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_answers_are_what_the_events_say(seed):
    match = make_match(seed, OPTIONS)
    true = truth(match)
    numbers = ["nil", "one", "two", "three", "four", "five", "six"]
    for question in questions(true, 0, 8):
        assert question.answer in question.options
        assert len(set(question.options)) == len(question.options)
        assert question.options["ABCD".index(question.letter)] == question.answer
        before = [e for e in match.events if e.time <= question.end]
        goals = [e.actor.split()[0] for e in before if e.action == "goal"]
        score = [goals.count(match.context.home), goals.count(match.context.away)]
        last_word = question.text.rstrip("?").split()
        if question.kind == "goals":
            assert question.answer == numbers[goals.count(last_word[4])]
        elif question.kind == "score":
            assert question.answer == " ".join(numbers[n] for n in score)
        elif question.kind == "winner":
            front = {True: match.context.home, False: match.context.away}[score[0] > score[1]]
            assert question.answer == ("nobody" if score[0] == score[1] else front)
        elif question.kind == "fouls":
            fouls = [e for e in before if e.action == "foul" and e.actor.split()[0] == last_word[-1]]
            shown = [e for e in fouls if e.time <= question.end - 0.5]
            assert question.answer in {numbers[len(fouls)], numbers[len(shown)]}
        elif question.kind == "colour":
            assert question.answer == match.context.teams[last_word[3]]
        elif question.kind == "possession":
            tick = min(round(question.end * 10), len(match.holder) - 1) - 1
            assert question.answer == match.shirts[match.holder[tick]]


def test_questions_do_not_repeat_and_another_seed_asks_others():
    true = truth(make_match(2))
    first = questions(true, 0, 6)
    assert first == questions(true, 0, 6) != questions(true, 1, 6)
    assert len({(q.kind, q.text) for q in first}) == len(first)


def test_a_fact_is_known_from_when_it_happens_and_not_before():
    true = truth(make_match(5))
    goal = next(f for f in true.events if f.action == "goal")
    assert not true.holds(goal, goal.time - 0.01)
    assert true.holds(goal, goal.time)
    assert true.holds(goal, goal.time + 3.0)
    later = [f for f in true.events if f == goal and f.time > goal.time]
    assert later or not true.holds(goal, goal.time + 3.01)
    assert not true.holds(Fact("score", "score", "red", "7-0"), 10.0)
