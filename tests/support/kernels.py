"""What tests of kernels share: the names of kernels that a function calls, and linear maps."""

import re

import jax
import jax.numpy as jnp

from livecc_jax.decoding.quantize import quantize

# Functions around a Mosaic kernel, which has no name of its own.
MOSAIC = ("fused_gemm", "flash_prefill_parts", "window_attention")


def kernels_of(function, *args):
    """The names of the kernels that a function calls, as it is traced here."""
    return {*_names(jax.make_jaxpr(function)(*args).jaxpr)}


def _names(jaxpr):
    for eqn in jaxpr.eqns:
        name = str(eqn.params.get("name"))
        if eqn.primitive.name == "pallas_call" or name in MOSAIC:
            yield name
            continue
        for value in eqn.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _names(inner)


def kernels_lowered_for_cuda(function, *args):
    """The names of the kernels in a function that is lowered for CUDA; no GPU is needed."""
    text = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    return {
        *re.findall(r'name = "(\w+)"', text),
        *re.findall(rf"private @({'|'.join(MOSAIC)})\(", text),
    }


def linear_maps(rng):
    """A linear map of 384 inputs and [2, 96] outputs, as decoding may store it."""
    kernel = jnp.asarray(rng.normal(size=(384, 2, 96)) / 20, jnp.float32)
    bias = jnp.asarray(rng.normal(size=(2, 96)), jnp.float32)
    yield {"kernel_t": jnp.moveaxis(kernel, 0, -1), "bias": bias}
    yield {"kernel_t": jnp.moveaxis(kernel, 0, -1)}
    yield quantize({"kernel": kernel, "bias": bias})
    yield quantize({"kernel": kernel})
