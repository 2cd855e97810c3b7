"""The one door to attention within a row of packed segments: training and the vision tower.

Behind it are three ways to compute the same thing, chosen by the device that the step is compiled for:
splash attention on TPU, cuDNN's fused attention on GPU, plain XLA anywhere. New tokens that attend to a
cache go through `decoding.attention` instead.
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

_asked: ContextVar[str] = ContextVar("attention_backend", default="auto")


@contextlib.contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Compute attention this way in whatever is traced inside; `auto` chooses by the device.

    Raises ConfigError for other names.
    """
    if name not in BACKENDS:
        raise ConfigError(f"attention backend {name!r} is not one of {', '.join(BACKENDS)}")
    token = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(token)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    causal: bool,
    axes: tuple[str, str | None] = ("batch", "length"),
) -> jax.Array:
    """Self-attention within segments.

    A token sees the tokens of its own segment (and, if causal, none after itself). Padding is segment
    0 and sees only padding, so no softmax is ever over nothing. No array of T x T is ever made for rows
    longer than two blocks.

    Args:
        q: [B, T, H, D].
        k: [B, T, K, D], each key head serving H / K query heads.
        v: [B, T, K, D].
        segment_ids: int32 [B, T]; the tokens of a segment are contiguous.
        causal: whether a token sees only itself and what came before.
        axes: logical axes of B and T, which say how a mesh in scope splits them.

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
                # `remat` knows this kernel by its primitive, and stores its statistics too.
                return attention_cudnn.attend(q, k, v, segment_ids, layout, causal=causal)
            case _:
                out = attention_xla.attend(q, k, v, segment_ids, layout, causal=causal)
    return checkpoint_name(out, ATTENTION)


def backend_for(layout: Layout, q: jax.Array, k: jax.Array) -> str:
    """Which backend `attend` takes: the one asked for, or the device's own where it can be used."""
    asked = _asked.get()
    if asked != "auto":
        return asked
    if layout.platform == "tpu":
        return "splash"
    if layout.platform == "gpu" and attention_cudnn.usable(q, k, layout):
        return "cudnn"
    return "xla"
