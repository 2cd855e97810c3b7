"""A parity certificate: one checkpoint here and in transformers, compared number by number.

    python benchmarks/parity.py OUT --preset 7b            # random weights at a real size, or
    python benchmarks/parity.py OUT --model DIRECTORY      # any HuggingFace directory

Wants torch and transformers beside livecc_jax; runs on the accelerator that both see, or on the CPU.
Writes OUT/parity.txt and OUT/parity.json:

- every layer's and the logits' difference on one streaming conversation: ours in float32 and in
  bfloat16, and transformers' own bfloat16, each against transformers' float32 (no TF32 anywhere);
- whether transformers would have chosen each token that our streaming decoder chose, turn after turn
  through its cache, greedily and with the repetition penalty, in each position mode;
- time and peak host memory of loading the weights in bfloat16, ours beside `from_pretrained`.

Every model runs in a process of its own, one after the other; float32 values wait on the disk.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

MODES = ("mrope", "sequential", "hybrid")
LIMIT = 6  # tokens a turn
PENALTY = 1.05
SOURCE = (480, 640)  # frames fill the pixel budget
SEED = 1


class Memory:
    """Peak resident memory of this process above what it had, in bytes: anonymous, and all."""

    def __enter__(self):
        self._before = self._now()
        self.anonymous, self.all = 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _now(self):
        lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
        sizes = {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
        return sizes.get("RssAnon", sizes["VmRSS"]), sizes["VmRSS"]

    def _watch(self):
        while not self._stop.wait(0.01):
            anonymous, everything = self._now()
            self.anonymous = max(self.anonymous, anonymous - self._before[0])
            self.all = max(self.all, everything - self._before[1])


def opened(args):
    """(checkpoint, tokenizer, turns of frames, probe)."""
    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.data.inspect.conversation_row import conversation_row, noise_turn_frames
    from livecc_jax.media.budget import PixelBudget

    checkpoint = open_checkpoint(args.model)
    tokenizer = checkpoint.open_tokenizer()
    budget = PixelBudget.parse(args.pixel_budget or checkpoint.livecc.pixel_budget)
    frames = noise_turn_frames(budget, args.turns, SEED, SOURCE)
    return checkpoint, tokenizer, frames, conversation_row(frames, tokenizer, "mrope")


def gaps_of(trace, reference):
    """Each layer's difference from what is stored; the first to run stores."""
    from livecc_jax.verify.difference import value_difference

    reference.mkdir(exist_ok=True)
    gaps = []
    for number, (name, values) in enumerate(trace):
        file = reference / f"{number:03}.npy"
        if not file.exists():
            np.save(file, values)
            continue
        kept = np.load(file, mmap_mode="r")
        gap = value_difference(name, kept, values)
        row = {"layer": name, "max": gap.max_abs, "mean": gap.mean_abs, "std": gap.scale}
        if name == "logits":
            row["agreement"] = float((kept.argmax(-1) == values.argmax(-1)).mean())
        gaps.append(row)
    return gaps


def run_peer(args):
    """transformers, in one dtype: its values, and what it thinks of our choices."""
    import torch
    import transformers

    from livecc_jax.model.vision import normalize
    from livecc_jax.verify.transformers import TransformersModel

    checkpoint, tokenizer, _, probe = opened(args)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    attention = "sdpa" if device == "cuda" else "eager"
    torch.zeros(1, device=device)
    with Memory() as memory:
        began = time.perf_counter()
        peer = TransformersModel(checkpoint.path, checkpoint.config, args.dtype, device, attention)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    out = {"load_s": seconds, "anonymous": memory.anonymous, "resident": memory.all}
    out["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    out["attention"] = attention

    def pixels_of(patches):
        return np.array(normalize(patches, checkpoint.config.vision))

    row = probe.row
    out["gaps"] = gaps_of(
        peer.trace(row["tokens"], row["positions"], pixels_of(probe.patches), probe.grids),
        args.dir / "reference",
    )
    if args.dtype == "float32":
        patches = pixels_of(probe.patches)
        ends = (tokenizer.special.im_end, tokenizer.special.endoftext)
        out["choices"] = {
            mode: judged(peer, np.load(args.dir / f"said-{mode}.npz"), patches, probe.grids, ends)
            for mode in MODES
        }
    return out


def judged(peer, said, pixels, grids, ends):
    """How often transformers would choose what was chosen, given the same history."""
    tokens, at, chosen = said["tokens"], said["at"], said["chosen"]
    logits = peer.logits(tokens, said["positions"], pixels, grids)
    seen = np.zeros(logits.shape[1], bool)
    done, same, margins = 0, 0, []
    for index, choice in zip(at, chosen):
        seen[tokens[done : index + 1]] = True
        done = index + 1
        scores = logits[index].copy()
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / PENALTY, scores[seen] * PENALTY)
        best = int(scores.argmax())
        if best == choice or (choice in ends and best in ends):
            same += 1
        else:
            margins.append(float((scores[best] - scores[choice]) / logits[index].std()))
    return {"tokens": len(tokens), "choices": len(at), "same": same, "margins_of_others": margins}


