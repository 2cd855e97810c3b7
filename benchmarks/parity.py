"""A parity certificate: the same checkpoint here and in transformers, compared value by value.

    python benchmarks/parity.py OUT --preset 7b            # random weights of a real size, or
    python benchmarks/parity.py OUT --model DIRECTORY      # any HuggingFace directory

It needs torch and transformers besides livecc_jax, and runs on the accelerator that both support, or
on the CPU. It writes OUT/parity.txt and OUT/parity.json:

- the difference of every layer and of the logits on one streaming conversation: ours in float32 and
  in bfloat16, and transformers in bfloat16, each compared with transformers in float32 (no TF32);
- whether transformers would choose each token that our streaming decoder chose, turn by turn through
  its cache, greedily and with the repetition penalty, in each position mode;
- time and peak host memory of loading the weights in bfloat16, ours and `from_pretrained`.

Every model runs in a process of its own, one after the other; the float32 values are stored on disk.
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

POSITION_MODES = ("mrope", "sequential", "hybrid")
MAX_NEW_TOKENS = 6  # of a turn
REPETITION_PENALTY = 1.05
FRAME_SIZE = (480, 640)  # large enough to fill the pixel budget
SEED = 1


class PeakMemory:
    """Measures the peak resident memory of this process, in bytes above what it had at the start.

    Attributes:
        anonymous: Peak of the anonymous memory.
        resident: Peak of all resident memory.
    """

    def __enter__(self):
        self._start = self._resident_memory()
        self.anonymous, self.resident = 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()

    def _resident_memory(self):
        """Returns (anonymous, all) bytes."""
        lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
        sizes = {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
        return sizes.get("RssAnon", sizes["VmRSS"]), sizes["VmRSS"]

    def _watch(self):
        while not self._stop.wait(0.01):
            anonymous, resident = self._resident_memory()
            self.anonymous = max(self.anonymous, anonymous - self._start[0])
            self.resident = max(self.resident, resident - self._start[1])


def open_inputs(args):
    """Returns (checkpoint, tokenizer, frames of each turn, the conversation as a packed row)."""
    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.data.inspect.conversation_row import conversation_row, noise_turn_frames
    from livecc_jax.media.budget import PixelBudget

    checkpoint = open_checkpoint(args.model)
    tokenizer = checkpoint.open_tokenizer()
    budget = PixelBudget.parse(args.pixel_budget or checkpoint.livecc.pixel_budget)
    frames = noise_turn_frames(budget, args.turns, SEED, FRAME_SIZE)
    return checkpoint, tokenizer, frames, conversation_row(frames, tokenizer, "mrope")


def compare_trace(trace, reference):
    """Returns each layer's difference from the reference. The first trace is stored as reference."""
    from livecc_jax.verify.difference import value_difference

    reference.mkdir(exist_ok=True)
    differences = []
    for number, (name, values) in enumerate(trace):
        file = reference / f"{number:03}.npy"
        if not file.exists():
            np.save(file, values)
            continue
        expected = np.load(file, mmap_mode="r")
        difference = value_difference(name, expected, values)
        record = {
            "layer": name,
            "max": difference.max_abs,
            "mean": difference.mean_abs,
            "std": difference.scale,
        }
        if name == "logits":
            record["agreement"] = float((expected.argmax(-1) == values.argmax(-1)).mean())
        differences.append(record)
    return differences


