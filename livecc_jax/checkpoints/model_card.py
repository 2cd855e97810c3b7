"""The model card, README.md, of an exported checkpoint: its format, its origin and its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.families.family import Family

# Fields of a training configuration that the card shows, with their descriptions.
_FIELDS = {
    "step": "training steps",
    "preset": "architecture preset, from random weights",
    "data.rows_per_step": "packed rows per step",
    "data.tokens": "tokens per row",
    "data.epochs": "epochs",
    "data.weighting": "loss averaged over",
    "optim.learning_rate": "learning rate (AdamW, cosine)",
    "optim.warmup_ratio": "warm-up, share of the steps",
    "optim.weight_decay": "weight decay",
    "optim.clip_norm": "gradient clipping",
    "compute.dtype": "computed in",
    "compute.freeze": "frozen",
    "compute.lora.rank": "rank of the decoder's low-rank adapters (LoRA), which are merged",
    "seed": "seed",
}


def model_card(
    family: Family,
    livecc: LiveCCBlock,
    dtype: str,
    parameters: int,
    origin: Mapping[str, Any] | None = None,
) -> str:
    """Returns Markdown with the front matter that HuggingFace's hub reads.

    Args:
        family: The model's family.
        livecc: The positions and the pixel budget that the model was trained with.
        dtype: Dtype of most weights.
        parameters: Number of parameters.
        origin: The flat training configuration, with the "step" reached; or {"source": name} for a
            checkpoint that was only converted. None says that nothing is known.
    """
    origin = origin or {}
    base = PurePath(str(origin.get("init") or "")).name
    rows = [
        f"| {words} | {_format(origin[key])} |" for key, words in _FIELDS.items() if origin.get(key)
    ]
    if base:
        rows.insert(0, f"| trained from | {base} |")
    if origin.get("source"):
        history = f"Its weights are those of `{origin['source']}`, converted and not trained further."
    elif rows:
        history = "\n".join(["Trained with `livecc train`:", "", "| | |", "|---|---|", *rows])
    else:
        history = "Its training is not recorded."
    return f"""---
library_name: transformers
pipeline_tag: video-text-to-text
tags:
- {family.model_type}
- livecc
---

# Streaming video-language model

A model of the {family.name} architecture with {parameters:,} parameters in {dtype}, written by
`livecc convert`. It loads with `transformers` (`{family.architecture}`) and with
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


def _format(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
