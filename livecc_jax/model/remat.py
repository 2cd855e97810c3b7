"""What the backward pass recomputes instead of storing, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax

from livecc_jax.errors import ConfigError

Remat = Literal["none", "full", "dots"]
REMATS: tuple[str, ...] = get_args(Remat)


def checkpointed(body: Callable, remat: Remat) -> Callable:
    """Wrap the body of a layer scan.

    none: store every activation; full: store each layer's input alone; dots: also store the results of
    matrix products with weights (those without a batch dimension). Raises ConfigError for other names.
    """
    if remat == "none":
        return body
    # Under scan, the loop itself already keeps XLA from merging the two computations.
    if remat == "full":
        return jax.checkpoint(body, prevent_cse=False)
    if remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        return jax.checkpoint(body, prevent_cse=False, policy=policy)
    raise ConfigError(f"remat {remat!r} is not one of {', '.join(REMATS)}")
