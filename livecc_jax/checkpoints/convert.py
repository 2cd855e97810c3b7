"""From either layout to either layout."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import jax

from livecc_jax.checkpoints.files import replacing
from livecc_jax.checkpoints.hf import export_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.errors import CheckpointError, TokenizerError

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
    params = checkpoint.load_params(dtype)
    livecc = dataclasses.replace(livecc, dtype=None)  # the copy is stored in the dtype it wants
    if to == "hf":
        export_hf(dst, checkpoint.config, livecc, params, tokenizer, layout=layout, overwrite=overwrite)
    else:
        from livecc_jax.checkpoints.run import RunDirectory

        with replacing(dst, overwrite) as fresh, RunDirectory(fresh, asynchronous=False) as run:
            run.create(checkpoint.config, livecc, tokenizer, train={})
            run.save(0, params)
            run.wait()
    sizes: Counter[str] = Counter()
    for leaf in jax.tree.leaves(params):
        sizes[str(leaf.dtype)] += leaf.size
    return Converted(Path(dst), to, sizes.total(), sizes.most_common(1)[0][0], tokenizer is not None)
