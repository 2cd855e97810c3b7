"""What tests of kernels share: where kernels serve, which ones a function calls, and linear maps.

On a CPU kernels are interpreted, in float32. On a GPU (`make test-gpu`) the same tests compile them,
and those of attention and products take bfloat16, which alone they serve there.
"""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.quantize import quantize
from livecc_jax.kernels import interpreted, without
from livecc_jax.kernels.disabled import NAMES
from tests.support.jaxprs import inner_jaxprs

ON_GPU = jax.default_backend() == "gpu"
DTYPE = jnp.bfloat16 if ON_GPU else jnp.float32

# Functions around a Mosaic kernel, which has no name of its own.
MOSAIC = ("fused_gemm", "flash_prefill_parts", "window_attention")


def kernels_serve():
    """The context in which kernels serve: compiled on a GPU, interpreted elsewhere."""
    return contextlib.nullcontext() if ON_GPU else interpreted()


def plain_xla():
    """The context in which no kernel serves."""
    return without(*NAMES)


def assert_close(actual, wanted, atol=0.0, rtol=0.0):
    """Compares with a plain computation, in float32 within tolerances, else as bfloat16 rounds."""
    half_precision = jnp.asarray(actual).dtype == jnp.bfloat16
    actual, wanted = (np.asarray(x, np.float32) for x in (actual, wanted))
    assert actual.shape == wanted.shape
    if not half_precision:
        # A GPU computes plain products of float32 with eleven bits, and exponentials roughly.
        rounding = 2e-3 * np.abs(wanted[np.isfinite(wanted)]).max() if ON_GPU else 0.0
        np.testing.assert_allclose(actual, wanted, atol=atol + rounding, rtol=rtol)
        return
    assert np.isfinite(actual).all()
    assert np.std(actual - wanted) < 0.01 * np.std(wanted)
    assert np.abs(actual - wanted).max() < 0.04 * np.abs(wanted).max()


def kernels_of(function, *args):
    """The names of the kernels that a function calls, as it is traced here."""
    return {*_names(jax.make_jaxpr(function)(*args).jaxpr)}


def _names(jaxpr):
    for eqn in jaxpr.eqns:
        name = str(eqn.params.get("name"))
        if eqn.primitive.name == "pallas_call" or name in MOSAIC:
            yield name
            continue
        for inner in inner_jaxprs(eqn):
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
    kernel = jnp.asarray(rng.normal(size=(384, 2, 96)) / 20, DTYPE)
    bias = jnp.asarray(rng.normal(size=(2, 96)), DTYPE)
    yield {"kernel_t": jnp.moveaxis(kernel, 0, -1), "bias": bias}
    yield {"kernel_t": jnp.moveaxis(kernel, 0, -1)}
    yield quantize({"kernel": kernel, "bias": bias})
    yield quantize({"kernel": kernel})
