"""One session for a day: latency, host memory and device memory at its start, middle and end.

    python benchmarks/long_stream.py                                    # 86,400 turns, on a CPU
    python benchmarks/long_stream.py --preset 7b --turns 10000 --seconds 400    # on a GPU, what fits

Random weights and a rolling cache of the default size. The tiny preset gets a tokenizer of 600 pieces,
so that a turn is short. The script fails unless:

- every turn's times and the label in its prompt are exact;
- at the start, middle and end the context, token by token with its position, follows by the definition
  from everything generated and shown (stored on disk, not in memory);
- there (float32 only) the generated tokens are those of the tests' reference decoder in numpy, over the
  keys and values in the pool.

Each figure covers `--window` turns. Host memory is that of the process; device memory is that of all
arrays, or what the device counts.
"""

import argparse
import collections
import gc
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from random_weights import random_params

from livecc_jax.decoding.engine_step import engine_step
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.serving.latency import device_bytes, host_bytes
from livecc_jax.stream.history import ROLLING
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.session import Session
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.sentencepiece import train_sentencepiece
from livecc_jax.timeline.positions import token_positions

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the folder of the tests

from tests.support import reference_decoder as reference  # noqa: E402

QUERY, PENALTY = "Comment on the video.", 1.05


class TurnLog:
    """The tokens of every turn on disk: (prompt, answer without a pending token)."""

    def __init__(self, file):
        self._file = file

    def add(self, prompt, answer):
        for ids in (prompt, answer):
            np.array([len(ids), *ids], np.int32).tofile(self._file)

    def turns(self, count):
        self._file.flush()
        flat, at, turns = np.fromfile(self._file.name, np.int32), 0, []
        for _ in range(count):
            pair = []
            for _ in range(2):
                pair.append(flat[at + 1 : at + 1 + flat[at]])
                at += 1 + flat[at]
            turns.append(pair)
        return turns


def context_by_definition(turns, grid, tokenizer):
    """Returns (ids, positions [n, 3]) that the next turn attends to."""
    ids, positions, at = [], [], 0

    def add(tokens, pairs=0):
        nonlocal at
        grids = np.array([[pairs, *grid]] if pairs else np.zeros((0, 3)), np.int32)
        own, at = token_positions(np.array(tokens, np.int32), grids, tokenizer.special, "mrope", at)
        ids.extend(tokens)
        positions.append(own.T)

    first_recent = max(0, len(turns) - ROLLING.turns)
    words = [t for _, answer in turns[:first_recent] for t in answer if t != tokenizer.silence_id]
    rest = words[ROLLING.sink :]
    add(turns[0][0], 3)
    add([*words[: ROLLING.sink], *rest[max(0, len(rest) - ROLLING.window) :]])
    for number in range(first_recent, len(turns)):
        if number:
            add(turns[number][0], 1)
        add(turns[number][1])
    return np.array(ids), np.concatenate(positions)


class LongStream:
    """The session, and its checks."""

    def __init__(self, args, tokenizer):
        self.args = args
        config = preset(args.preset)
        config = config if args.tokenizer else fit_vocabulary(config, tokenizer)
        params = random_params(config, args.dtype, std=0.05)
        self.model = StreamModel(config, params, tokenizer)
        self.exact = args.dtype == "float32"
        self.params = jax.device_get(params) if self.exact else None
        height, width = map(int, args.size.split("x"))
        self.grid = height // 14, width // 14
        rng = np.random.default_rng(0)
        self.opening = rng.integers(0, 256, (6, height, width, 3), np.uint8)
        self.pairs = rng.integers(0, 256, (64, 2, height, width, 3), np.uint8)
        options = StreamOptions(max_new_tokens=args.new, repetition_penalty=PENALTY)
        self.session = Session(self.model, options, QUERY, eviction=ROLLING)
        self.turn = 0
        self.snapshots = []  # (turns, ids, positions [n, 3]) of contexts

    def frames(self):
        return self.pairs[self.turn * 7 % 64] if self.turn else self.opening

    @property
    def history(self):
        return self.session.conversation.context.history

    def push(self, log):
        """Takes a turn, checks its times and label, and returns the seconds that it took."""
        spoken = self.session.push(self.frames())
        start = self.turn + 2 if self.turn else 0
        if (spoken.start, spoken.stop) != (start, self.turn + 3):
            raise SystemExit(f"turn {self.turn} has the times {spoken.start} to {spoken.stop}")
        prompt, answer = self.history.latest_turn()
        label = f"Time={start}.0-{self.turn + 3}.0s"
        if label not in self.model.tokenizer.decode(prompt.tokens.tolist()):
            raise SystemExit(f"turn {self.turn} is not labelled {label}")
        log.add(prompt.tokens, answer.tokens)
        self.turn += 1
        return spoken.latency

    def take_snapshot(self):
        """Stores the context, to be checked at the end: an earlier check would take memory."""
        context = self.session.conversation.context
        context.evict()  # as before every turn
        _, tokens, positions = self.history.gather()
        self.snapshots.append((self.turn, tokens, positions.T))
        if context.next_position != positions.max() + 1:
            raise SystemExit(f"after {self.turn} turns positions are not contiguous")

    def check(self, log):
        """Checks all snapshots against the definition."""
        turns = log.turns(self.turn)
        for turn, *actual in self.snapshots:
            expected = context_by_definition(turns[:turn], self.grid, self.model.tokenizer)
            if not all(map(np.array_equal, actual, expected)):
                raise SystemExit(f"after {turn} turns the context is wrong")

    def push_checked(self, log):
        """Takes a turn and compares it with the reference decoder."""
        self.take_snapshot()
        conversation, model = self.session.conversation, self.model
        slots, tokens, positions = self.history.gather()
        pending, start = list(conversation.pending), conversation.context.next_position
        caches = [
            reference.ReferenceCache(*(list(np.asarray(x)[slots].astype(np.float64)) for x in layer))
            for layer in self.session.engine.store.pool
        ]
        for cache in caches:
            cache.positions = list(positions.T.astype(np.float64))
        frames = self.frames()
        self.push(log)
        prompt, answer = self.history.latest_turn()
        if list(prompt.tokens[: len(pending)]) != pending:
            raise SystemExit("the last token of a truncated turn was lost")
        vision = prompt.tokens == model.tokenizer.special.video_pad
        index = np.where(vision, np.cumsum(vision) - 1, -1)
        features = model.encode_frames((frames,))
        network = bind(model.config, model.weights.other)
        x = network.embed(prompt.tokens[None], features, index[None])[0]
        expected, _, _ = reference.generate(
            model.config.text, self.params, reference.unstack_layers(self.params), x,
            prompt.positions.T + start, start + prompt.span,
            {*tokens.tolist(), *prompt.tokens.tolist()}, caches,
            limit=self.args.new, penalty=PENALTY, ends=model.stop.end,
        )  # fmt: skip
        actual = [*answer.tokens, *conversation.pending]
        if actual != expected:
            raise SystemExit(f"turn {self.turn - 1} has {actual}, the reference decoder {expected}")


