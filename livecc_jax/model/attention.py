"""Attention within packed segments, for training and the vision tower, by the backend of the platform.

The platform that the step is compiled for chooses: splash attention on TPUs, cuDNN's fused attention on
GPUs, plain XLA elsewhere. New tokens that attend to a cache use `decoding.attention` instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

from livecc_jax.errors import ConfigError
from livecc_jax.model import attention_cudnn, attention_splash, attention_xla
from livecc_jax.model.attention_layout import Layout, layout_in_scope
from livecc_jax.model.remat import ATTENTION

Backend = Literal["auto", "xla", "splash", "cudnn"]
BACKENDS: tuple[str, ...] = get_args(Backend)

_requested_backend: ContextVar[str] = ContextVar("attention_backend", default="auto")


@contextlib.contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Selects the attention backend of whatever is traced within; `auto` chooses by the platform.

    Raises ConfigError for other names.
    """
    if name not in BACKENDS:
        raise ConfigError(f"attention backend {name!r} is not one of {', '.join(BACKENDS)}")
    token = _requested_backend.set(name)
    try:
        yield
    finally:
        _requested_backend.reset(token)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    causal: bool,
    axes: tuple[str, str | None] = ("batch", "length"),
) -> jax.Array:
    """Computes self-attention within segments.

    A token attends to the tokens of its own segment, and with `causal` to none after itself. Padding is
    segment 0 and attends only to padding, so that no softmax is over nothing. No T x T array exists for
    rows longer than two blocks.

    Args:
        q: [B, T, H, D].
        k: [B, T, K, D], each key head serving H / K query heads.
        v: [B, T, K, D].
        segment_ids: int32 [B, T]; the tokens of a segment are contiguous.
        causal: Whether a token attends only to itself and to earlier tokens.
        axes: Logical axes of B and T, by which the mesh in scope splits them.

    Returns:
        [B, T, H, D] in q's dtype.

    Raises ConfigError when B or the heads do not divide over the mesh in scope.
    """
    layout = layout_in_scope(axes)
    layout.check(q.shape, k.shape)
    with jax.named_scope("attention"):
        match backend_for(layout, q, k):
            case "splash":
                return attention_splash.attend(q, k, v, segment_ids, layout, causal=causal)
            case "cudnn":
                # `remat` recognizes this kernel by its primitive, and stores its statistics too.
                return attention_cudnn.attend(q, k, v, segment_ids, layout, causal=causal)
            case _:
                out_BTHD = attention_xla.attend(q, k, v, segment_ids, layout, causal=causal)
    return checkpoint_name(out_BTHD, ATTENTION)


def backend_for(layout: Layout, q: jax.Array, k: jax.Array) -> str:
    """Returns the backend that `attend` uses: the requested one, or the platform's where it serves."""
    requested = _requested_backend.get()
    if requested != "auto":
        return requested
    if layout.platform == "tpu":
        return "splash"
    if layout.platform == "gpu" and attention_cudnn.is_supported(q, k, layout):
        return "cudnn"
    return "xla"
