"""Accelerator kernels, each with a check of where it serves and a plain equivalent (see README.md)."""

from livecc_jax.kernels.disabled import without as without
from livecc_jax.kernels.interpret import interpreted as interpreted
