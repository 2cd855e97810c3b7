"""Building blocks of the network: declared weights, linear maps, layer normalization.

A weight is declared once, as shape, logical axes and initializer. `stack=(L,)` declares L layers of it
in one array, with the layers first, as `jax.lax.scan` needs them. A slice of the stack is an ordinary
layer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from livecc_jax.kernels.norms import layer_norm, rms_norm

INIT_STD = 0.02  # standard deviation of random weights


def weight(
    rngs: nnx.Rngs,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    *,
    stack: tuple[int, ...] = (),
    fill: float | None = None,
) -> nnx.Param:
    """Declares a float32 parameter.

    Args:
        rngs: Random number generators.
        shape: Shape of one layer's parameter.
        axes: Logical axis of each dimension, which `parallel.rules` maps to the mesh.
        stack: (L,) for a stack of L layers; () for a single one.
        fill: Constant to fill it with; None draws from a normal distribution.
    """
    if len(shape) != len(axes):
        raise ValueError(f"{len(shape)} dimensions but {len(axes)} axes: {shape}, {axes}")
    full_shape = (*stack, *shape)
    if fill is not None:
        value = jnp.full(full_shape, fill, jnp.float32)
    else:
        value = INIT_STD * jax.random.normal(rngs.params(), full_shape, jnp.float32)
    return nnx.Param(value, axes=(*("layers" for _ in stack), *axes))


class Linear(nnx.Module):
    """y = x . kernel + bias, contracting x's last axes with the kernel's first ones.

    It maps [..., *inputs] to [..., *outputs]. `model.lora.attach_adapters` may give it an adapter,
    which has one axis of inputs and one of outputs.
    """

    adapter: nnx.Module | None = None

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        axes: tuple[str | None, ...],
        *,
        bias: bool = False,
        stack: tuple[int, ...] = (),
    ) -> None:
        self.contract = len(inputs)
        self.kernel = weight(rngs, (*inputs, *outputs), axes, stack=stack)
        if bias:
            self.bias = weight(rngs, outputs, axes[len(inputs) :], stack=stack, fill=0.0)
        self.has_bias = bias

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jnp.tensordot(x, self.kernel[...], axes=self.contract)
        if self.adapter is not None:
            flat_x = x.reshape(*x.shape[: x.ndim - self.contract], -1)
            y = y + self.adapter(flat_x).reshape(y.shape)
        return y + self.bias[...] if self.has_bias else y


class LayerNorm(nnx.Module):
    """Layer normalization of [..., D] with scale and bias, computed in float32."""

    def __init__(
        self, rngs: nnx.Rngs, width: int, *, eps: float = 1e-6, stack: tuple[int, ...] = ()
    ) -> None:
        self.scale = weight(rngs, (width,), ("norm",), stack=stack, fill=1.0)
        self.bias = weight(rngs, (width,), ("norm",), stack=stack, fill=0.0)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class RmsNorm(nnx.Module):
    """Root mean square normalization of [..., D] with a scale, computed in float32."""

    def __init__(
        self, rngs: nnx.Rngs, width: int, *, eps: float = 1e-6, stack: tuple[int, ...] = ()
    ) -> None:
        self.scale = weight(rngs, (width,), ("norm",), stack=stack, fill=1.0)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.scale[...], self.eps)
