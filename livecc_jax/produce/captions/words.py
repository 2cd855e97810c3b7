"""From cues to words: order, rolling rows, overlaps, sound notes, speaker marks, and the time of
each word.

The numbers are those of the rules in docs/produce.md. A word has the time that its file gives it;
where the file times lines alone, a line's time is shared evenly over its words.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from operator import eq, itemgetter

from livecc_jax.produce.captions.cues import Captions, Cue, Row
from livecc_jax.produce.records import Word

LONGEST_WORD_MS = 1_000
_NOTES = re.compile(r"[\[\]♩♪♫♬]")
_DASHES = ("-", "–", "—")
_WORD = re.compile(r"\S+")
# Words are made by the million; this is twice as fast as `Word(...)`.
_new_word = partial(tuple.__new__, Word)
_ARROWS = re.compile(r">{2,}")
_BEFORE_NOTES = ("(", "-", " ", "\t")  # a row that begins so is looked at more closely
_OPENING, _CLOSING = "(（", ")）"


def words_of(captions: Captions, longest_word_ms: int = LONGEST_WORD_MS) -> tuple[Word, ...]:
    """Returns the words of captions in order of time.

    Args:
        captions: What a reader found.
        longest_word_ms: Most time that a word with a time of its own may take. YouTube shows a line
            until the line after the next begins, so the last word before a silence would last
            through it.
    """
    cues = drop_carried(merge(in_order(captions.cues)), captions.always_rolls)
    file_has_times = captions.has_times or any(row.marks for cue in cues for row in cue.rows)
    words: list[Word] = []
    starts = [cue.start_ms for cue in cues[1:]]  # rule 8: a cue ends where the next one starts
    for cue, following in zip_longest(cues, starts, fillvalue=sys.maxsize):
        start, end, rows = cue
        end = min(end, following)
        texts = _plain_texts(rows)
        if texts and (len(texts) > 1 or not file_has_times):  # most cues of most files
            count, length = len(texts), end - start
            if length:  # start + length * number // count, for each number
                first = start * count
                bounds = [x // count for x in range(first, first + length * count + 1, length)]
            else:
                bounds = [start] * (count + 1)
            words += map(_new_word, zip(bounds, bounds[1:], texts))
        else:
            words += _words_of_cue(cue, end, file_has_times, longest_word_ms)
    return tuple(words)


def in_order(cues: Sequence[Cue]) -> list[Cue]:
    """Returns the cues that have text by their starts (rule 6), each with an end (rule 3)."""
    cues = [cue for cue in cues if cue[2] and (cue[2][0][0].strip() or _has_text(cue[2]))]
    cues.sort(key=itemgetter(0))
    ordered: list[Cue] = []
    for number in range(len(cues) - 1, -1, -1):
        start, end, rows = cues[number]
        if end is None:  # until the next cue starts; those that start with it do not count
            following = ordered[-1] if ordered else None
            if following is None:
                end = start
            else:
                end = following.start_ms if following.start_ms > start else following.end_ms
            cues[number] = Cue(start, max(start, end), rows)
        elif end < start:
            cues[number] = Cue(start, start, rows)
        ordered.append(cues[number])
    ordered.reverse()
    return ordered


def _has_text(rows: Sequence[Row]) -> bool:
    return any([row.text.strip() for row in rows])


def merge(cues: Sequence[Cue]) -> list[Cue]:
    """Makes one cue of those that start together (rule 6). A cue that says the same until the same
    time counts once.
    """
    merged: list[Cue] = []
    parts: list[Cue] = []
    for cue in cues:
        if not merged or cue.start_ms != merged[-1].start_ms:
            merged.append(cue)
            parts = [cue]
            continue
        if any(part.end_ms == cue.end_ms and _said(part) == _said(cue) for part in parts):
            continue
        parts.append(cue)
        last = merged[-1]
        merged[-1] = Cue(last.start_ms, max(last.end_ms, cue.end_ms), [*last.rows, *cue.rows])
    return merged


def drop_carried(cues: Sequence[Cue], always: bool) -> list[Cue]:
    """Takes out rows that are carried over from the cue before (rule 7), and cues that bring
    nothing new.

    Args:
        cues: Cues in order.
        always: Whether the file rolls in any case; else it does if half of its cues begin with
            carried rows.
    """
    if not always and not _may_roll(cues):
        return list(cues)
    keys = [_keys(cue) for cue in cues]
    if sum(not key[0] for key in keys) * 2 > len(keys):  # a blank first row means nothing in this file
        for key in keys:
            while not key[0]:
                del key[0]
        cues = [
            Cue(c.start_ms, c.end_ms, c.rows[len(c.rows) - _length(c, k) :]) for c, k in zip(cues, keys)
        ]
    counts = [0]
    for number in range(1, len(cues)):
        before, key = keys[number - 1], keys[number]
        counts.append(_carried(before, key, cues[number].rows) if key[0] in before else 0)
    if not always and sum(count > 0 for count in counts) * 2 < len(cues):
        return list(cues)
    new = []
    for cue, count in zip(cues, counts):
        rows = cue.rows[count:]
        if _has_text(rows):
            new.append(Cue(cue.start_ms, cue.end_ms, rows))
    return new


def _may_roll(cues: Sequence[Cue]) -> bool:
    """Returns False for a file that surely does not roll: a quick test, for most files do not."""
    if any([len(cue[2]) > 1 for cue in cues]):
        return True
    rows = [cue[2][0][0].strip() for cue in cues]
    return any(map(eq, rows, rows[1:])) or any(["  " in row or "\xa0" in row for row in rows])


def _keys(cue: Cue) -> list[str]:
    """Returns the rows of a cue as they are compared; blank rows at the end do not count."""
    keys = [_key(text) for text, _ in cue[2]]
    while not keys[-1]:
        keys.pop()
    return keys


def _key(text: str) -> str:
    """Returns a row as rows are compared: white space is one space."""
    text = text.strip()
    return " ".join(text.split()) if "  " in text or "\t" in text or "\xa0" in text else text


def _length(cue: Cue, keys: Sequence[str]) -> int:
    """Returns how many rows at the end of a cue its keys stand for, with the blank rows after them."""
    blank = 0
    for row in reversed(cue.rows):
        if row.text and not row.text.isspace():
            break
        blank += 1
    return len(keys) + blank


def _said(cue: Cue) -> list[str]:
    return [key for key in (_key(row.text) for row in cue.rows) if key]


def _carried(before: Sequence[str], keys: Sequence[str], rows: Sequence[Row]) -> int:
    """Returns how many rows at the beginning of a cue are those that end the cue before; the
    longest run counts.

    A row with times of words is new, and so is one below a blank row.
    """
    most = min(len(before), len(keys))
    for number in range(most):
        if rows[number].marks or not keys[number]:
            most = number
            break
    for count in range(most, 0, -1):
        if before[-count:] == list(keys[:count]):
            return count
    return 0


def spoken_rows(rows: Sequence[Row]) -> list[Row]:
    """Returns rows without those that are sound notes (rule 9), and without marks of speakers (rule
    11).
    """
    kept = []
    for row in rows:
        text = row.text
        if _is_plain(text):
            kept.append(row)
            continue
        first = text.lstrip()
        if _NOTES.search(text) or (first[:1] in _OPENING and _is_parenthesis(text)):
            continue
        if first[:1] in _DASHES and (len(first) == 1 or first[1].isspace()):
            position = len(text) - len(first)
            text = f"{text[:position]} {text[position + 1 :]}"
        if ">>" in text:
            text = _without_speakers(text)
        kept.append(Row(text, row.marks) if text is not row.text else row)
    return kept


def _is_plain(text: str) -> bool:
    """Returns whether nothing of rules 9 and 11 can apply to a row, which is so for most."""
    return (
        text.isascii()
        and text[:1] not in _BEFORE_NOTES
        and "[" not in text
        and "]" not in text
        and ">>" not in text
    )


def _is_parenthesis(text: str) -> bool:
    """Returns whether a row is wholly in parentheses."""
    stripped = text.strip()
    if stripped[:1] not in _OPENING or stripped[-1:] not in _CLOSING or not stripped:
        return False
    depth = 0
    for character in stripped:
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth = max(0, depth - 1)
        elif depth == 0 and not character.isspace():
            return False
    return depth == 0


def _without_speakers(text: str) -> str:
    """Returns a row in which `>>` and the names after it are spaces, so that positions stay."""
    out = list(text)
    for arrows in _ARROWS.finditer(text):
        out[arrows.start() : arrows.end()] = " " * (arrows.end() - arrows.start())
        name = []
        for match in _WORD.finditer(text, arrows.end()):
            name.append(match[0])
            if match[0].endswith(":") or len(name) == 3:
                break
        said = " ".join(name)
        if said.endswith(":") and said == said.upper() and said != said.lower():
            out[arrows.end() : match.end()] = " " * (match.end() - arrows.end())
    return "".join(out)


def _plain_texts(rows: Sequence[Row]) -> list[str] | None:
    """Returns the words of a cue of one row to which no rule applies; None for another cue."""
    if len(rows) != 1:
        return None
    text, marks = rows[0]
    if marks or not _is_plain(text):
        return None
    texts = text.split()
    return None if any(map(eq, texts, texts[1:])) else texts


def _words_of_cue(cue: Cue, end: int, file_has_times: bool, longest_ms: int) -> list[Word]:
    """Returns the words of a cue, which ends at `end` (rules 9 to 13)."""
    rows, start = spoken_rows(cue.rows), cue.start_ms
    texts: list[str] = []
    if not any([row.marks for row in rows]):
        for row in rows:
            texts += row.text.split()
        if any(map(eq, texts, texts[1:])):  # rule 12
            texts = [text for i, text in enumerate(texts) if not i or text != texts[i - 1]]
        if file_has_times and len(texts) == 1:
            end = min(end, start + longest_ms)
        return share(texts, start, end)
    # The time of each word, ascending; words under one time share the stretch up to the next.
    times: list[int] = []
    last = None
    latest = start
    for row in rows:
        for text, time in _timed(row, latest):
            if text != last:
                latest = max(latest, min(time, end))
                texts.append(text)
                times.append(latest)
                last = text
    times.append(max(end, latest))
    words: list[Word] = []
    first, count = 0, len(texts)
    while first < count:
        time, stop = times[first], first + 1
        while stop < count and times[stop] == time:
            stop += 1
        if stop == first + 1:
            words.append(_new_word((time, min(times[stop], time + longest_ms), texts[first])))
        else:
            for begin, until, text in share(texts[first:stop], time, times[stop]):
                words.append(_new_word((begin, min(until, begin + longest_ms), text)))
        first = stop
    return words


def _timed(row: Row, time: int) -> list[tuple[str, int]]:
    """Returns the words of a row with the time of the mark that each begins under.

    Args:
        row: The row.
        time: Time of words before the first mark.
    """
    text, found, position = row.text, [], 0
    for at, mark in row.marks:
        if at and not (text[at].isspace() or text[at - 1].isspace()):  # within a word
            return _timed_parts(row, time, found, position)
        for word in text[position:at].split():
            found.append((word, time))
        position, time = at, mark
    for word in text[position:].split():
        found.append((word, time))
    return found


def _timed_parts(
    row: Row, time: int, found: list[tuple[str, int]], position: int
) -> list[tuple[str, int]]:
    """Returns what `_timed` does, where a mark stands within a word: the word has the time of its
    beginning.
    """
    marks = [mark for mark in row.marks if mark[0] > position]
    i = 0
    for match in _WORD.finditer(row.text, position):
        while i < len(marks) and marks[i][0] <= match.start():
            time = marks[i][1]
            i += 1
        found.append((match[0], time))
    return found


def share(texts: Sequence[str], start: int, end: int) -> list[Word]:
    """Returns words that share a stretch of time evenly."""
    count, length = len(texts), end - start
    if count == 1:
        return [_new_word((start, end, texts[0]))]
    bounds = [start + length * number // count for number in range(count + 1)] if count else []
    return list(map(_new_word, zip(bounds, bounds[1:], texts)))
