"""Cuts a stream of words into clips (LiveCC, arXiv 2504.16030, Figure 2): the rule that is meant.

The released scripts leave out a stream's last word, measure silence and length between the wrong
ends of words, and take for a sentence's beginning only a word that is wholly upper case
(docs/produce.md, Slips).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import le

from livecc_jax.data.annotations.conversations import MAX_TEXT_CHARACTERS
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import SAMPLE_CHARACTERS, Clip, Rejection, Source, Word, reject
from livecc_jax.timeline.turns import MAX_BACKWARD_US

SENTENCE_ENDS = (".", "?", "!")
MAX_BACKWARD_MS = MAX_BACKWARD_US // 1000  # a clip with words that run back further cannot be indexed
# The window ends at most this long after the last word unless trailing silence is asked for.
MAX_TAIL_MS = 2_000
SAMPLE_WORDS = 24  # of a stretch that is dropped
NOT_A_SENTENCE = "no sentence begins here"


def cut(source: Source, parameters: Parameters, models: Models | None = None) -> list[Clip | Rejection]:
    """Cuts a source's words into clips.

    A clip takes words while the silence before the next one and the whole length stay within their
    bounds; the next clip begins at the first word not taken or, for fine-tuning, at the first
    sentence that begins there or later. Every word of the source is in one clip or one rejection.

    Args:
        source: A source whose words have been read.
        parameters: Reads the fields of the stage "cut".
        models: Not used.

    Returns:
        Clips and rejected stretches in order of time. A source without words gives its rejection.
    """
    words = source.words or ()
    spoken = _before_end(words, source.duration_ms)
    if not spoken:
        return [reject(source, "cut", "nothing is said" if not words else "all words lie past the end")]
    cutter = _Cutter(source, words[: len(spoken)], parameters)
    found: list[Clip | Rejection] = []
    i = 0
    for start, stop in spans(cutter.words, parameters):
        if start > i:
            found.append(cutter.rejection(len(found), i, start, NOT_A_SENTENCE))
        found.append(cutter.clip_or_rejection(len(found), start, stop))
        i = stop
    if i < len(cutter.words):
        found.append(cutter.rejection(len(found), i, len(cutter.words), NOT_A_SENTENCE))
    if len(words) > len(spoken):
        rest = _Cutter(source, words, parameters)
        found.append(rest.rejection(len(found), len(spoken), len(words), "said after the video ends"))
    return found


def spans(words: Sequence[Word], parameters: Parameters) -> Iterator[tuple[int, int]]:
    """Yields the first and one past the last word of each stretch, before lengths and rates are judged.

    Args:
        words: Words in order of time.
        parameters: Reads `max_silence_ms`, `max_clip_ms` and `sentence_starts`.
    """
    max_silence, max_clip = parameters.max_silence_ms, parameters.max_clip_ms
    sentences, count, i = parameters.sentence_starts, len(words), 0
    while i < count:
        if sentences and not starts_sentence(words, i):
            i += 1
            continue
        first, end, _ = words[i]
        latest = first + max_clip
        j = i + 1
        while j < count:
            start, next_end, _ = words[j]
            if start - end > max_silence or next_end > latest:
                break
            end = next_end
            j += 1
        yield i, j
        i = j


def starts_sentence(words: Sequence[Word], i: int) -> bool:
    """Returns whether word i begins a sentence: it is the first, or the word before ends one and
    this one begins with a capital letter of any script.
    """
    return i == 0 or (words[i - 1].text.endswith(SENTENCE_ENDS) and words[i].text[:1].isupper())


def _before_end(words: Sequence[Word], duration_ms: int | None) -> Sequence[Word]:
    """Returns the words up to the last one that starts within the video."""
    if duration_ms is None:
        return words
    stop = len(words)
    while stop and words[stop - 1].start_ms >= duration_ms:
        stop -= 1
    return words[:stop]


class _Cutter:
    """Makes the clips and rejections of one source."""

    def __init__(self, source: Source, words: Sequence[Word], parameters: Parameters) -> None:
        self.source, self.words, self.parameters = source, words, parameters
        self._texts: list[str] = []
        self._too_short = f"shorter than {parameters.min_clip_ms / 1000:g} s"

    def clip_or_rejection(self, index: int, start: int, stop: int) -> Clip | Rejection:
        fault, value = self._fault(start, stop)
        if fault:
            return self.rejection(index, start, stop, fault, value)
        source, taken = self.source, tuple(self.words[start:stop])
        previous = self._previous(start, taken) if self.parameters.with_previous else ""
        return Clip(
            order=source.order,
            index=index,
            id=source.id,
            video=source.video,
            start_ms=taken[0].start_ms,
            end_ms=self._window_end(start, stop),
            words=taken,
            previous=previous,
            title=source.title,
            category=source.category,
            language=source.language,
            duration_ms=source.duration_ms,
            width=source.width,
            height=source.height,
            info=source.info,
        )

    def rejection(
        self, index: int, start: int, stop: int, reason: str, value: float | None = None
    ) -> Rejection:
        source, words = self.source, self.words
        sample = [word[2] for word in words[start : min(stop, start + SAMPLE_WORDS)]]
        return Rejection(
            order=source.order,
            id=source.id,
            video=source.video,
            stage="cut",
            reason=reason,
            value=value,
            clip=(words[start].start_ms, words[stop - 1].end_ms),
            index=index,
            num_words=stop - start,
            text=" ".join(sample)[:SAMPLE_CHARACTERS],
        )

    def _fault(self, start: int, stop: int) -> tuple[str, float | None]:
        """Returns why a stretch is no clip, and the measured value; "" if it is one."""
        p, words = self.parameters, self.words
        length = words[stop - 1].end_ms - words[start].start_ms
        if length < p.min_clip_ms:
            return self._too_short, length / 1000
        if length > p.max_clip_ms:  # a single word may be that long
            return f"longer than {p.max_clip_ms / 1000:g} s", length / 1000
        # In whole numbers, as the bounds are included: words / (length / 1000) would be rounded.
        rate = (stop - start) * 1000
        if p.min_words_per_second and rate < p.min_words_per_second * length:
            return f"fewer than {p.min_words_per_second:g} words a second", round(rate / length, 3)
        if p.max_words_per_second and rate > p.max_words_per_second * length:
            # Words that all stand at one instant have no rate that could be given.
            value = round(rate / length, 3) if length else None
            return f"more than {p.max_words_per_second:g} words a second", value
        backward = _runs_backward_ms(words[start:stop])
        if backward >= MAX_BACKWARD_MS:
            return f"words run backwards by {MAX_BACKWARD_MS / 1000:g} s or more", backward / 1000
        return "", None

    def _window_end(self, start: int, stop: int) -> int:
        """Returns the end of the window in milliseconds: late enough that frames show the last word."""
        p, words = self.parameters, self.words
        last = words[stop - 1].end_ms
        latest = max([word[1] for word in words[max(start, stop - 50) : stop]])
        end = min(latest + p.tail_ms, last + max(MAX_TAIL_MS, p.tail_ms))
        if p.trailing_silence_ms:
            quiet = last + p.trailing_silence_ms
            if stop < len(words):
                quiet = min(quiet, words[stop].start_ms)
            end = max(end, quiet)
        if self.source.duration_ms is not None:
            end = min(end, self.source.duration_ms)
        return end

    def _previous(self, start: int, taken: Sequence[Word]) -> str:
        """Returns what is said before a word; the end of it where a conversation holds no more."""
        if not start:
            return ""
        self._texts = self._texts or [word.text for word in self.words]
        text = " ".join(self._texts[:start])
        used = sum([len(word[2]) for word in taken]) + len(self.source.title)
        room = max(0, MAX_TEXT_CHARACTERS - used - len(self.source.category))
        return text if len(text) <= room else text[-room:].partition(" ")[2]


def _runs_backward_ms(words: Sequence[Word]) -> int:
    """Returns the most by which a word starts or ends before an earlier one, or before it starts."""
    starts, ends = [word[0] for word in words], [word[1] for word in words]
    # Sorting what is sorted is fast.
    if starts == sorted(starts) and ends == sorted(ends) and all(map(le, starts, ends)):
        return 0
    latest_start = latest_end = min(starts[0], ends[0])
    worst = 0
    for start, end in zip(starts, ends):
        worst = max(worst, latest_start - start, latest_end - end, start - end)
        latest_start = max(latest_start, min(start, end))
        latest_end = max(latest_end, start, end)
    return worst
