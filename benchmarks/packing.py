"""How dense planned rows are, and how long the plan takes.

    python benchmarks/packing.py [--examples 5000000] [--budget 384|reference] [--questions 2]

Examples are drawn as pre-training has them: streaming clips of 854x480 lasting 30 to 240 s (two words
a second; longer than a row: split) and, twice as many, short questions. Rows are compared with a lower
bound of bin packing for these sizes.
"""

import argparse
import time

import numpy as np

from livecc_jax.data.rows.packing import RowShape, plan_rows
from livecc_jax.media.budget import PixelBudget

TURN_TEXT = 26  # tokens of a silent turn beside its frames
ROW = 32768


def clips(rng, count, budget):
    """(tokens, windows, targets) of streaming clips, long ones in pieces."""
    seconds = rng.integers(30, 241, count)
    pair_tokens = np.zeros(241, int)
    for s in range(30, 241):
        h, w = budget.size(480, 854, 2 * s)
        pair_tokens[s] = (h // 28) * (w // 28)
    pairs, words = seconds, 2 * seconds
    each = pair_tokens[seconds]
    tokens = pairs * (each + TURN_TEXT) + words * 4 // 3 + 40
    # Splitting fills a piece up to less than a turn; the last piece is what is left.
    full = ROW - rng.integers(0, each + TURN_TEXT)
    pieces = -(-tokens // full)
    owner = np.repeat(np.arange(count), pieces)
    last = np.cumsum(pieces) - 1
    size = full[owner]
    size[last] = tokens - (pieces - 1) * full
    share = size / tokens[owner]
    a_window = budget.max_pair_patches // (4 * each[owner])
    windows = np.ceil(np.ceil(pairs[owner] * share) / a_window).astype(int)
    targets = np.ceil((words * 4 // 3 + 2 * pairs)[owner] * share).astype(int)
    return size, windows, targets


def lower_bound(tokens):
    """Fewest rows that any packing of these sizes can have (Martello and Toth's L2)."""
    sizes = np.sort(tokens)
    total = np.concatenate([[0], np.cumsum(sizes)])
    half = np.searchsorted(sizes, ROW // 2, "right")
    best = 0
    for k in np.unique(sizes[:half])[:: max(1, half // 2000)]:
        alone = np.searchsorted(sizes, ROW - k, "right")  # too large to share with a k
        low = np.searchsorted(sizes, k, "left")
        middle = alone - half
        spare = middle * ROW - (total[alone] - total[half])
        more = np.ceil(max(0, total[half] - total[low] - spare) / ROW)
        best = max(best, len(sizes) - alone + middle + int(more))
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
    began = time.perf_counter()
    plan = plan_rows(tokens, windows, targets, shape, seed=0, epochs=1)
    spent = time.perf_counter() - began
    filled = tokens[plan.members].sum() / (len(plan) * ROW)
    bound = lower_bound(tokens[plan.members])
    print(
        f"{len(tokens)} examples in {len(plan)} rows of {ROW} tokens, budget {budget}: "
        f"{len(plan.members) / len(plan):.2f} a row, {filled:.2%} filled, "
        f"{len(plan) / bound - 1:.2%} more rows than the bound, "
        f"{len(plan.dropped)} left out, planned in {spent:.0f} s"
    )


if __name__ == "__main__":
    main()