def run_ours(args):
    """Ours, in one dtype: values, and in float32 the streaming conversations."""
    import jax

    from livecc_jax.verify.layers import trace_layers

    checkpoint, tokenizer, frames, probe = opened(args)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: device, checkpoint.abstract_params())
    jax.block_until_ready(jax.numpy.zeros(1))
    with Memory() as memory:
        began = time.perf_counter()
        params = checkpoint.load_params(np.dtype(jax.numpy.dtype(args.dtype)), shardings)
        jax.block_until_ready(params)
        seconds = time.perf_counter() - began
    out = {"load_s": seconds, "anonymous": memory.anonymous, "resident": memory.all}
    out["versions"] = {"jax": jax.__version__, "numpy": np.__version__}
    out["device"] = jax.devices()[0].device_kind
    with jax.default_matmul_precision("highest" if args.dtype == "float32" else "default"):
        if args.stage == "values":
            out["gaps"] = gaps_of(
                trace_layers(checkpoint.config, params, probe.row), args.dir / "reference"
            )
        else:
            converse(args, checkpoint.config, params, tokenizer, frames)
    return out


def converse(args, config, params, tokenizer, frames):
    """Stream the conversation in each mode and store what was said, where, and why."""
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.stream.model import StreamModel
    from livecc_jax.stream.session import Session

    class Recorded(Session):
        """Keeps each turn's prompt."""

        def _turn_input(self, *given):
            self.turn = super()._turn_input(*given)
            return self.turn

    model = StreamModel(config, params, tokenizer)
    params.clear()  # the model has its own copy, apart
    for mode in MODES:
        options = StreamOptions(mode, LIMIT, PENALTY, reserve=1 << int(len(frames) * 600).bit_length())
        session = Recorded(model, options)
        tokens, positions, at, chosen = [], [], [], []
        for number, pictures in enumerate(frames):
            said = session.push(pictures)
            turn, count = session.turn, int(session.turn.count[0])
            tokens += np.asarray(turn.tokens[0, :count]).tolist()
            positions.append(np.asarray(turn.positions[0, :, :count]))
            kept = list(said.tokens[: len(said.tokens) - said.truncated])
            choices = list(said.tokens) + ([] if said.truncated else [-1])
            # The last prompt token chooses the first word, each word the next.
            at += range(len(tokens) - 1, len(tokens) - 1 + len(choices))
            chosen += choices
            tokens += kept
            following = int(turn.next_position[0]) + np.arange(len(kept))
            positions.append(np.broadcast_to(following, (3, len(kept))))
            print(f"{mode}: turn {number + 1} of {len(frames)}", file=sys.stderr)
        np.savez(
            args.dir / f"said-{mode}.npz",
            tokens=np.array(tokens, np.int32),
            positions=np.concatenate(positions, axis=1).astype(np.int32),
            at=np.array(at),
            chosen=np.array([c if c >= 0 else tokenizer.special.im_end for c in chosen]),
        )