def run_transformers(args):
    """Runs transformers in one dtype; in float32 it also scores our streaming decoder's choices."""
    import torch
    import transformers

    from livecc_jax.model.vision import normalize
    from livecc_jax.verify.transformers import TransformersModel

    checkpoint, tokenizer, _, conversation = open_inputs(args)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    attention = "sdpa" if device == "cuda" else "eager"
    torch.zeros(1, device=device)
    with PeakMemory() as memory:
        start = time.perf_counter()
        model = TransformersModel(checkpoint.path, checkpoint.config, args.dtype, device, attention)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    out = {"load_s": seconds, "anonymous": memory.anonymous, "resident": memory.resident}
    out["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    out["attention"] = attention

    pixels = np.array(normalize(conversation.patches, checkpoint.config.vision))
    row = conversation.row
    trace = model.trace(row["tokens"], row["positions"], pixels, conversation.grids)
    out["gaps"] = compare_trace(trace, args.dir / "reference")
    if args.dtype == "float32":
        eos = (tokenizer.special.im_end, tokenizer.special.endoftext)
        out["choices"] = {
            mode: score_choices(
                model, np.load(stream_file(args, mode)), pixels, conversation.grids, eos
            )
            for mode in POSITION_MODES
        }
    return out


def stream_file(args, mode):
    """Returns the path of the tokens that our decoder generated in a position mode."""
    return args.dir / f"stream-{mode}.npz"


def score_choices(model, stream, pixels, grids, eos):
    """Counts how often transformers would choose the token that we chose, given the same history."""
    tokens, choice_indices, choices = stream["tokens"], stream["choice_indices"], stream["choices"]
    logits = model.logits(tokens, stream["positions"], pixels, grids)
    in_history = np.zeros(logits.shape[1], bool)
    history_length, equal, margins = 0, 0, []
    for index, choice in zip(choice_indices, choices):
        in_history[tokens[history_length : index + 1]] = True
        history_length = index + 1
        scores = logits[index].copy()
        penalized = scores[in_history]
        scores[in_history] = np.where(
            penalized > 0, penalized / REPETITION_PENALTY, penalized * REPETITION_PENALTY
        )
        best = int(scores.argmax())
        if best == choice or (choice in eos and best in eos):
            equal += 1
        else:
            margins.append(float((scores[best] - scores[choice]) / logits[index].std()))
    return {
        "tokens": len(tokens),
        "choices": len(choices),
        "same": equal,
        "margins_of_others": margins,
    }


def run_ours(args):
    """Runs our model in one dtype: the values of its layers, or the streaming conversations."""
    import jax

    from livecc_jax.verify.layers import trace_layers

    checkpoint, tokenizer, frames, conversation = open_inputs(args)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: device, checkpoint.abstract_params())
    jax.block_until_ready(jax.numpy.zeros(1))
    with PeakMemory() as memory:
        start = time.perf_counter()
        params = checkpoint.load_params(np.dtype(jax.numpy.dtype(args.dtype)), shardings)
        jax.block_until_ready(params)
        seconds = time.perf_counter() - start
    out = {"load_s": seconds, "anonymous": memory.anonymous, "resident": memory.resident}
    out["versions"] = {"jax": jax.__version__, "numpy": np.__version__}
    out["device"] = jax.devices()[0].device_kind
    with jax.default_matmul_precision("highest" if args.dtype == "float32" else "default"):
        if args.stage == "values":
            trace = trace_layers(checkpoint.config, params, conversation.row)
            out["gaps"] = compare_trace(trace, args.dir / "reference")
        else:
            stream(args, checkpoint.config, params, tokenizer, frames)
    return out


def stream(args, config, params, tokenizer, frames):
    """Streams the conversation in each position mode, and stores the context and every choice."""
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.stream.model import StreamModel
    from livecc_jax.stream.session import Session

    model = StreamModel(config, params, tokenizer)
    params.clear()  # the model holds a prepared copy
    reserve = 1 << int(len(frames) * 600).bit_length()
    for mode in POSITION_MODES:
        options = StreamOptions(mode, MAX_NEW_TOKENS, REPETITION_PENALTY, reserve=reserve)
        session = Session(model, options)
        tokens, positions, choice_indices, choices = [], [], [], []
        for number, turn_frames in enumerate(frames):
            turn = session.push(turn_frames)
            prompt = session.last_prompt
            tokens += prompt.tokens.tolist()
            positions.append(prompt.positions)
            # A truncated turn's last token is not in the context yet; another turn ends with EOS.
            in_context = list(turn.tokens[:-1] if turn.truncated else turn.tokens)
            chosen = list(turn.tokens)
            if not turn.truncated:
                chosen.append(tokenizer.special.im_end)
            # The prompt's last token chooses the first word, and each word chooses the next one.
            choice_indices += range(len(tokens) - 1, len(tokens) - 1 + len(chosen))
            choices += chosen
            tokens += in_context
            following = prompt.next_position + np.arange(len(in_context))
            positions.append(np.broadcast_to(following, (3, len(in_context))))
            print(f"{mode}: turn {number + 1} of {len(frames)}", file=sys.stderr)
        np.savez(
            stream_file(args, mode),
            tokens=np.array(tokens, np.int32),
            positions=np.concatenate(positions, axis=1).astype(np.int32),
            choice_indices=np.array(choice_indices),
            choices=np.array(choices),
        )


