"""What the backward pass recomputes instead of storing, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive

from livecc_jax.errors import ConfigError

Remat = Literal["none", "full", "attention", "dots", "offload"]
REMATS: tuple[str, ...] = get_args(Remat)

# Values that a policy can name.
BLOCK_INPUT = "block_input"
ATTENTION = "attention_output"  # and what its backward pass needs besides


def _is_fused_attention(primitive: Primitive, *_: Any, **__: Any) -> bool:
    """cuDNN's forward kernel: its output and statistics, which jax offers no way to name."""
    return primitive.name.startswith("dot_product_attention_fwd")


def checkpointed(body: Callable, remat: Remat) -> Callable:
    """Wrap the body of a layer scan, (x, layer) -> (x, ...), so that its backward pass has stored

    none: every activation; full: each layer's input alone; attention: also what attention gave, which
    costs most to recompute in long rows; dots: also the results of matrix products with weights (those
    without a batch dimension) and what attention gave; offload: each layer's input alone, in the host's
    memory.

    Raises ConfigError for other names.
    """
    if remat not in REMATS:
        raise ConfigError(f"remat {remat!r} is not one of {', '.join(REMATS)}")
    if remat == "none":
        return body
    policies = jax.checkpoint_policies
    named_attention = policies.save_only_these_names(ATTENTION)
    attention = policies.save_from_both_policies(named_attention, _is_fused_attention)
    policy = {
        "full": None,
        "attention": attention,
        "dots": policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention),
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
