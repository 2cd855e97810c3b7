"""The most FLOP/s a device can do: the denominator of MFU."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

# Dense bf16 rates from the makers' data sheets, by a prefix of `device_kind`.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 2307e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
}


def peak_flops(device: jax.Device, dtype: str) -> tuple[float, str]:
    """(FLOP/s, where the figure is from): the data sheet's, or a matrix product timed here."""
    for prefix, rate in PEAKS.items():
        if device.device_kind.startswith(prefix):
            return rate, f"{prefix} data sheet, dense bf16"
    size = 1024
    with jax.default_device(device):
        x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        product = jax.jit(lambda x: x @ x)
        product(x).block_until_ready()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            product(x).block_until_ready()
            times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times), f"measured {size}x{size} {dtype} matrix product"
