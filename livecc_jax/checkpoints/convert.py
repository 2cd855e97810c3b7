"""Converts a checkpoint from either layout (HuggingFace, Orbax) to either layout."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from livecc_jax.checkpoints.files import atomic_directory, check_link, copy_files
from livecc_jax.checkpoints.hf_config import CONFIG, LiveCCBlock
from livecc_jax.checkpoints.hf_export import SETTINGS_FILES, export_hf
from livecc_jax.checkpoints.open import Checkpoint, open_checkpoint
from livecc_jax.checkpoints.weight_source import CheckpointWeights
from livecc_jax.errors import CheckpointError, TokenizerError
from livecc_jax.text.files import COMPANIONS, TOKENIZER_FILES
from livecc_jax.text.tokenizer import Tokenizer

LAYOUTS = ("hf", "orbax")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ConversionResult:
    """The checkpoint that `convert` wrote.

    Attributes:
        path: Its directory.
        kind: Its layout, "hf" or "orbax".
        parameters: Number of parameters.
        dtype: Dtype of most of the weights.
        tokenizer: Whether the source has a tokenizer, so the copy has it too.
    """

    path: Path
    kind: str
    parameters: int
    dtype: str
    tokenizer: bool


def convert(
    src: str | Path,
    dst: str | Path,
    to: str = "hf",
    dtype: str | None = None,
    layout: str = "flat",
    overwrite: bool = False,
) -> ConversionResult:
    """Write a copy of a checkpoint in another layout.

    Args:
        src: Any path that `open_checkpoint` accepts.
        dst: The directory to write; it appears complete or not at all.
        to: "hf", or "orbax" for a run whose step 0 holds only the parameters.
        dtype: Dtype to cast the weights to. None keeps their dtypes, bit for bit, except that a
            training run is exported to "hf" in the dtype of the model it started from.
        layout: Layout of the config.json in "hf", "flat" or "nested".
        overwrite: Replace a checkpoint that exists at `dst`.

    Returns:
        What was written.

    Raises:
        CheckpointError: The source is damaged or has links that lead out of it; its weights hold NaN,
            infinity, or numbers that `dtype` does not hold; or the destination exists or contains the
            source.
        OutputError: The disk is full, or a file cannot be written for another reason.

    Example:
        >>> livecc_jax.convert_model("runs/mine", "exported", to="hf", dtype="bfloat16").parameters
    """
    if to not in LAYOUTS:
        raise CheckpointError(f"{to!r} is not a checkpoint layout; they are {', '.join(LAYOUTS)}")
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"{dtype!r} is not a weight dtype; they are {', '.join(DTYPES)}")
    checkpoint = open_checkpoint(src)
    source_path, target_path = checkpoint.path.resolve(), Path(dst).resolve()
    if source_path == target_path or target_path in source_path.parents:
        raise CheckpointError(f"{dst}: holds the checkpoint that is to be converted")
    # Before anything is written: a link's target may be any file that this user can read.
    for name in (CONFIG, *TOKENIZER_FILES, *COMPANIONS, *SETTINGS_FILES):
        check_link(checkpoint.root / name)
    try:
        tokenizer = checkpoint.open_tokenizer()
    except TokenizerError:
        if any(checkpoint.root.glob("tokenizer.*")):  # a tokenizer exists, but it is broken
            raise
        tokenizer = None
    livecc = checkpoint.livecc
    if dtype is None and to == "hf" and checkpoint.kind == "orbax":
        dtype = livecc.dtype
        if dtype not in (None, *DTYPES):
            raise CheckpointError(f"{checkpoint.root}: livecc.dtype {dtype!r} is not a weight dtype")
    weights = CheckpointWeights(checkpoint, dtype)
    livecc = dataclasses.replace(livecc, dtype=None)  # the copy is already stored in it
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
    return ConversionResult(
        Path(dst), to, sizes.total(), sizes.most_common(1)[0][0], tokenizer is not None
    )


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns what the model card says about the origin of the weights."""
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
    weights: CheckpointWeights,
) -> None:
    from livecc_jax.checkpoints.run import RunDirectory

    num_bytes = sum(math.prod(s) * weights.dtypes[n].itemsize for n, s in weights.shapes.items())
    with (
        atomic_directory(dst, overwrite, num_bytes) as fresh,
        RunDirectory(fresh, asynchronous=False) as run,
    ):
        run.create(checkpoint.config, livecc, tokenizer, train={})
        copy_files(checkpoint.root, fresh, SETTINGS_FILES)
        # As jax arrays that share the memory: Orbax would first copy numpy arrays.
        cpu = jax.local_devices(backend="cpu")[0]
        run.save(0, jax.device_put(checkpoint.load_params(dtype), cpu, may_alias=True))
        run.wait()
