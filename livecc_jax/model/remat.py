"""Rematerialization policies by name: what the backward pass recomputes instead of storing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Primitive

from livecc_jax.errors import ConfigError

Remat = Literal["none", "full", "attention", "dots", "offload"]
REMAT_POLICIES: tuple[str, ...] = get_args(Remat)

# Checkpoint names of values that a policy stores.
BLOCK_INPUT = "block_input"
ATTENTION = "attention_output"  # and what the backward pass of attention needs besides


def _is_fused_attention(primitive: Primitive, *_: Any, **__: Any) -> bool:
    """Whether it is cuDNN's forward kernel, whose output and statistics JAX offers no way to name."""
    return primitive.name.startswith("dot_product_attention_fwd")


def apply_remat(body: Callable, remat: Remat) -> Callable:
    """Wraps the body of a scan over layers, (x, layer) -> (x, ...), so that it stores less.

    Args:
        body: The body of the scan.
        remat: What is stored for the backward pass. `none`: every activation. `full`: the input of each
            layer only. `attention`: also the output of attention, the costliest to recompute in long
            rows. `dots`: also the results of matrix products with weights (those without a batch
            dimension). `offload`: the input of each layer only, in the memory of the host.

    Raises ConfigError for other names.
    """
    if remat not in REMAT_POLICIES:
        raise ConfigError(f"remat {remat!r} is not one of {', '.join(REMAT_POLICIES)}")
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

    def body_with_named_input(x: jax.Array, layer: Any) -> Any:
        return body(checkpoint_name(x, BLOCK_INPUT) if remat == "offload" else x, layer)

    # Within scan, the loop itself already keeps XLA from merging forward and recomputation.
    return jax.checkpoint(body_with_named_input, prevent_cse=False, policy=policy)
