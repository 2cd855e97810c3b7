"""The README.md of an exported checkpoint: what it is, what it was trained from, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.families.qwen2_vl import ARCHITECTURE

# What a reader wants of a training configuration, in words.
_FACTS = {
    "step": "training steps",
    "preset": "architecture preset, from random weights",
    "data.rows_per_step": "packed rows a step",
    "data.tokens": "tokens a row",
    "data.epochs": "epochs",
    "data.weighting": "loss averaged over",
    "optim.learning_rate": "learning rate (AdamW, cosine)",
    "optim.warmup_ratio": "warm-up, share of the steps",
    "optim.weight_decay": "weight decay",
    "optim.clip_norm": "gradient clipping",
    "compute.dtype": "computed in",
    "compute.freeze": "frozen",
    "compute.lora.rank": "decoder learnt by low-rank adapters, merged; their rank",
    "seed": "seed",
}


def model_card(
    livecc: LiveCCBlock, dtype: str, parameters: int, origin: Mapping[str, Any] | None = None
) -> str:
    """Markdown with the front matter that HuggingFace's hub reads.

    Args:
        livecc: how the model wants to be run.
        dtype: of most weights.
        parameters: how many there are.
        origin: the flat training configuration, with the "step" reached; or {"source": name} of a
            checkpoint that was only converted. None: nothing is known.
    """
    origin = origin or {}
    base = PurePath(str(origin.get("init") or "")).name
    rows = [f"| {words} | {_shown(origin[key])} |" for key, words in _FACTS.items() if origin.get(key)]
    if base:
        rows.insert(0, f"| trained from | {base} |")
    if origin.get("source"):
        history = f"Its weights are those of `{origin['source']}`, converted and not trained further."
    elif rows:
        history = "\n".join(["Trained with `livecc train`:", "", "| | |", "|---|---|", *rows])
    else:
        history = "Nothing is recorded of its training."
    return f"""---
library_name: transformers
pipeline_tag: video-text-to-text
tags:
- qwen2_vl
- livecc
---

# Streaming video-language model

A model of the Qwen2-VL architecture with {parameters:,} parameters in {dtype}, written by
`livecc convert`. It loads with `transformers` (`{ARCHITECTURE}`) and with
`livecc` alike.

It comments on video as it plays: the conversation alternates a turn of frames with the words spoken
meanwhile, each turn of words ending in " ...".

| | |
|---|---|
| positions | {livecc.positions} |
| pixel budget of a frame | {livecc.pixel_budget} |
| dtype | {dtype} |

`positions` and the pixel budget are also in `config.json` under `"livecc"`; `livecc` takes its
defaults from there.

## Training

{history}
"""


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
