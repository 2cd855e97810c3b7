"""The layer over Pallas: what a version of JAX lacks is not used, after one warning."""

import logging
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from livecc_jax.kernels import fused_gemm, fused_norm, gemv, gpu, interpreted


@pytest.fixture
def without(monkeypatch):
    """Makes a backend of Pallas missing, or replaces it."""

    def replace(backend, module=None):
        monkeypatch.setitem(sys.modules, f"jax.experimental.pallas.{backend}", module)

    return replace


def test_a_jax_without_triton_is_served_by_xla(without, caplog):
    without("triton")
    with interpreted(), caplog.at_level(logging.WARNING, "livecc_jax"):
        assert not gemv.is_supported(64, 256)
        assert not fused_norm.is_supported(quantized=False)
    warnings = [r.getMessage() for r in caplog.records if "pallas.triton" in r.getMessage()]
    assert len(warnings) == 1
    assert "plain XLA is used instead" in warnings[0]


def test_a_mosaic_of_another_form_is_not_used(without, caplog):
    real = gpu.mosaic()
    names = {name: getattr(real, name) for name in dir(real) if name != "wgmma"}
    without("mosaic_gpu", types.SimpleNamespace(**names))
    with interpreted(), caplog.at_level(logging.WARNING, "livecc_jax"):
        for _ in range(2):
            assert not fused_gemm.is_supported(1024, 320, 512, jnp.bfloat16)
    assert f"jax {jax.__version__} lacks wgmma" in caplog.text


def test_this_jax_has_both():
    with interpreted():
        assert gpu.has_triton()
        assert gpu.has_mosaic()
