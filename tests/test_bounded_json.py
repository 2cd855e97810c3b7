"""The one reader of JSON: what it accepts is what Python's own parser reads, within its limits."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.bounded_json import MAX_DEPTH, MAX_DIGITS, JsonError, parse_json, read_json_file

PACKAGE = Path(__file__).parents[1] / "livecc_jax"
# Values that this very process, or another process of the same run, has just written.
OWN_VALUES = ("bounded_json.py", "parallel/processes.py", "produce/line/listing.py")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def nested(levels, text="1"):
    """Lists and objects by turns, with brackets in strings that must not count."""
    for level in range(levels):
        text = f'["]]]", {text}, "\\"[{{"]' if level % 2 else f'{{"[": {text}, "}}\\\\": "["}}'
    return text


@settings(max_examples=150, deadline=None)
@given(VALUES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), st.booleans())
def test_it_reads_what_python_reads(value, encoding, escaped):
    text = json.dumps(value, ensure_ascii=escaped)
    assert parse_json(text) == value
    assert parse_json(text.encode(encoding)) == value


@pytest.mark.parametrize("levels", [1, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 3 * MAX_DEPTH])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_depth_is_counted_as_the_parser_counts_it(levels, encoding):
    text = nested(levels).encode(encoding)
    assert depth(json.loads(text)) == levels
    if levels <= MAX_DEPTH:
        assert parse_json(text) == json.loads(text)
    else:
        with pytest.raises(JsonError, match=f"more than {MAX_DEPTH} deep"):
            parse_json(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='[]{}",:\\ 1a\n', max_size=120))
def test_any_text_is_a_value_or_one_error(text):
    try:
        expected = json.loads(text)
    except ValueError:
        expected = ...
    try:
        value = parse_json(text)
    except JsonError:
        value = ...
    assert value == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 200_000, "deep"),
        (b'{"a":' * 200_000, "deep"),
        (b"[" * 200_000 + b"]" * 200_000, "deep"),
        (b"9" * 5000, "digits"),
        (b"[-1." + b"0" * 400 + b"]", "digits"),
        (b'"\\ud800"', "half a character"),
        (b'{"\\uDFFF": 1}', "half a character"),
        ('"\ud800"', "half a character"),
        (b'"\xff"', r"not UTF-8 text \(byte 1\)"),
        (b"", "Expecting value at line 1 column 1"),
        (b"[1,\n 2,, 3]", "Expecting value at line 2 column 4"),
        (b"[1] 2", "Extra data"),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(JsonError, match=reason):
        parse_json(text)


def test_numbers_that_are_read_can_be_computed_with():
    assert parse_json(b"9" * MAX_DIGITS) == 10**MAX_DIGITS - 1
    assert math.isfinite(float(parse_json(b"9" * MAX_DIGITS)))
    assert parse_json(b'["' + b"9" * 5000 + b'", 1e308, "\\ud83d\\ude00"]')[1:] == [1e308, "\U0001f600"]


def test_a_repeated_key_is_refused_where_asked(tmp_path):
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    file = tmp_path / "a.json"
    # The repeated key comes last of many: finding it must not take the square of their number.
    file.write_text(json.dumps({str(i): i for i in range(60_000)})[:-1] + ', "7": 0}')
    with pytest.raises(JsonError, match="'7' is there twice"):
        read_json_file(file, unique_keys=True)
    with pytest.raises(JsonError, match="more than the 1000 that are read"):
        read_json_file(file, max_bytes=1000)


def test_no_other_reader_is_used():
    readers = re.compile(r"\bjson\.loads?\(|JSONDecoder|literal_eval")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if readers.search(path.read_text(encoding="utf-8"))
    }
    assert found <= set(OWN_VALUES)
