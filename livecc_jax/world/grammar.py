"""The commentator's grammar as data: how each fact is worded in each register.

A wording is a line of words and slots. The same table is spoken (`facts.speak`) and parsed
(`facts.parse_facts`), so that parsing is the exact inverse of speaking. Slots:

| slot | stands for | spelled |
|---|---|---|
| `{a}` | the fact's actor, a player | `red square`, `the red square`, or a name |
| `{A}` | the actor, never by name | `red square`, `the red square` |
| `{s}` | the object, a player of the actor's team | as `{a}`, or the mark alone: `square` |
| `{o}` | the object, a player of the other team | as `{a}`, or the mark alone: `square` |
| `{t}` | the actor, a team | its colour or its name: `red`, `Foxes` |
| `{T}` | the actor, a team by name | `Foxes` |
| `{c}` | the object, a colour | `red` |
| `{N}` | the object, a name | `Ada` |
| `{n}`, `{r}` | the object, a count | `two`; `second` |
| `{x}`, `{y}` | goals: of the team that leads, of the other | `two`, `one` |
"""

from __future__ import annotations

REGISTERS = ("calm", "lively", "terse", "radio")

# (kind, action) -> a wording for each register. A kind that has several forms is listed with each.
WORDINGS: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("event", "kickoff"): {
        "calm": ("{t} kick off",),
        "lively": ("here we go with {t}",),
        "terse": ("{t} start",),
        "radio": ("the ball is rolling for {t}",),
    },
    ("event", "pass"): {
        "calm": ("{a} passes to {s}",),
        "lively": ("{a} finds {s}",),
        "terse": ("{a} to {s}",),
        "radio": ("{a} rolls it over to {s}",),
    },
    ("event", "dribble"): {
        "calm": ("{a} dribbles past {o}",),
        "lively": ("{a} dances past {o}",),
        "terse": ("{a} past {o}",),
        "radio": ("{a} goes around {o}",),
    },
    ("event", "steal"): {
        "calm": ("{a} takes it from {o}",),
        "lively": ("{a} steals it from {o}",),
        "terse": ("{a} robs {o}",),
        "radio": ("{a} wins it back from {o}",),
    },
    ("event", "shot"): {
        "calm": ("{a} shoots",),
        "lively": ("{a} lets fly",),
        "terse": ("shot {a}",),
        "radio": ("{a} tries from there",),
    },
    ("event", "save"): {
        "calm": ("{a} saves",),
        "lively": ("what a save by {a}",),
        "terse": ("saved {a}",),
        "radio": ("{a} keeps it out",),
    },
    ("event", "goal"): {
        "calm": ("{a} scores",),
        "lively": ("goal what a goal by {a}",),
        "terse": ("goal {a}",),
        "radio": ("it is in the net from {a}",),
    },
    ("event", "foul"): {
        "calm": ("{a} fouls {o}",),
        "lively": ("{a} brings down {o}",),
        "terse": ("foul {a} on {o}",),
        "radio": ("{a} takes out {o}",),
    },
    ("event", "yellow"): {
        "calm": ("yellow card for {a}",),
        "lively": ("{a} goes into the book",),
        "terse": ("{a} booked",),
        "radio": ("the referee books {a}",),
    },
    ("event", "red"): {
        "calm": ("red card for {a}",),
        "lively": ("{a} is sent off",),
        "terse": ("{a} dismissed",),
        "radio": ("the referee sends away {a}",),
    },
    ("event", "out"): {
        "calm": ("{a} puts it out",),
        "lively": ("that is out off {a}",),
        "terse": ("out {a}",),
        "radio": ("{a} loses it over the line",),
    },
    ("event", "substitution"): {
        "calm": ("{a} comes on for {s}",),
        "lively": ("{a} replaces {s}",),
        "terse": ("{a} on for {s}",),
        "radio": ("a change with {a} in for {s}",),
    },
    ("picture", "replay"): {
        "calm": ("here is the replay",),
        "lively": ("look at that again",),
        "terse": ("replay",),
        "radio": ("they show it once more",),
    },
    ("picture", "crowd"): {
        "calm": ("here is the crowd",),
        "lively": ("look at these people",),
        "terse": ("crowd",),
        "radio": ("they show the stands",),
    },
    ("possession", "team"): {
        "calm": ("{t} have the ball",),
        "lively": ("{t} in control",),
        "terse": ("{t} ball",),
        "radio": ("{t} keep it for now",),
    },
    ("possession", "player"): {
        "calm": ("{a} has the ball",),
        "lively": ("{a} looks up",),
        "terse": ("{a} holds",),
        "radio": ("{a} stays on the ball",),
    },
    ("score", "lead"): {
        "calm": ("{t} lead {x} {y}",),
        "lively": ("it is {x} {y} to {t}",),
        "terse": ("{x} {y} {t}",),
        "radio": ("{t} in front by {x} to {y}",),
    },
    ("score", "level"): {
        "calm": ("the score is {x} all",),
        "lively": ("all square at {x} each",),
        "terse": ("{x} all",),
        "radio": ("still level at {x} each",),
    },
    ("streak", "goals"): {
        "calm": ("the {r} goal of {a}",),
        "lively": ("that is goal number {n} of {a}",),
        "terse": ("{r} for {a}",),
        "radio": ("goal number {n} from {a}",),
    },
    ("streak", "row"): {
        "calm": ("{n} goals in a row for {t}",),
        "lively": ("{t} make it {n} in a row",),
        "terse": ("{n} straight {t}",),
        "radio": ("a run of {n} for {t}",),
    },
    ("streak", "fouls"): {
        "calm": ("the {r} foul of {a}",),
        "lively": ("that is foul number {n} of {a}",),
        "terse": ("{r} foul {a}",),
        "radio": ("foul number {n} from {a}",),
    },
    ("streak", "fouled"): {
        "calm": ("{a} was fouled before",),
        "lively": ("{a} was hurt before",),
        "terse": ("{a} fouled before",),
        "radio": ("remember the foul on {a}",),
    },
    ("colour", "wear"): {
        "calm": ("{T} wear {c}",),
        "lively": ("{T} shine in {c}",),
        "terse": ("{T} in {c}",),
        "radio": ("{T} play in {c}",),
    },
    ("name", "name"): {
        "calm": ("{A} is {N}",),
        "lively": ("meet {A} called {N}",),
        "terse": ("{A} {N}",),
        "radio": ("{A} goes by {N}",),
    },
}

KINDS = tuple(dict.fromkeys(kind for kind, _ in WORDINGS))


def all_wordings() -> list[tuple[str, str, str]]:
    """Returns (kind, action, wording) of every wording of every register, each once."""
    return list(
        dict.fromkeys(
            (kind, action, wording)
            for (kind, action), registers in WORDINGS.items()
            for wordings in registers.values()
            for wording in wordings
        )
    )
