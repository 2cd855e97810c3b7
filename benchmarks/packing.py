"""Measures how dense packed rows are, and how long packing takes.

    python benchmarks/packing.py [--examples 5000000] [--budget 384|reference] [--questions 2]

Examples have the sizes of pre-training: streaming clips of 854x480 that last 30 to 240 s (two words a
second; clips longer than a row are split) and twice as many short questions. The number of rows is
compared with a lower bound of bin packing for these sizes.
"""

import argparse
import time

import numpy as np

from livecc_jax.data.rows.packing import RowShape, pack_rows
from livecc_jax.media.budget import PixelBudget

TURN_TEXT = 26  # tokens of a silent turn beside its frames
ROW = 32768


def clips(rng, count, budget):
    """(tokens, windows, targets) of streaming clips; long ones are split into segments."""
    seconds = rng.integers(30, 241, count)
    pair_tokens = np.zeros(241, int)
    for s in range(30, 241):
        h, w = budget.size(480, 854, 2 * s)
        pair_tokens[s] = (h // 28) * (w // 28)
    pairs, words = seconds, 2 * seconds
    tokens_of_pair = pair_tokens[seconds]
    tokens = pairs * (tokens_of_pair + TURN_TEXT) + words * 4 // 3 + 40
    # Splitting fills a segment up to less than a turn; the last segment is the remainder.
    full = ROW - rng.integers(0, tokens_of_pair + TURN_TEXT)
    segments = -(-tokens // full)
    owner = np.repeat(np.arange(count), segments)
    last = np.cumsum(segments) - 1
    size = full[owner]
    size[last] = tokens - (segments - 1) * full
    share = size / tokens[owner]
    pairs_of_window = budget.max_pair_patches // (4 * tokens_of_pair[owner])
    windows = np.ceil(np.ceil(pairs[owner] * share) / pairs_of_window).astype(int)
    targets = np.ceil((words * 4 // 3 + 2 * pairs)[owner] * share).astype(int)
    return size, windows, targets


def lower_bound(tokens):
    """The minimum number of rows of any packing of these sizes (the bound L2 of Martello and Toth)."""
    sizes = np.sort(tokens)
    total = np.concatenate([[0], np.cumsum(sizes)])
    half = np.searchsorted(sizes, ROW // 2, "right")
    best = 0
    for k in np.unique(sizes[:half])[:: max(1, half // 2000)]:
        exclusive = np.searchsorted(sizes, ROW - k, "right")  # too large to share a row with size k
        low = np.searchsorted(sizes, k, "left")
        middle = exclusive - half
        spare = middle * ROW - (total[exclusive] - total[half])
        extra_rows = np.ceil(max(0, total[half] - total[low] - spare) / ROW)
        best = max(best, len(sizes) - exclusive + middle + int(extra_rows))
    return max(best, int(np.ceil(total[-1] / ROW)))


def questions(rng, count):
    """Short text or image questions."""
    tokens = rng.integers(60, 900, count)
    return tokens, np.minimum(tokens // 400, 1), rng.integers(2, 60, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=5_000_000)
    parser.add_argument("--budget", default="384")
    parser.add_argument("--questions", type=int, default=2, help="for each clip")
    parser.add_argument("--targets", type=int, default=4096, help="supervised tokens of a row")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    budget = PixelBudget.parse(args.budget)
    streaming = args.examples // (1 + args.questions)
    parts = clips(rng, streaming, budget), questions(rng, streaming * args.questions)
    tokens, windows, targets = (np.concatenate(x) for x in zip(*parts))
    shape = RowShape(
        ROW, 128 if args.budget != "reference" else 256, budget.max_pair_patches, args.targets
    )
    start = time.perf_counter()
    packing = pack_rows(tokens, windows, targets, shape, seed=0, epochs=1)
    seconds = time.perf_counter() - start
    density = tokens[packing.members].sum() / (len(packing) * ROW)
    bound = lower_bound(tokens[packing.members])
    print(
        f"{len(tokens)} examples in {len(packing)} rows of {ROW} tokens, budget {budget}: "
        f"{len(packing.members) / len(packing):.2f} a row, {density:.2%} filled, "
        f"{len(packing) / bound - 1:.2%} more rows than the bound, "
        f"{len(packing.dropped)} left out, packed in {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