def stage(args, name, dtype, what="values"):
    """Run one stage in a process of its own."""
    print(f"{name} {dtype} {what} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, args.out, "--model", args.model, "--run", name]
    command += ["--dtype", dtype, "--stage", what, "--turns", str(args.turns), "--dir", str(args.dir)]
    if args.pixel_budget:
        command += ["--pixel-budget", args.pixel_budget]
    began = time.perf_counter()
    # Beside torch, jax only normalises pixels, and must not take the accelerator's memory for that.
    env = os.environ | ({"JAX_PLATFORMS": "cpu"} if name == "peer" else {})
    subprocess.run(command, check=True, env=env)
    print(f"  {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return json.loads((args.dir / f"{name}-{dtype}-{what}.json").read_text())


def write_report(out, report):
    """The certificate as text."""
    lines = ["Parity with transformers", ""]
    lines += [f"{key:14} {value}" for key, value in report["about"].items()]
    kinds = list(report["gaps"])
    lines += [
        "",
        "Difference from transformers in float32, relative to each layer's standard deviation",
    ]
    lines += ["layer".ljust(20) + "".join(f"{k + ' max':>21}{k + ' mean':>21}" for k in kinds)]
    for rows in zip(*report["gaps"].values()):
        cells = "".join(f"{r['max'] / r['std']:21.2e}{r['mean'] / r['std']:21.2e}" for r in rows)
        lines.append(rows[0]["layer"].ljust(20) + cells)
    lines += ["", "Most likely token as in float32, share of positions"]
    lines += [f"  {kind:16} {rows[-1]['agreement']:.4%}" for kind, rows in report["gaps"].items()]
    lines += ["", "Streaming, greedy, float32: tokens that transformers would have chosen too"]
    for mode, c in report["choices"].items():
        note = (
            f"; others apart by {max(c['margins_of_others']):.1e} std"
            if c["same"] < c["choices"]
            else ""
        )
        lines.append(f"  {mode:12} {c['same']} of {c['choices']} in {c['tokens']} tokens{note}")
    lines += ["", "Loading bfloat16 weights: seconds, and GB of host memory above the start's"]
    for name, load in report["loading"].items():
        lines.append(
            f"  {name:14} {load['load_s']:6.1f} s   {load['anonymous'] / 1e9:6.2f} GB anonymous   "
            f"{load['resident'] / 1e9:6.2f} GB resident"
        )
    text = "\n".join(lines) + "\n"
    (out / "parity.txt").write_text(text)
    (out / "parity.json").write_text(json.dumps(report, indent=1) + "\n")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--preset", help="write random weights of this size first")
    parser.add_argument("--model", help="a HuggingFace directory")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/parity"), help="room for the values")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--pixel-budget", help="default: the checkpoint's")
    parser.add_argument("--run", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--stage", default="values", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    if args.run:
        result = (run_ours if args.run == "ours" else run_peer)(args)
        name = f"{args.run}-{args.dtype}-{args.stage}.json"
        (args.dir / name).write_text(json.dumps(result))
        return
    if args.preset:
        args.model = str(args.dir / args.preset)
        script = Path(__file__).with_name("random_checkpoint.py")
        subprocess.run([sys.executable, script, args.model, "--preset", args.preset], check=True)
    for file in (args.dir / "reference").glob("*.npy"):
        file.unlink()
    said = stage(args, "ours", "float32", "streaming")
    reference = stage(args, "peer", "float32")
    ours = {d: stage(args, "ours", d) for d in ("float32", "bfloat16")}
    peer = stage(args, "peer", "bfloat16")
    about = {
        "checkpoint": args.preset or args.model,
        "date": time.strftime("%Y-%m-%d"),
        "device": said["device"],
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **said["versions"],
        **reference["versions"],
        "conversation": f"{args.turns} turns, {reference['choices']['mrope']['tokens']} tokens",
        "attention": f"{reference['attention']} in transformers",
    }
    report = {
        "about": about,
        "gaps": {
            "ours float32": ours["float32"]["gaps"],
            "ours bfloat16": ours["bfloat16"]["gaps"],
            "theirs bfloat16": peer["gaps"],
        },
        "choices": reference["choices"],
        "loading": {
            "ours": {k: ours["bfloat16"][k] for k in ("load_s", "anonymous", "resident")},
            "transformers": {k: peer[k] for k in ("load_s", "anonymous", "resident")},
        },
    }
    print(write_report(out, report))


if __name__ == "__main__":
    main()
