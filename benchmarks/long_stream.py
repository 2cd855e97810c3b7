"""One session for a day: latency, host memory and device memory at its start, middle and end.

    python benchmarks/long_stream.py                                    # 86,400 turns, on a CPU
    python benchmarks/long_stream.py --preset 7b --turns 10000 --seconds 400    # on a GPU, what fits

Random weights and a rolling cache of the default size. The tiny preset gets a tokenizer of 600 pieces,
so that a turn is short. Checked on the way, and the script fails if it does not hold:

- every turn's times and the label in its prompt are exact;
- at the start, middle and end what is remembered, token by token with its position, is what the
  definition says of everything said and shown (kept on disk meanwhile, not in memory);
- there (float32 only) what is said is what the tests' oracle says, in numpy, of the keys and values
  that are remembered.

Figures are of `--window` turns each. Host memory is of the process, device memory of all arrays or as
the device counts.
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

from livecc_jax.decoding.engine_step import take_turns
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.decoding.session_step import look
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.model.vocabulary import fit_vocabulary
from livecc_jax.serving.latency import device_bytes, host_bytes
from livecc_jax.stream.history import ROLLING
from livecc_jax.stream.rolling import RollingSession
from livecc_jax.stream.session import StreamModel
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.sentencepiece import train_sentencepiece
from livecc_jax.timeline.positions import token_positions

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the tests lie beside this folder

from tests.support import replay as oracle  # noqa: E402

QUERY, PENALTY = "Comment on the video.", 1.05


class History:
    """Everything shown and said, on disk: (prompt, answer as it is remembered) a turn."""

    def __init__(self, file):
        self._file = file

    def add(self, prompt, answer):
        for ids in (prompt, answer):
            np.array([len(ids), *ids], np.int32).tofile(self._file)

    def turns(self, count):
        self._file.flush()
        flat, at, out = np.fromfile(self._file.name, np.int32), 0, []
        for _ in range(count):
            pair = []
            for _ in range(2):
                pair.append(flat[at + 1 : at + 1 + flat[at]])
                at += 1 + flat[at]
            out.append(pair)
        return out


def remembered(turns, grid, tokenizer):
    """(ids, positions [n, 3]) that the next turn attends to, by the definition."""
    ids, places, at = [], [], 0

    def put(tokens, pairs=0):
        nonlocal at
        grids = np.array([[pairs, *grid]] if pairs else np.zeros((0, 3)), np.int32)
        positions, at = token_positions(
            np.array(tokens, np.int32), grids, tokenizer.special, "mrope", at
        )
        ids.extend(tokens)
        places.append(positions.T)

    old = max(0, len(turns) - ROLLING.turns)
    words = [t for _, answer in turns[:old] for t in answer if t != tokenizer.silence_id]
    rest = words[ROLLING.sink :]
    put(turns[0][0], 3)
    put([*words[: ROLLING.sink], *rest[max(0, len(rest) - ROLLING.window) :]])
    for number in range(old, len(turns)):
        if number:
            put(turns[number][0], 1)
        put(turns[number][1])
    return np.array(ids), np.concatenate(places)


class Day:
    """The session, and what is checked of it."""

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
        self.session = RollingSession(
            self.model, StreamOptions(max_new_tokens=args.new, repetition_penalty=PENALTY), QUERY
        )
        self.turn = 0
        self.snapshots = []  # (turns, ids, positions [n, 3]) of what was remembered

    def frames(self):
        return self.pairs[self.turn * 7 % 64] if self.turn else self.opening

    def push(self, history):
        """A turn, its times and label checked: seconds that it took."""
        said = self.session.push(self.frames())
        start = self.turn + 2 if self.turn else 0
        if (said.start, said.stop) != (start, self.turn + 3):
            raise SystemExit(f"turn {self.turn} is of {said.start} to {said.stop}")
        memory = self.session._conversation._memory
        prompt, answer = memory._recent[-1]
        prompt = prompt if self.turn else memory._opening
        label = f"Time={start}.0-{self.turn + 3}.0s"
        if label not in self.model.tokenizer.decode(prompt.tokens.tolist()):
            raise SystemExit(f"turn {self.turn} is not labelled {label}")
        history.add(prompt.tokens, answer.tokens)
        self.turn += 1
        return said.latency

    def look_back(self):
        """What is remembered now, to be checked at the end: before, that would take memory."""
        conversation = self.session._conversation
        conversation._places.release(conversation._memory.make_room())  # as before every turn
        _, tokens, positions = conversation._memory.gather()
        self.snapshots.append((self.turn, tokens, positions.T))
        if conversation._memory.next_position != positions.max() + 1:
            raise SystemExit(f"after {self.turn} turns positions are not contiguous")

    def check(self, history):
        """Everything that was remembered when it was looked at, against the definition."""
        everything = history.turns(self.turn)
        for turn, *ours in self.snapshots:
            expected = remembered(everything[:turn], self.grid, self.model.tokenizer)
            if not all(map(np.array_equal, ours, expected)):
                raise SystemExit(f"after {turn} turns something else is remembered")

    def push_checked(self, history):
        """A turn that says what the oracle says."""
        self.look_back()
        conversation, model = self.session._conversation, self.model
        text = model.config.text
        places, tokens, positions = conversation._memory.gather()
        unkept, start = list(conversation._unkept), conversation._memory.next_position
        memories = [
            oracle.Memory(*(list(np.asarray(x)[places].astype(np.float64)) for x in pair))
            for pair in self.session._engine._pool
        ]
        for memory in memories:
            memory.positions = list(positions.T.astype(np.float64))
        frames = self.frames()
        self.push(history)
        prompt, answer = conversation._memory._recent[-1]
        if list(prompt.tokens[: len(unkept)]) != unkept:
            raise SystemExit("a token said at the limit was lost")
        vision = prompt.tokens == model.tokenizer.special.video_pad
        index = np.where(vision, np.cumsum(vision) - 1, -1)
        seen = look(model.config, model.weights, (frames,))
        x = bind(model.config, model.weights.rest).embed(prompt.tokens[None], seen, index[None])[0]
        said, _, _ = oracle.answer(
            text, self.params, oracle.layers_of(self.params), x, prompt.positions.T + start,
            start + prompt.span, {*tokens.tolist(), *prompt.tokens.tolist()}, memories,
            limit=self.args.new, penalty=PENALTY, ends=model.stop.end,
        )  # fmt: skip
        ours = [*answer.tokens, *conversation._unkept]
        if said != ours:
            raise SystemExit(f"turn {self.turn - 1} says {ours}, the oracle {said}")


def report(name, first, times, day):
    p = 1e3 * np.percentile(times, [50, 99])
    print(
        f"{name}, turns {first} to {first + len(times) - 1}: p50 {p[0]:.2f} ms, p99 {p[1]:.2f} ms, "
        f"worst {1e3 * max(times):.1f} ms; host {host_bytes() / 1e6:.1f} MB, "
        f"device {device_bytes() / 1e6:.2f} MB, "
        f"{day.session._conversation.length} tokens remembered, {take_turns._cache_size()} programs of "
        "turns", flush=True,
    )  # fmt: skip


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
    parser.add_argument("--size", help="of a frame (56x84 for tiny, else 448x672: 384 tokens a pair)")
    parser.add_argument("--new", type=int, default=6, help="most tokens a turn")
    parser.add_argument("--window", type=int, default=1000, help="turns that figures are of")
    parser.add_argument("--checked", type=int, default=5, help="turns given to the oracle, each time")
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
        day = Day(args, open_tokenizer(args.tokenizer or folder))
        history = History(file)
        began, window = time.perf_counter(), min(args.window, args.turns // 4)
        times, samples, middle = [], [], (args.turns - window) // 2

        def check():
            for _ in range(args.checked if day.exact else 0):
                day.push_checked(history)
            day.look_back()
            gc.collect()

        def over():
            late = args.seconds and time.perf_counter() - began > args.seconds
            return day.turn >= args.turns or late

        while day.turn < min(100, args.turns // 4):  # compiles, and fills the turns that are kept whole
            day.push(history)
        check()
        settled = day.turn
        ends = collections.deque(maxlen=window)
        while not over():
            ends.append(day.push(history))
            if len(times) < window:
                times.append(ends[-1])
                if len(times) == window:
                    report("start", settled, times, day)
            if day.turn == middle + window:
                report("middle", middle, list(ends), day)
                check()
            if day.turn % max(1, args.turns // 20) == 0:
                samples.append((day.turn, host_bytes() / 1e6, device_bytes() / 1e6))
        report("end", day.turn - len(ends), list(ends), day)
        check()
        took = time.perf_counter() - began
        day.check(history)
    print(f"{day.turn} turns in {took:.0f} s; times, labels and what is remembered are exact")
    print("turn, host MB, device MB:", "; ".join(f"{t} {h:.1f} {d:.2f}" for t, h, d in samples))


if __name__ == "__main__":
    main()
