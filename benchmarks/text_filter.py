"""How many clips a second the text filter scores, beside transformers in the same run.

    python benchmarks/text_filter.py                            # Qwen2-1.5B's shape, bfloat16, a GPU
    python benchmarks/text_filter.py --preset tiny --clips 64   # any machine
    python benchmarks/text_filter.py --torch-python PYTHON      # transformers in another environment

Weights are random: speed does not depend on them. Clips have the lengths of fine-tuning data: 30 to 240
seconds with a density of 1 / seconds, 2.6 words a second, 1.3 tokens a word, and a prompt of 60 tokens.
Each way scores the same ids in a process of its own, once to compile and warm up and then timed:

- `packed`: this project's filter as `livecc produce` runs it, 32 clips a unit;
- `one`: transformers, one clip after the other, as the released script does it;
- `batched`: transformers, clips sorted by length, padded batches of at most 16,384 tokens.

All three take the loss of the text's tokens alone; transformers' head runs on these alone too. The last
line is JSON.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np

PRESETS = {
    "qwen2-1.5b": (151936, 1536, 28, 12, 2, 8960),
    "qwen2-0.5b": (151936, 896, 24, 14, 2, 4864),
    "tiny": (151936, 64, 2, 4, 2, 128),
}
UNIT = 32  # clips, as the phase "text" takes them
PROMPT = 60  # tokens
BATCH_TOKENS = 16_384


def lengths(count):
    """Tokens of each clip's text."""
    rng = np.random.default_rng(0)
    seconds = 30 * (240 / 30) ** rng.random(count)
    return (seconds * 2.6 * 1.3).astype(int)


def texts(count, vocabulary):
    rng = np.random.default_rng(1)
    return [
        (rng.integers(0, vocabulary, PROMPT).tolist(), rng.integers(0, vocabulary, n).tolist())
        for n in lengths(count)
    ]


def timed(score, count):
    """Seconds of the second of two passes, and of the first."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        losses = score()
        times.append(time.perf_counter() - began)
    assert len(losses) == count
    assert np.isfinite(losses).all()
    return {"first_s": round(times[0], 2), "s": round(times[1], 3), "mean_loss": float(np.mean(losses))}


def packed(args):
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from livecc_jax.checkpoints.text_decoder import TextDecoder
    from livecc_jax.model.config import TextConfig
    from livecc_jax.model.decoder import Decoder
    from livecc_jax.produce.filters.text_loss import ScoredText, TextLoss

    vocabulary, width, layers, heads, kv_heads, mlp = PRESETS[args.preset]
    config = TextConfig(
        vocabulary, width, layers, heads, kv_heads, mlp, 1e6, (width // heads // 2, 0, 0), 1e-6, True
    )
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"

    @jax.jit
    def weights():
        state = nnx.state(Decoder(config, nnx.Rngs(0)), nnx.Param)
        return jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), nnx.to_pure_dict(state))

    model = TextLoss(TextDecoder(None, config, weights(), "random"), None, dtype)
    scored = [ScoredText(*t) for t in texts(args.clips, vocabulary)]

    def score():
        units = [scored[i : i + UNIT] for i in range(0, len(scored), UNIT)]
        return [loss for unit in units for loss in model.losses(unit)]

    device = jax.devices()[0].device_kind
    return timed(score, args.clips) | {"device": device, "jax": jax.__version__, "dtype": dtype}


def with_transformers(args, batched):
    import torch
    import transformers

    vocabulary, width, layers, heads, kv_heads, mlp = PRESETS[args.preset]
    config = transformers.Qwen2Config(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=mlp, tie_word_embeddings=True,
        max_position_embeddings=32768,
    )  # fmt: skip
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = transformers.Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    every = texts(args.clips, vocabulary)

    @torch.inference_mode()
    def losses_of(group):
        longest = max(len(p) + len(t) for p, t in group)
        ids = torch.zeros(len(group), longest, dtype=torch.long)
        mask = torch.zeros(len(group), longest, dtype=torch.long)
        for row, (prompt, text) in enumerate(group):
            ids[row, : len(prompt) + len(text)] = torch.tensor(prompt + text)
            mask[row, : len(prompt) + len(text)] = 1
        ids, mask = ids.to(device), mask.to(device)
        one = len(group) == 1
        hidden = model.model(
            ids, attention_mask=None if one else mask, use_cache=False
        ).last_hidden_state
        found = []
        for row, (prompt, text) in enumerate(group):
            start, stop = len(prompt), len(prompt) + len(text)
            logits = model.lm_head(hidden[row, start - 1 : stop - 1]).float()
            found.append(torch.nn.functional.cross_entropy(logits, ids[row, start:stop]))
        return torch.stack(found).tolist()

    def score():
        order = (
            sorted(range(len(every)), key=lambda i: len(every[i][1])) if batched else range(len(every))
        )
        groups, group = [], []
        for i in order:
            longest = PROMPT + len(every[i][1])
            if group and (not batched or (len(group) + 1) * longest > BATCH_TOKENS):
                groups.append(group)
                group = []
            group.append(i)
        groups.append(group)
        return [loss for g in groups for loss in losses_of([every[i] for i in g])]

    name = torch.cuda.get_device_name() if cuda else "cpu"
    return timed(score, args.clips) | {
        "device": name, "torch": torch.__version__, "transformers": transformers.__version__,
        "dtype": str(dtype),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="qwen2-1.5b")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--ways", default="packed,one,batched")
    parser.add_argument("--torch-python", default=sys.executable, help="Python that has transformers")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        result = (
            packed(args) if args.way == "packed" else with_transformers(args, args.way == "batched")
        )
        print(json.dumps(result))
        return
    tokens = int(sum(lengths(args.clips)))
    print(f"{args.clips} clips, {tokens:,} tokens of text, {tokens + PROMPT * args.clips:,} in all")
    results = {}
    for way in args.ways.split(","):
        python = sys.executable if way == "packed" else args.torch_python
        command = [python, __file__, "--way", way, "--preset", args.preset, "--clips", str(args.clips)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{way}: failed")
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        result["clips_per_s"] = round(args.clips / result["s"], 2)
        results[way] = result
        print(f"{way}: {result['clips_per_s']} clips/s ({json.dumps(result)})", flush=True)
    for way in ("one", "batched"):
        if way in results and "packed" in results:
            ratio = results["packed"]["clips_per_s"] / results[way]["clips_per_s"]
            print(f"packed is {ratio:.2f} times {way}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
