"""Damages the bytes of a file at random: as bytes, as text, and as JSON of which parts are replaced."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

# Begins a string that stands for its rest, unquoted: JSON that json.dumps does not write.
RAW = "\x01raw "
RAW_TEXTS = (
    "9" * 5000, "-" + "9" * 400, "1e308", "-1e400", "NaN", "-Infinity", "0." + "0" * 300 + "1",
    "[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300, '"\\ud800"', '"\\u0000"',
    '"\\udfff\\ud800"', "tru", "", ",", "1_0", "0x10", '"',
)  # fmt: skip
NUMBERS = (
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**9,
    10**30,
)
JUNK = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.integers(-3, 300), st.floats(),
    st.text(max_size=6), st.sampled_from([RAW + text for text in RAW_TEXTS]),
    st.sampled_from(["", "\0", "a\0b", "../..", "/", "/dev/zero", "x" * 5000]),
    st.sampled_from(["\u2028", "\x1b[2J", "\ufeff"]),
    st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=4), st.one_of(st.none(), st.integers()), max_size=3),
)  # fmt: skip
ODD_BYTES = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"\x1b[2J", b"\r", b"\n", b"\n\n",
    b'"',    b"[", b"]", b"}", b"{" * 200, b"[" * 5000, b"9" * 5000, b"1e999", b"NaN", b"null", b"-1",
    b"\\", b",",
)  # fmt: skip
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def damage_bytes(rng: random.Random, data: bytes, is_text: bool) -> bytes:
    """Returns the bytes with one to four changes.

    Args:
        rng: Decides everything.
        data: Contents of a good file.
        is_text: Whether words and numbers of a text are replaced too.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(rng, out, is_text)
    return bytes(out)


def _change(rng: random.Random, out: bytearray, is_text: bool) -> None:
    """Makes one change. Headers are at the beginning, so half of all changes are there."""
    size = len(out)
    at = rng.randrange(min(size, 256) if rng.random() < 0.5 and size else size or 1)
    length = rng.choice((1, 2, 4, 8, 32, 256, 4096))
    kind = rng.randrange(13 if is_text else 10)
    if kind in (0, 1) and size:
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 2 and size:
        out[at] = rng.randrange(256)
    elif kind == 3:
        del out[at:]
    elif kind == 4:
        del out[at : at + length]
    elif kind == 5:
        out[at:at] = rng.randbytes(length)
    elif kind == 6:
        out[at : at + length] = bytes(len(out[at : at + length]))
    elif kind == 7:
        width = rng.choice((2, 4, 8))
        value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1))
        out[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    elif kind == 8:
        other = rng.randrange(size or 1)
        out[at : at + length] = out[other : other + length]
    elif kind == 9:
        out[at:at] = out[at : at + length]
    elif kind == 10:
        out[at:at] = rng.choice(ODD_BYTES)
    elif kind == 11 and (numbers := list(NUMBER.finditer(bytes(out)))):
        number = rng.choice(numbers)
        text = rng.choice((*map(str, NUMBERS), *RAW_TEXTS[:7]))
        out[number.start() : number.end()] = text.encode()
    else:
        lines = bytes(out).split(b"\n")
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[i], lines[j] = lines[j], lines[i]
        if rng.random() < 0.3:
            lines.insert(j, lines[i])
        out[:] = b"\n".join(lines)


def damaged_json(data: bytes) -> st.SearchStrategy[bytes] | None:
    """Returns a strategy of JSON or JSON lines in which parts are junk; None for other texts."""
    try:
        values, is_lines = [json.loads(data)], False
    except ValueError:
        try:
            values, is_lines = [json.loads(line) for line in data.splitlines()], True
        except ValueError:
            return None
    places = [(i, *path) for i, value in enumerate(values) for path in _paths(value)]
    changes = st.lists(
        st.tuples(st.sampled_from(places), st.sampled_from("rrrdk"), JUNK), min_size=1, max_size=3
    )

    def apply(drawn: list[tuple[tuple, str, Any]]) -> bytes:
        root = copy.deepcopy(values)
        for place, action, junk in drawn:
            _apply(root, place, action, junk)
        lines = [_dump(value) for value in root]
        return ("\n".join(lines) + "\n" if is_lines else "\n".join(lines)).encode(
            "utf-8", "surrogatepass"
        )

    return changes.map(apply)


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    """Returns the paths of all parts of a value, at most 400."""
    out = [path]
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in items:
        if len(out) >= 400:
            break
        out += _paths(part, (*path, key))
    return out[:400]


def _apply(root: Any, place: tuple, action: str, junk: Any) -> None:
    node = root
    try:
        for key in place[:-1]:
            node = node[key]
        if action == "r" or len(place) == 1:
            node[place[-1]] = junk
        elif action == "d":
            del node[place[-1]]
        elif isinstance(node, dict):
            node[junk if isinstance(junk, str) else str(junk)] = node[place[-1]]
    except (LookupError, TypeError):
        return  # an earlier change took the place away


def _dump(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # `RAW` as json.dumps spells it; the texts hold no quote that it would escape, other than their own.
    pattern = re.compile(r'"\\u0001raw ((?:[^"\\]|\\.)*)"')
    return pattern.sub(lambda m: json.loads('"' + m[1] + '"'), text)


def draw(strategy: st.SearchStrategy[bytes], seed: int, count: int) -> list[bytes]:
    """Returns at most so many values of a strategy, the same for the same seed."""
    out: list[bytes] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: bytes) -> None:
        out.append(value)

    collect()
    return out