def report(name, first, times, stream):
    p = 1e3 * np.percentile(times, [50, 99])
    print(
        f"{name}, turns {first} to {first + len(times) - 1}: p50 {p[0]:.2f} ms, p99 {p[1]:.2f} ms, "
        f"worst {1e3 * max(times):.1f} ms; host {host_bytes() / 1e6:.1f} MB, "
        f"device {device_bytes() / 1e6:.2f} MB, "
        f"context of {stream.session.length} tokens, {engine_step._cache_size()} compiled steps",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument(
        "--tokenizer", help="by default one of 600 pieces for tiny, else the shipped one"
    )
    parser.add_argument("--turns", type=int, default=86_400)
    parser.add_argument(
        "--seconds", type=float, default=0, help="stop when these have passed; 0: never"
    )
    parser.add_argument(
        "--size", help="height and width of a frame (56x84 for tiny, else 448x672: 384 tokens a pair)"
    )
    parser.add_argument("--new", type=int, default=6, help="largest number of tokens of a turn")
    parser.add_argument("--window", type=int, default=1000, help="number of turns that a figure covers")
    parser.add_argument(
        "--checked", type=int, default=5, help="turns that the reference decoder checks, each time"
    )
    parser.add_argument("--dtype", help="float32 for tiny, else bfloat16")
    args = parser.parse_args()
    small = args.preset == "tiny"
    args.size = args.size or ("56x84" if small else "448x672")
    args.dtype = args.dtype or ("float32" if small else "bfloat16")
    if not args.tokenizer and not small:
        args.tokenizer = str(ROOT / "data/tokenizer")
    device = jax.devices()[0]
    facts = device.device_kind, f"jax {jax.__version__}", args.preset, args.dtype
    print(*facts, time.strftime("%Y-%m-%d"), sep=", ", flush=True)
    with tempfile.TemporaryDirectory() as home, open(f"{home}/history", "wb") as file:
        folder = Path(home) / "tokenizer"
        if not args.tokenizer:
            train_sentencepiece(sorted((ROOT / "livecc_jax/timeline").glob("*.py")), folder, 600)
        stream = LongStream(args, open_tokenizer(args.tokenizer or folder))
        log = TurnLog(file)
        began, window = time.perf_counter(), min(args.window, args.turns // 4)
        times, samples, middle = [], [], (args.turns - window) // 2

        def check():
            for _ in range(args.checked if stream.exact else 0):
                stream.push_checked(log)
            stream.take_snapshot()
            gc.collect()

        def over():
            late = args.seconds and time.perf_counter() - began > args.seconds
            return stream.turn >= args.turns or late

        while stream.turn < min(100, args.turns // 4):  # compiles, and fills the context
            stream.push(log)
        check()
        first = stream.turn
        latest = collections.deque(maxlen=window)
        while not over():
            latest.append(stream.push(log))
            if len(times) < window:
                times.append(latest[-1])
                if len(times) == window:
                    report("start", first, times, stream)
            if stream.turn == middle + window:
                report("middle", middle, list(latest), stream)
                check()
            if stream.turn % max(1, args.turns // 20) == 0:
                samples.append((stream.turn, host_bytes() / 1e6, device_bytes() / 1e6))
        report("end", stream.turn - len(latest), list(latest), stream)
        check()
        took = time.perf_counter() - began
        stream.check(log)
    print(f"{stream.turn} turns in {took:.0f} s; times, labels and contexts are exact")
    print("turn, host MB, device MB:", "; ".join(f"{t} {h:.1f} {d:.2f}" for t, h, d in samples))


if __name__ == "__main__":
    main()
