"""What stands between two products, in one kernel as step by step."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding.linear import add_to_residual, linear, prepare_input
from livecc_jax.decoding.quantize import quantize, quantized_linear, quantized_mlp
from livecc_jax.kernels.fused_norm import (
    DeferredResidual,
    add_and_norm,
    add_and_norm_reference,
    quantize_rows,
    quantize_rows_reference,
)
from livecc_jax.kernels.norms import LayerNorm, RmsNorm
from livecc_jax.kernels.quantized import dequantize
from tests.support.kernels import assert_close, kernels_of, kernels_serve, plain_xla


@pytest.mark.parametrize("kind", [RmsNorm, LayerNorm])
def test_the_kernels_compute_their_references(kind):
    rng = np.random.default_rng(5)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    norm = RmsNorm(normal(80), 1e-6) if kind is RmsNorm else LayerNorm(normal(80), normal(80))
    residual = DeferredResidual(normal(2, 3, 80), normal(6, 80))
    with kernels_serve():
        total, normed = add_and_norm(residual, norm, quantized=False)
        rows = quantize_rows(residual.y, norm)
    reference = add_and_norm_reference(residual, norm, quantized=False)
    assert_close(total, reference[0], rtol=1e-6)
    assert_close(normed, reference[1], rtol=1e-5, atol=1e-5)
    # A value between two of e4m3's may be rounded to the other one.
    rows, reference = (
        dequantize(x, jnp.float32) for x in (rows, quantize_rows_reference(residual.y, norm))
    )
    np.testing.assert_allclose(rows, reference, rtol=0.13, atol=1e-2)


@pytest.mark.parametrize("size", [384, 4736])
def test_the_input_of_a_quantized_product_is_quantized_in_one_kernel(size):
    """Normed, or gated, or through gelu, and rounded, as step by step; a row of zeros stays one."""
    rng = np.random.default_rng(3)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    x = normal(2, 3, 48) * 10.0 ** rng.uniform(-3, 3, size=(2, 3, 1))
    x = x.at[1, 1].set(0)
    first = {
        "gate": quantize({"kernel": normal(48, 2, size) / 7}),
        "gelu": quantize({"kernel": normal(48, size) / 7, "bias": normal(size)}),
    }
    second = quantize({"kernel": normal(size, 48) / 20})
    rms, layer = RmsNorm(normal(48), 1e-6), LayerNorm(normal(48), normal(48))

    def mlp(epilogue, norm=None):
        y = quantized_mlp(x, first[epilogue], epilogue, second, norm)
        return y.scaled().reshape(x.shape)

    calls = [functools.partial(quantized_linear, x, first["gelu"], norm=n) for n in (rms, layer, None)]
    calls += [functools.partial(mlp, *args) for args in (("gate",), ("gelu",), ("gate", rms))]
    with plain_xla():
        plain = [run() for run in calls]
    with kernels_serve():
        for run, wanted in zip(calls, plain):
            assert kernels_of(run) == {"quantize_rows"}
            # A value between two of e4m3's may be rounded to the other one, for its last bit's sake.
            size = jnp.std(wanted, axis=-1, keepdims=True) + 1e-6
            np.testing.assert_allclose(run() / size, wanted / size, atol=0.02)
        assert jnp.all(calls[-1]()[1, 1] == 0)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", [RmsNorm, LayerNorm])
def test_a_residual_is_added_and_normed_in_one_kernel(kind, quantized):
    """As step by step, and in the end what the product after it makes of it."""
    rng = np.random.default_rng(4)

    def normal(*shape):  # step by step, bfloat16 would be rounded once more before it is quantized
        return jnp.asarray(rng.normal(size=shape), jnp.float32 if quantized else jnp.bfloat16)

    norm = RmsNorm(normal(80), 1e-6)
    if kind is LayerNorm:
        norm = LayerNorm(normal(3, 80), normal(3, 80), layer=1)
    x, out = normal(2, 8, 80) * 4, normal(2, 8, 2, 24)
    first, second = ({"kernel": normal(*shape) / 7} for shape in ((48, 80), (80, 3, 16)))
    first = {"kernel": first["kernel"].reshape(2, 24, 80), "bias": normal(80)}
    if quantized:
        first, second = quantize(first, 2), quantize(second)
    with plain_xla():
        total = add_to_residual(x, out, first, 2)
        assert not isinstance(total, DeferredResidual)
        product = linear(total, second, norm=norm)
    with kernels_serve():
        deferred = add_to_residual(x, out, first, 2)
        assert isinstance(deferred, DeferredResidual)
        fused_total, normed, norm_left = prepare_input(deferred, norm, second)
        fused_product = linear(normed, second, dtype=x.dtype)
    assert norm_left is None
    for fused, plain in ((fused_total, total), (fused_product, product)):
        assert fused.dtype == plain.dtype
        assert fused.shape == plain.shape
        difference = fused.astype(jnp.float32) - plain.astype(jnp.float32)
        assert jnp.std(difference) < 4e-3 * jnp.std(plain.astype(jnp.float32))
