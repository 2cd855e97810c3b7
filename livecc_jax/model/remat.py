"""What the backward pass recomputes instead of storing, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

from livecc_jax.errors import ConfigError

Remat = Literal["none", "full", "attention", "dots", "offload"]
REMATS: tuple[str, ...] = get_args(Remat)

# Values that a policy can name.
BLOCK_INPUT = "block_input"
ATTENTION = "attention_output"  # and what its backward pass needs besides


def checkpointed(body: Callable, remat: Remat) -> Callable:
    """Wrap the body of a layer scan, (x, layer) -> (x, ...), so that its backward pass has stored

    none: every activation; full: each layer's input alone; attention: also what attention gave, which
    costs most to recompute in long rows; dots: also the results of matrix products with weights (those
    without a batch dimension); offload: each layer's input alone, in the host's memory. With cuDNN,
    `attention` stores the output, but the kernel still runs again for its statistics.

    Raises ConfigError for other names.
    """
    if remat not in REMATS:
        raise ConfigError(f"remat {remat!r} is not one of {', '.join(REMATS)}")
    if remat == "none":
        return body
    policies = jax.checkpoint_policies
    policy = {
        "full": None,
        "attention": policies.save_only_these_names(ATTENTION),
        "dots": policies.dots_with_no_batch_dims_saveable,
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[BLOCK_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }[remat]

    def named(x: jax.Array, layer: Any) -> Any:
        return body(checkpoint_name(x, BLOCK_INPUT) if remat == "offload" else x, layer)

    # Under scan, the loop itself already keeps XLA from merging the two computations.
    return jax.checkpoint(named, prevent_cse=False, policy=policy)
