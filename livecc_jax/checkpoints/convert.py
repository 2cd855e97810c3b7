"""From either layout to either layout."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from livecc_jax.checkpoints.files import carry, replacing
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import CARRIED, export_hf
from livecc_jax.checkpoints.open import Checkpoint, open_checkpoint
from livecc_jax.checkpoints.stored import StoredWeights
from livecc_jax.errors import CheckpointError, TokenizerError
from livecc_jax.text.tokenizer import Tokenizer

LAYOUTS = ("hf", "orbax")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Converted:
    """What `convert` wrote."""

    path: Path
    kind: str
    parameters: int
    dtype: str  # of most of the weights
    tokenizer: bool  # whether the source had one, and so the copy has


def convert(
    src: str | Path,
    dst: str | Path,
    to: str = "hf",
    dtype: str | None = None,
    layout: str = "flat",
    overwrite: bool = False,
) -> Converted:
    """Write a copy of a checkpoint in another layout.

    Args:
        src: anything `open_checkpoint` takes.
        dst: the directory to write; it appears whole or not at all.
        to: "hf", or "orbax" for a run whose step 0 holds the parameters alone.
        dtype: cast the weights. Without it they keep theirs, bit for bit, except that a training
            run goes to "hf" in the dtype of the model it started from.
        layout: of the config.json in "hf", "flat" or "nested".
        overwrite: replace a checkpoint that is at `dst`.

    Raises:
        CheckpointError: the source is damaged, or the destination exists or holds the source.
    """
    if to not in LAYOUTS:
        raise CheckpointError(f"{to!r} is not a checkpoint layout; they are {', '.join(LAYOUTS)}")
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"{dtype!r} is not a weight dtype; they are {', '.join(DTYPES)}")
    checkpoint = open_checkpoint(src)
    here, there = checkpoint.path.resolve(), Path(dst).resolve()
    if here == there or there in here.parents:
        raise CheckpointError(f"{dst}: holds the checkpoint that is to be converted")
    try:
        tokenizer = checkpoint.open_tokenizer()
    except TokenizerError:
        if any(checkpoint.root.glob("tokenizer.*")):  # there is one, and it is broken
            raise
        tokenizer = None
    livecc = checkpoint.livecc
    if dtype is None and to == "hf" and checkpoint.kind == "orbax":
        dtype = livecc.dtype
        if dtype not in (None, *DTYPES):
            raise CheckpointError(f"{checkpoint.root}: livecc.dtype {dtype!r} is not a weight dtype")
    weights = StoredWeights(checkpoint, dtype)
    livecc = dataclasses.replace(livecc, dtype=None)  # the copy is stored in the dtype it wants
    if to == "hf":
        export_hf(
            dst,
            checkpoint.config,
            livecc,
            weights,
            tokenizer,
            layout=layout,
            overwrite=overwrite,
            settings=checkpoint.root,
            origin=_origin(checkpoint),
        )
    else:
        _to_orbax(dst, checkpoint, livecc, tokenizer, dtype, overwrite, weights)
    sizes: Counter[str] = Counter()
    for name, shape in weights.shapes.items():
        sizes[str(weights.dtypes[name])] += math.prod(shape)
    return Converted(Path(dst), to, sizes.total(), sizes.most_common(1)[0][0], tokenizer is not None)


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the model card tells of where the weights come from."""
    if checkpoint.kind == "hf":
        return {"source": checkpoint.root.name}
    from livecc_jax.checkpoints.run import RunDirectory

    train = RunDirectory(checkpoint.root).train_config()
    return train | {"step": checkpoint.step} if train else {"source": checkpoint.root.name}


def _to_orbax(
    dst: str | Path,
    checkpoint: Checkpoint,
    livecc: LiveCCBlock,
    tokenizer: Tokenizer | None,
    dtype: str | None,
    overwrite: bool,
    weights: StoredWeights,
) -> None:
    from livecc_jax.checkpoints.run import RunDirectory

    needed = sum(math.prod(s) * weights.dtypes[n].itemsize for n, s in weights.shapes.items())
    with (
        replacing(dst, overwrite, needed) as fresh,
        RunDirectory(fresh, asynchronous=False) as run,
    ):
        run.create(checkpoint.config, livecc, tokenizer, train={})
        carry(checkpoint.root, fresh, CARRIED)
        # As jax arrays, though of the same memory: of numpy arrays Orbax makes copies first.
        cpu = jax.local_devices(backend="cpu")[0]
        run.save(0, jax.device_put(checkpoint.load_params(dtype), cpu, may_alias=True))
        run.wait()
