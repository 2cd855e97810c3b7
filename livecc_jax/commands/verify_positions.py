"""What `livecc verify --their-positions` adds: the positions that transformers itself would use."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_jax.checkpoints.open import Checkpoint
    from livecc_jax.data.inspect.conversation_row import ConversationRow
    from livecc_jax.verify.compare import Comparison
    from livecc_jax.verify.positions import PositionReport
    from livecc_jax.verify.transformers import TransformersModel

QUESTION = "What is shown?"
# A video with more frame pairs than merged patches along either side, and few tokens.
NOISE_PAIRS, NOISE_SIZE = 12, 56


def show_their_positions(args: argparse.Namespace, comparison: Comparison) -> bool:
    """Prints a line for each conversation, and what the difference does to the logits of one.

    Args:
        args: The command's arguments.
        comparison: The model, transformers' model of it, and the streaming conversation on which the
            layers are compared.

    Returns:
        Whether transformers gives some token another position.
    """
    import numpy as np

    from livecc_jax.data.inspect.conversation_row import question_row
    from livecc_jax.errors import ConfigError
    from livecc_jax.families import DEFAULT
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.clips import sample_media
    from livecc_jax.timeline.positions import token_positions
    from livecc_jax.verify.positions import compare_positions

    model, a, probe = comparison.theirs, comparison.a, comparison.probe
    if a.config.family is not DEFAULT:
        raise ConfigError(
            f"--their-positions compares positions of {DEFAULT.name}, not of {a.config.family.name}"
        )
    tokenizer, mode = comparison.tokenizer, comparison.positions
    shape = (2 * NOISE_PAIRS, NOISE_SIZE, NOISE_SIZE, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    question = question_row(noise, QUESTION, tokenizer, mode)
    rows = {"streaming conversation": probe, f"question after {_video(question)} of noise": question}
    if args.clip:
        budget = PixelBudget.parse(args.pixel_budget or a.livecc.pixel_budget)
        clip = question_row(sample_media(args.clip, budget).frames, QUESTION, tokenizer, mode)
        rows[f"question after {_video(clip)} of {args.clip}"] = clip

    print(f"\npositions that transformers {model.version} itself gives, against ours ({mode})")
    differs, theirs = False, {}
    for name, row in rows.items():
        tokens = row.row["tokens"]
        ours, next_ours = token_positions(tokens, row.grids, tokenizer.special, mode)
        theirs[name] = model.positions(tokens, row.grids)
        report = compare_positions(ours, theirs[name], next_ours)
        print(f"  {name}: {_describe(report)}")
        differs |= not report.same
        if row is question and len(report.differing):
            _show_logits(args.dtype, model, a, row, theirs[name], report)
    return differs


def _video(row: ConversationRow) -> str:
    pairs, rows, columns = (int(n) for n in row.grids[0])
    return f"{pairs} frame pairs of {rows} x {columns} patches"


def _describe(report: PositionReport) -> str:
    """Returns one line about a comparison."""
    if report.same:
        return f"the same at all {report.tokens} tokens"
    count, after = len(report.differing), f"the next token is at {report.next_theirs}"
    after += "" if report.next_theirs == report.next_ours else f", ours at {report.next_ours}"
    if not count:
        return f"the same at all {report.tokens} tokens; {after}"
    return (
        f"{count} of {report.tokens} tokens differ, from token {int(report.differing[0])} on, "
        f"by up to {report.largest}; {after}"
    )


def _show_logits(
    dtype: str,
    model: TransformersModel,
    a: Checkpoint,
    row: ConversationRow,
    theirs: object,
    report: PositionReport,
) -> None:
    """Prints how far transformers' logits with its own positions are from those with ours."""
    import numpy as np

    from livecc_jax.model.vision import normalize
    from livecc_jax.verify.difference import value_difference

    pixels = np.array(normalize(row.patches, a.config.vision))
    tokens = row.row["tokens"]
    ours, own = (
        model.logits(tokens, positions, pixels, row.grids)[report.differing]
        for positions in (row.row["positions"], theirs)
    )
    difference = value_difference("logits", ours, own)
    agreement = float((ours.argmax(-1) == own.argmax(-1)).mean())
    print(
        f"    with them, its logits at those tokens ({dtype}) move by "
        f"{difference.relative('max'):.3g} of their deviation at most, "
        f"{difference.relative('mean'):.3g} on average, "
        f"and the most likely token stays the same at {agreement:.0%}"
    )
