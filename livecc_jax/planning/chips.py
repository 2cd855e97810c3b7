"""TPU slices by name: rates of a chip, and the links over which a group of chips communicates."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from livecc_jax.errors import ConfigError
from livecc_jax.parallel.peak_rates import PEAK_FLOPS

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Published figures of one chip (Google Cloud's TPU system architecture pages, 2026).

    Attributes:
        name: Name of the chip in topologies.
        hbm_bytes: Memory that a program may use.
        hbm_rate: Memory bandwidth in bytes/s.
        link_rate: Bandwidth of one ICI link in one direction in bytes/s.
        dimensions: Number of dimensions of the torus.
        wraps_at: A dimension whose size is a multiple of this many chips closes into a ring.
        dcn_rate: One chip's share of the bandwidth between slices in bytes/s.
    """

    name: str
    hbm_bytes: float
    hbm_rate: float
    link_rate: float
    dimensions: int
    wraps_at: int
    dcn_rate: float

    @property
    def flops(self) -> float:
        """Peak dense bf16 FLOP/s."""
        return PEAK_FLOPS[self.name]


CHIPS = {
    "v5e": Chip("v5e", 15.75 * GIB, 819e9, 50e9, 2, 16, 25e9 / 8),
    "v5p": Chip("v5p", 95 * GIB, 2765e9, 100e9, 3, 4, 50e9 / 8),
    "v6e": Chip("v6e", 31.25 * GIB, 1600e9, 100e9, 2, 16, 100e9 / 8),
}


@dataclass(frozen=True)
class Topology:
    """One or more equal slices."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @staticmethod
    def parse(text: str, slices: int = 1) -> Topology:
        """Parses a name such as `v5p:4x4x4`.

        Raises ConfigError, naming the option, for a text of another form or an unknown chip.
        """
        match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
        if not match or match[1] not in CHIPS:
            raise ConfigError(
                f"--topology {text!r} is not one of {', '.join(CHIPS)} and a shape, such as v5p:4x4x4"
            )
        chip = CHIPS[match[1]]
        shape = tuple(int(n) for n in match[2].split("x"))
        if len(shape) != chip.dimensions or not all(shape):
            raise ConfigError(
                f"--topology {text!r}: a {chip.name} slice has {chip.dimensions} dimensions"
            )
        if slices < 1:
            raise ConfigError(f"--slices must be at least 1, not {slices}")
        return Topology(chip, shape, slices)

    @property
    def chips(self) -> int:
        """Number of chips of all slices."""
        return math.prod(self.shape) * self.slices

    def __str__(self) -> str:
        return self.slice_name if self.slices == 1 else f"{self.slices} x {self.slice_name}"

    @property
    def slice_name(self) -> str:
        """Name of one slice, such as `v5p:4x4x4`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    def devices(self) -> Sequence[Any]:
        """Returns descriptions of the devices to compile for; no device needs to be present.

        Raises ConfigError when libtpu is not installed or does not support the slice.
        """
        import importlib.util
        import os

        if importlib.util.find_spec("libtpu") is None:
            raise ConfigError("planning compiles with libtpu, which is missing: pip install 'jax[tpu]'")
        # Nothing runs on a TPU: do not ask a metadata server for one, and do not lock it.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        import jax
        from jax.experimental import topologies

        try:
            description = topologies.get_topology_desc(
                platform="tpu", topology_name=self.slice_name, num_slices=self.slices
            )
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"--topology {self.slice_name}: libtpu refuses it: {reason}") from error
        return description.devices

    def rate(self, group: Sequence[tuple[tuple[int, ...], int]]) -> tuple[float, bool]:
        """Returns (bytes/s in one direction between the chips of a group, whether they go over ICI).

        A chip has two links along a dimension that the group fills and that closes into a ring, and one
        link along any other dimension that the group spans.

        Args:
            group: (coordinates, slice index) of each chip.
        """
        if len({slice_index for _, slice_index in group}) > 1:
            return self.chip.dcn_rate, False
        links = 0
        for axis, size in enumerate(self.shape):
            spans = len({coords[axis] for coords, _ in group})
            if spans > 1:
                rings = spans == size and size > 2 and size % self.chip.wraps_at == 0
                links += 2 if rings else 1
        return max(1, links) * self.chip.link_rate, True
