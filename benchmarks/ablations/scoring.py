"""Streams trained parameters over test matches, and scores what is said by facts."""

import dataclasses

import numpy as np

from benchmarks.ablations.matches import timed_words
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.evaluate.metrics.baselines import previous_copy, silence_only
from livecc_jax.evaluate.metrics.commentary import PredictedTurn, Reference
from livecc_jax.evaluate.metrics.fact_counts import FactClip, count_facts
from livecc_jax.evaluate.metrics.fact_metrics import fact_metrics
from livecc_jax.evaluate.run.batched_commentary import (
    StreamedClip,
    comment_clips,
    comment_without_memory,
)
from livecc_jax.stream.model import StreamModel


def fact_clip(match, text):
    """A test clip with the reference of one text of the match."""
    words, previous = match.texts[text]
    end_us = round(match.seconds * 1e6)
    reference = Reference(match.path, 0, end_us, timed_words(words), previous)
    return FactClip(reference, match.truth.context, match.truth.facts, match.path)


def streamed_clip(match, prompt, size):
    frames = np.asarray(match.frames)
    assert frames.shape[1:3] == size, "frames are rendered at the size of the budget"
    return StreamedClip(match.path, frames, prompt)


def turns_of_words(words, seconds):
    """Timed words as turns, one a word: the second draw of a commentator as a prediction."""
    return [
        PredictedTurn(round(1e6 * b) - 1, round(1e6 * b) + 1, w, round(1e6 * b)) for _, b, w in words
    ]


def bfloat16(params):
    import jax
    import jax.numpy as jnp

    if jax.default_backend() == "cpu":
        return params
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


def stream(
    config,
    params,
    tokenizer,
    clips,
    *,
    positions="mrope",
    batch=64,
    max_new_tokens=16,
    context=4096,
    precision="weights",
    cache_precision="weights",
    memory=None,
    **options,
):
    """Returns the turns of each clip by its name."""
    model = StreamModel(config, bfloat16(params), tokenizer, precision=precision)
    # Speech begins with any of several words and silence with one, so that the likeliest token is often
    # silence where speech is likelier: " ..." is banned while its probability is at most a half.
    decoding = StreamOptions(
        positions=positions,
        max_new_tokens=max_new_tokens,
        repetition_penalty=1.0,
        context=context,
        silence_base=0.5,
    )
    if memory:
        return comment_without_memory(
            model, clips, decoding, batch, memory, context_size=min(context, 256)
        )
    return comment_clips(
        model, clips, decoding, batch, context_size=context, cache_precision=cache_precision, **options
    )


def score(clips, said):
    """Returns the counts of each clip."""
    return [count_facts(clip, said[clip.reference.id]) for clip in clips]


def baseline_counts(matches, text, second):
    """Counts of the methods that need no model: silence, previous copy, the second draw."""
    clips = [fact_clip(m, text) for m in matches]
    return {
        "second draw": score(
            clips, {m.path: turns_of_words(m.texts[second][0], m.seconds) for m in matches}
        ),
        "silence": [count_facts(c, silence_only(c.reference)) for c in clips],
        "previous copy": [count_facts(c, previous_copy(c.reference)) for c in clips],
    }


def blank(clip):
    """The clip with grey pictures."""
    return dataclasses.replace(clip, frames=np.full_like(clip.frames, 128))


def rounded(metrics):
    return {k: None if v != v else round(v, 3) for k, v in metrics.items()}


def summary(counts):
    return rounded(fact_metrics(counts))


def errors(counts):
    """Facts by what is wrong with them."""
    total = sum((c.errors for c in counts), start=type(counts[0].errors)())
    return dict(total)


def by_minute(clips, said):
    """F1 of facts in time of every minute, over all clips."""
    counts = {}
    for clip in clips:
        reference = clip.reference
        for minute in range(reference.end_us // 60_000_000):
            start, end = 60_000_000 * minute, 60_000_000 * (minute + 1)
            words = tuple(w for w in reference.words if start < w.end_us <= end)
            part = dataclasses.replace(
                clip, reference=dataclasses.replace(reference, start_us=start, end_us=end, words=words)
            )
            turns = [t for t in said[reference.id] if start < t.stop_us <= end]
            counts.setdefault(minute, []).append(count_facts(part, turns))
    return [rounded(fact_metrics(c))["fact F1, in time"] for _, c in sorted(counts.items())]
