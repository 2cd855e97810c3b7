"""Peak FLOP/s of accelerators: the denominator of MFU and the roofline of `livecc plan`."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

# Dense bf16 FLOP/s of one device, from the manufacturers' data sheets.
PEAK_FLOPS = {
    "v4": 275e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v6e": 918e12,
    "v7x": 2307e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}

# Prefixes of `device_kind` and the name of the chip in PEAK_FLOPS; the first that matches counts.
DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v5": "v5p",
    "TPU v6": "v6e",
    "TPU7x": "v7x",
    "NVIDIA H100": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA A100": "A100",
}

_MEASURED_SIZE = 1024
_REPETITIONS = 5


def peak_flops(device: jax.Device, dtype: str) -> tuple[float, str]:
    """Returns (peak FLOP/s of a device, source of the figure).

    The figure is the data sheet's for a device that is listed here, otherwise the rate of a square
    matrix product of this dtype, measured on the device.
    """
    for prefix, chip in DEVICE_KINDS.items():
        if device.device_kind.startswith(prefix):
            return PEAK_FLOPS[chip], f"{prefix} data sheet, dense bf16"
    size = _MEASURED_SIZE
    with jax.default_device(device):
        x = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
        product = jax.jit(lambda x: x @ x)
        product(x).block_until_ready()
        seconds = []
        for _ in range(_REPETITIONS):
            start = time.perf_counter()
            product(x).block_until_ready()
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds), f"measured {size}x{size} {dtype} matrix product"
