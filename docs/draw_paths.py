"""Counts and draws the two main paths through the code: JSONL line to loss, and camera to caption.

    python docs/draw_paths.py            # writes docs/path_training.svg and docs/path_streaming.svg
    python docs/draw_paths.py --check    # draws nothing; fails when a path has more stops than it may

Each path is run once, on small data, while a profiler notes every file of the package in which a
function runs, and which file called it. Functions that JAX traces run once as Python, so the files of
the network are counted too. What is set up before (a tokenizer, weights, a mesh) is not counted.

Two numbers come out. A *stop* is a file that takes what travels on the path and hands on something
new: a line, an example, tokens, frames, patches, a row, hidden states, a loss. The stops are listed
here by hand; the script fails when one of them does not run. The *files passed* are all files in which
anything ran: the stops, and what they call on the way (a norm, a check whether a kernel is supported, a
cache of timestamps).
"""

from __future__ import annotations

import argparse
import collections
import html
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "livecc_jax"
# Most stops that each path may have.
LIMITS = {"training": 27, "streaming": 30}
STOPS = {
    "training": (
        "data/annotations/records.py",
        "data/annotations/conversations.py",
        "data/index/chunks.py",
        "data/examples/encode.py",
        "media/video.py",
        "media/sampling.py",
        "timeline/turns.py",
        "timeline/chat.py",
        "text/sentencepiece.py",
        "data/index/column_writer.py",
        "data/index/codec.py",
        "data/index/merge.py",
        "data/index/reader.py",
        "data/rows/packing.py",
        "data/rows/pipeline.py",
        "media/clips.py",
        "media/decode.py",
        "media/pixels.py",
        "data/rows/row.py",
        "timeline/positions.py",
        "parallel/batch.py",
        "train/step.py",
        "model/qwen2_vl.py",
        "model/vision.py",
        "model/decoder.py",
        "model/attention.py",
        "train/loss.py",
    ),
    "streaming": (
        "media/sources.py",
        "media/live.py",
        "media/ingest.py",
        "media/pixels.py",
        "serving/commentary.py",
        "stream/session.py",
        "stream/engine.py",
        "stream/conversation.py",
        "stream/scheduler.py",
        "stream/model.py",
        "decoding/vision.py",
        "decoding/linear.py",
        "stream/prompt.py",
        "timeline/turns.py",
        "timeline/chat.py",
        "timeline/positions.py",
        "text/sentencepiece.py",
        "stream/contiguous_store.py",
        "decoding/session_step.py",
        "model/qwen2_vl.py",
        "decoding/kv_cache.py",
        "decoding/decoder.py",
        "decoding/attention.py",
        "decoding/generate.py",
        "decoding/sampling.py",
        "serving/sinks.py",
    ),
}


class Trace:
    """Files of the package in the order in which a path enters them, and the calls between files."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.calls: collections.Counter[tuple[str, str]] = collections.Counter()
        self._names: dict[str, str] = {}

    def _name(self, filename: str) -> str:
        if filename not in self._names:
            inside = filename.startswith(str(PACKAGE)) and not filename.endswith("__init__.py")
            self._names[filename] = os.path.relpath(filename, PACKAGE) if inside else ""
        return self._names[filename]

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_code.co_name in ("<module>", "<lambda>"):
            return
        name = self._name(frame.f_code.co_filename)
        if not name:
            return
        self.files.setdefault(name)
        caller = frame.f_back
        while caller is not None and not self._name(caller.f_code.co_filename):
            caller = caller.f_back
        if caller is not None and self._name(caller.f_code.co_filename) != name:
            self.calls[self._name(caller.f_code.co_filename), name] += 1

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Notes what runs inside, in this thread and in those that it starts."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)


def trace_training() -> Trace:
    """An annotation line becomes an index record, a packed row, a batch on a mesh, and a loss."""
    import jax
    from flax import traverse_util

    from livecc_jax.data.index.build import build_index
    from livecc_jax.data.rows.pipeline import RowSource
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.model.presets import fit_vocabulary, preset
    from livecc_jax.model.qwen2_vl import init_params
    from livecc_jax.parallel.batch import shard_batch
    from livecc_jax.parallel.mesh import MeshConfig, make_mesh
    from livecc_jax.text.open import open_tokenizer
    from livecc_jax.train.config import ComputeConfig
    from livecc_jax.train.step import weighted_loss

    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer_path = make_tokenizer(folder)
        tokenizer = open_tokenizer(tokenizer_path)
        config = fit_vocabulary(preset("tiny"), tokenizer)
        params = init_params(config, 0)
        mesh = make_mesh(MeshConfig(devices=1))
        with trace.recording():
            annotations = ROOT / "data/annotations/windows.jsonl"
            build_index([annotations], f"{folder}/index", tokenizer, PixelBudget.parse(12))
            source = RowSource(
                f"{folder}/index",
                tokenizer_path=str(tokenizer_path),
                tokens=1024,
                windows=24,
                targets=256,
                positions="mrope",
                weighting="token",
                seed=0,
                epochs=1,
            )
            row, _ = source.row(0)
            batch = shard_batch(mesh, {name: array[None] for name, array in row.items()}, 1)
            rows = jax.tree.map(lambda x: x[0], batch)
            flat = traverse_util.flatten_dict(params, sep="/")
            compute = ComputeConfig(dtype="float32", remat="none")
            jax.jit(lambda p, r: weighted_loss(config, compute, p, {}, r))(flat, rows)
    return trace


def trace_streaming() -> Trace:
    """Pictures of a camera become frames, a prompt, generated tokens, and a line of JSON."""
    import cv2
    import numpy as np

    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.ingest import read_turns
    from livecc_jax.model.presets import fit_vocabulary, preset
    from livecc_jax.model.qwen2_vl import init_params
    from livecc_jax.serving.commentary import comment
    from livecc_jax.serving.sinks import JsonLines
    from livecc_jax.stream.model import StreamModel
    from livecc_jax.stream.session import Session
    from livecc_jax.text.open import open_tokenizer

    class Camera:
        """A camera that shows noise at 30 pictures a second."""

        def __init__(self, *_: Any) -> None:
            self.random = np.random.default_rng(0)

        def isOpened(self) -> bool:
            return True

        def grab(self) -> bool:
            time.sleep(1 / 30)
            return True

        def retrieve(self) -> tuple[bool, np.ndarray]:
            return True, self.random.integers(0, 256, (120, 160, 3), np.uint8)

        def set(self, *_: Any) -> bool:
            return True

        def get(self, *_: Any) -> float:
            return 30.0

        def release(self) -> None:
            """There is nothing to release."""

    cv2.VideoCapture = Camera
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = open_tokenizer(make_tokenizer(folder))
        config = fit_vocabulary(preset("tiny"), tokenizer)
        model = StreamModel(config, init_params(config, 0), tokenizer)
        session = Session(model, StreamOptions(max_new_tokens=4), "Comment on the video.")
        with trace.recording():
            turns = read_turns("0", PixelBudget.parse(12))
            results = comment(session, turns, [JsonLines(f"{folder}/captions.jsonl")])
            for _, result in zip(range(2), results):
                assert result.tokens is not None
            results.close()
            turns.close()
    return trace


def make_tokenizer(folder: str) -> Path:
    """Trains a small tokenizer on this project's code."""
    from livecc_jax.text.sentencepiece import train_sentencepiece

    sources = sorted((PACKAGE / "timeline").glob("*.py"))
    return train_sentencepiece(sources, f"{folder}/tokenizer", 400)


