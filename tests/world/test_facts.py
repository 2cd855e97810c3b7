"""Parsing is the exact inverse of speaking, for every wording and every way of calling players."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import DataError
from livecc_jax.world.facts import (
    Context,
    Fact,
    parse_facts,
    parse_text,
    parse_title,
    score_fact,
    speak,
    spell_shirts,
    team_of,
)
from livecc_jax.world.grammar import REGISTERS, WORDINGS
from livecc_jax.world.lexicon import ADVERTISEMENTS, ALL_MARKS, CHATTER, COLOURS, FILLERS, NAMES, TEAMS

TITLE = "Foxes in red against Owls in blue"


def timed(text: str) -> list[tuple[float, float, str]]:
    """Words of a text, one every half second, each 0.4 s long."""
    return [(i * 0.5, i * 0.5 + 0.4, word) for i, word in enumerate(text.split())]


def random_fact(kind: str, action: str, rng: random.Random, context: Context) -> Fact:
    """A fact of one kind, of any content that the grammar can say."""
    team, other = rng.sample([context.home, context.away], 2)
    first, second = rng.sample(ALL_MARKS, 2)
    actor = f"{team} {first}"
    if kind == "score":
        home, away = rng.randrange(9), rng.randrange(9)
        if (home == away) != (action == "level"):
            away = home if action == "level" else home + 1
        return score_fact(home, away, context)
    if action in ("kickoff", "team"):
        return Fact(kind, action, team)
    if action in ("pass", "substitution"):
        return Fact(kind, action, actor, f"{team} {second}")
    if action in ("dribble", "steal", "foul"):
        return Fact(kind, action, actor, f"{other} {second}")
    if action == "row":
        return Fact(kind, action, team, str(rng.randrange(1, 20)))
    if action in ("goals", "fouls"):
        return Fact(kind, action, actor, str(rng.randrange(1, 20)))
    if kind == "picture":
        return Fact(kind, action)
    if kind == "colour":
        name = rng.choice(list(context.teams))
        return Fact(kind, action, name, context.teams[name])
    if kind == "name":
        return Fact(kind, action, actor, rng.choice(NAMES))
    return Fact(kind, action, actor)


def speller(rng: random.Random, context: Context):
    """Calls players and teams in any of the ways of the grammar, at random."""
    names = {who: name for name, who in context.names.items()}
    teams = {colour: name for name, colour in context.teams.items()}

    def spell(slot: str, who: str, fact: Fact) -> str:
        if slot == "t":
            return rng.choice([who, teams[who]])
        if slot == "T":
            return who
        ways = [who, f"the {who}"]
        if slot != "A" and who in names:
            ways.append(names[who])
        if slot in "so":
            ways.append(who.split()[1])
        return rng.choice(ways)

    return spell


def shirts_named(rng: random.Random) -> Context:
    context = parse_title(TITLE)
    shirts = [f"{team} {mark}" for team in (context.home, context.away) for mark in ALL_MARKS]
    return Context(
        context.home, context.away, context.teams, dict(zip(rng.sample(NAMES, len(shirts)), shirts))
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_parsing_undoes_speaking_of_any_facts_in_a_row_without_punctuation(seed):
    rng = random.Random(seed)
    context = shirts_named(rng)
    spell, register = speller(rng, context), rng.choice(REGISTERS)
    said, words = [], []
    for _ in range(12):
        kind, action = rng.choice([key for key in WORDINGS if key[0] != "name"])
        fact = random_fact(kind, action, rng, context)
        spoken = speak(fact, rng.choice([register, rng.choice(REGISTERS)]), spell)
        said.append((fact, len(words), len(words) + len(spoken)))
        words += spoken
    facts = parse_facts(timed(" ".join(words)), context)
    assert [(f, *f.words) for f in facts] == said
    assert [f.time for f in facts] == [0.5 * first for _, first, _ in said]
    assert [f.until for f in facts] == [0.5 * (stop - 1) + 0.4 for _, _, stop in said]


@pytest.mark.parametrize("register", REGISTERS)
def test_every_wording_is_parsed_with_capitals_and_full_stops(register):
    rng = random.Random(register)
    context = shirts_named(rng)
    for (kind, action), registers in WORDINGS.items():
        for wording in range(len(registers[register])):
            fact = random_fact(kind, action, rng, context)
            words = speak(fact, register, speller(rng, context), wording)
            text = " ".join(words).capitalize() + "."
            (parsed,) = parse_facts(timed(text), context)
            assert parsed.key == fact.key, text


def test_a_name_stands_for_the_shirt_it_was_introduced_with_from_then_on():
    context = parse_title(TITLE)
    text = "Ada shoots. the red square is Ada. Ada shoots. the blue ring is Ada. Ada shoots."
    actors = [f.actor for f in parse_text(text, context) if f.action == "shot"]
    assert actors == ["?Ada", "red square", "blue ring"]
    known = Context("red", "blue", context.teams, {"Ada": "red cross"})
    assert next(f.actor for f in parse_text(text, known) if f.action == "shot") == "red cross"


def test_the_title_says_which_team_a_name_is_and_scores_count_its_first_team_first():
    context = parse_title(TITLE)
    assert (context.home, context.away, context.title) == ("red", "blue", TITLE)
    assert parse_text("Owls lead two one", context) == [Fact("score", "score", "blue", "1-2")]
    assert parse_text("it is two one to Foxes", context) == [Fact("score", "score", "red", "2-1")]
    assert parse_text("two all", context) == [Fact("score", "score", "", "2-2")]
    assert parse_text("Bears kick off", context) == [Fact("event", "kickoff", "?bears")]
    assert parse_text("red lead one two", context) == [], "nobody leads by fewer goals"
    for title in ("", "Foxes in red", TITLE + " again", "Cats in red against Owls in blue"):
        with pytest.raises(DataError):
            parse_title(title)


def test_chatter_advertisements_and_fillers_say_nothing():
    context = parse_title(TITLE)
    for text in (*CHATTER, *ADVERTISEMENTS, *FILLERS):
        assert parse_text(text, context) == []


def test_a_phrase_with_a_wrong_or_missing_word_is_lost_and_no_other():
    context = parse_title(TITLE)
    text = "red square passes circle . red circle shoots ! the blue paper saves . blue keeper saves"
    said = [("shot", "red circle"), ("save", "blue keeper")]
    assert [(f.action, f.actor) for f in parse_text(text, context)] == said
    assert [f.key for f in parse_text("red square passes to. red circle shoots", context)] == [
        ("event", "shot", "red circle", "")
    ], "no phrase goes across the end of a sentence"


def test_words_of_the_lexicon_do_not_collide():
    words = [*COLOURS, *ALL_MARKS, *(n.lower() for n in (*NAMES, *TEAMS))]
    assert len(set(words)) == len(words)
    grammar = {
        word
        for registers in WORDINGS.values()
        for wordings in registers.values()
        for wording in wordings
        for word in wording.split()
        if not word.startswith("{")
    }
    assert not grammar & {name.lower() for name in (*NAMES, *TEAMS)}


def test_shirts_are_spelled_as_they_are():
    fact = Fact("event", "pass", "red square", "red ring")
    assert speak(fact, "calm", spell_shirts) == ["red", "square", "passes", "to", "red", "ring"]
    assert team_of(fact.actor) == "red"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=6),
            st.sampled_from(
                ["red", "square", "Ada", "passes", "to", "two", "one", "lead", "the", ".", "is"]
            ),
        ),
        max_size=25,
    )
)
def test_any_words_are_parsed_without_an_error_and_only_whole_phrases_count(words):
    context = parse_title(TITLE)
    timed_words = [(float(i), i + 0.5, word) for i, word in enumerate(words)]
    last = 0
    for fact in parse_facts(timed_words, context):
        assert last <= fact.words[0] < fact.words[1] <= len(words)
        assert (fact.time, fact.until) == (float(fact.words[0]), fact.words[1] - 0.5)
        assert parse_facts(timed_words[slice(*fact.words)], context)[0].action == fact.action
        last = fact.words[1]
