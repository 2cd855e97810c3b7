"""Training examples of matches: whole or cut at silences, in every form of context."""

import dataclasses

from benchmarks.ablations.matches import timed_words
from livecc_jax.timeline.example import ChatExample, Message, StreamExample, VideoClip, seconds_to_us

CONTEXTS = ("none", "title", "previous", "both", "title or previous")
SILENCE_US = 3_000_000  # data production cuts clips at longer silences


def with_context(example, context):
    """Keeps of title and previous commentary what a form of context shows.

    `both` puts the title into the query, since the template shows either.
    """
    title, previous = example.title, example.previous
    if context == "both":
        return dataclasses.replace(example, query=title, title="")
    return dataclasses.replace(
        example,
        title=title if context in ("title", "title or previous") else "",
        previous=previous if context in ("previous", "title or previous") else "",
    )


def whole(match, text, context="title or previous"):
    """A match as one streaming example."""
    words, previous = match.texts[text]
    clip = VideoClip(match.path, 0, seconds_to_us(match.seconds))
    return with_context(
        StreamExample(clip, timed_words(words), title=match.title, previous=previous), context
    )


def cut_at_silences(match, text, tail_us, context="title or previous"):
    """Cuts a match at silences longer than 3 s, as data production does.

    Each clip begins with its first word and ends `tail_us` after its last one, or where the next clip
    begins; what was said before is its previous commentary.
    """
    example = whole(match, text, "title or previous")
    words, groups = example.words, []
    for word in words:
        if groups and word.start_us - groups[-1][-1].end_us <= SILENCE_US:
            groups[-1].append(word)
        else:
            groups.append([word])
    clips, before = [], example.previous
    for i, group in enumerate(groups):
        # A whole second, so that frame pairs are those of the match.
        start = max(0, group[0].start_us - 500_000) // 1_000_000 * 1_000_000
        limit = groups[i + 1][0].start_us if i + 1 < len(groups) else example.clip.end_us
        end = min(limit, max(group[-1].end_us + 500_000 + tail_us, start + 3_600_000))
        clip = VideoClip(match.path, start, end)
        part = dataclasses.replace(example, clip=clip, words=tuple(group), previous=before)
        clips.append(with_context(part, context))
        before = " ".join([before, *(w.text for w in group)]).strip()
    return clips


def question_examples(match):
    """Questions about the beginning of a match, with options, as conversations."""
    return [
        ChatExample(
            (
                Message("user", (VideoClip(match.path, 0, seconds_to_us(end)), text)),
                Message("assistant", (f"Answer: {letter}",)),
            )
        )
        for text, letter, end in match.questions
    ]