def run_stage(args, implementation, dtype, stage="values"):
    """Runs one stage in a process of its own and returns its result."""
    print(f"{implementation} {dtype} {stage} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, args.out, "--model", args.model, "--run", implementation]
    command += ["--dtype", dtype, "--stage", stage, "--turns", str(args.turns), "--dir", str(args.dir)]
    if args.pixel_budget:
        command += ["--pixel-budget", args.pixel_budget]
    start = time.perf_counter()
    # In the process of torch, jax only normalizes pixels and must not take the accelerator's memory.
    env = os.environ | ({"JAX_PLATFORMS": "cpu"} if implementation == "transformers" else {})
    subprocess.run(command, check=True, env=env)
    print(f"  {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return json.loads(result_file(args, implementation, dtype, stage).read_text())


def result_file(args, implementation, dtype, stage):
    """Returns the path of a stage's result."""
    return args.dir / f"{implementation}-{dtype}-{stage}.json"


def write_report(out, report):
    """Writes the certificate as text and as JSON; returns the text."""
    lines = ["Parity with transformers", ""]
    lines += [f"{key:14} {value}" for key, value in report["about"].items()]
    runs = list(report["gaps"])
    lines += [
        "",
        "Difference from transformers in float32, relative to each layer's standard deviation",
    ]
    lines += ["layer".ljust(20) + "".join(f"{r + ' max':>21}{r + ' mean':>21}" for r in runs)]
    for layer in zip(*report["gaps"].values()):
        cells = "".join(f"{d['max'] / d['std']:21.2e}{d['mean'] / d['std']:21.2e}" for d in layer)
        lines.append(layer[0]["layer"].ljust(20) + cells)
    lines += ["", "Most likely token as in float32, share of positions"]
    lines += [f"  {run:16} {layers[-1]['agreement']:.4%}" for run, layers in report["gaps"].items()]
    lines += ["", "Streaming, greedy, float32: tokens that transformers would also choose"]
    for mode, c in report["choices"].items():
        note = (
            f"; the others differ by {max(c['margins_of_others']):.1e} std"
            if c["same"] < c["choices"]
            else ""
        )
        lines.append(f"  {mode:12} {c['same']} of {c['choices']} in {c['tokens']} tokens{note}")
    lines += ["", "Loading bfloat16 weights: seconds, and GB of host memory above that at the start"]
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
    parser.add_argument(
        "--dir", type=Path, default=Path("/tmp/parity"), help="folder for intermediate values"
    )
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--pixel-budget", help="default: the checkpoint's")
    parser.add_argument("--run", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--stage", default="values", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    args.dir.mkdir(parents=True, exist_ok=True)
    if args.run:
        result = (run_ours if args.run == "ours" else run_transformers)(args)
        result_file(args, args.run, args.dtype, args.stage).write_text(json.dumps(result))
        return
    if args.preset:
        args.model = str(args.dir / args.preset)
        script = Path(__file__).with_name("random_checkpoint.py")
        subprocess.run([sys.executable, script, args.model, "--preset", args.preset], check=True)
    for file in (args.dir / "reference").glob("*.npy"):
        file.unlink()
    streaming = run_stage(args, "ours", "float32", "streaming")
    reference = run_stage(args, "transformers", "float32")
    ours = {dtype: run_stage(args, "ours", dtype) for dtype in ("float32", "bfloat16")}
    theirs = run_stage(args, "transformers", "bfloat16")
    about = {
        "checkpoint": args.preset or args.model,
        "date": time.strftime("%Y-%m-%d"),
        "device": streaming["device"],
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **streaming["versions"],
        **reference["versions"],
        "conversation": f"{args.turns} turns, {reference['choices']['mrope']['tokens']} tokens",
        "attention": f"{reference['attention']} in transformers",
    }
    report = {
        "about": about,
        "gaps": {
            "ours float32": ours["float32"]["gaps"],
            "ours bfloat16": ours["bfloat16"]["gaps"],
            "theirs bfloat16": theirs["gaps"],
        },
        "choices": reference["choices"],
        "loading": {
            "ours": {k: ours["bfloat16"][k] for k in ("load_s", "anonymous", "resident")},
            "transformers": {k: theirs[k] for k in ("load_s", "anonymous", "resident")},
        },
    }
    print(write_report(out, report))


if __name__ == "__main__":
    main()