def layer_of(name: str) -> str:
    """The folder of the package that a file lies in."""
    return name.split("/")[0]


def draw(trace: Trace, stops: tuple[str, ...], title: str) -> str:
    """An SVG with a column for each layer, in the order of the path, and a line for each call."""
    columns: dict[str, list[str]] = {}
    for name in trace.files:
        columns.setdefault(layer_of(name), []).append(name)
    width, height, line = 190, 26, 34
    where = {}
    for x, names in enumerate(columns.values()):
        for y, name in enumerate(names):
            where[name] = 20 + x * (width + 40), 70 + y * line
    number = {name: f"{i}  " for i, name in enumerate(stops, 1)}
    right = 20 + len(columns) * (width + 40)
    bottom = 90 + max(map(len, columns.values())) * line
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="20" y="26" font-size="16" font-weight="600">{html.escape(title)}: '
        f"{len(stops)} stops, {len(trace.files)} files passed</text>",
    ]
    for (a, b), _ in trace.calls.items():
        (xa, ya), (xb, yb) = where[a], where[b]
        start = xa + (width if xa <= xb else 0), ya + height / 2
        end = xb + (0 if xa < xb else width), yb + height / 2
        parts.append(
            f'<path d="M{start[0]} {start[1]} L{end[0]} {end[1]}" stroke="#9ab" fill="none" '
            'stroke-opacity=".55"/>'
        )
    for x, layer in enumerate(columns):
        parts.append(f'<text x="{20 + x * (width + 40)}" y="56" fill="#456">{layer}</text>')
    for name, (x, y) in where.items():
        label = number.get(name, "") + name.split("/", 1)[-1].removesuffix(".py")
        fill, ink = ("#cfe3f7", "#012") if name in number else ("#f6f8fa", "#789")
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" '
            f'stroke="#9ab"/><text x="{x + 8}" y="{y + 17}" fill="{ink}">{html.escape(label)}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


PATHS: dict[str, tuple[Callable[[], Trace], str]] = {
    "training": (trace_training, "From a JSONL line to a loss"),
    "streaming": (trace_streaming, "From a camera to a caption"),
}


def main() -> int:
    """Runs, prints, and draws or checks both paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="draw nothing; fail beyond the limits")
    args = parser.parse_args()
    problems = []
    for name, (run, title) in PATHS.items():
        trace, stops = run(), STOPS[name]
        print(f"{title}: {len(stops)} stops (at most {LIMITS[name]}), {len(trace.files)} files passed")
        for file in trace.files:
            print(f"  {stops.index(file) + 1 if file in stops else '':>2} {file}")
        missing = [file for file in stops if file not in trace.files]
        problems += [f"{title}: {file} is listed as a stop and did not run" for file in missing]
        if len(stops) > LIMITS[name]:
            problems.append(f"{title}: {len(stops)} stops are more than {LIMITS[name]}")
        if not args.check:
            (ROOT / f"docs/path_{name}.svg").write_text(draw(trace, stops, title), encoding="utf-8")
    print("\n".join(problems))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
