"""TPU slices by name: what a chip can do, and over which links a group of chips talks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from livecc_jax.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """Published figures of one chip (Google Cloud's TPU system architecture pages, 2026)."""

    name: str
    flops: float  # dense bf16, a second
    hbm_bytes: float  # what a program may use of it
    hbm_rate: float  # bytes a second
    link_rate: float  # bytes a second over one ICI link, one way
    dimensions: int  # of its torus
    wraps_at: int  # a dimension of a multiple of this many chips closes into a ring
    dcn_rate: float  # bytes a second of one chip's share of the network between slices


CHIPS = {
    "v5e": Chip("v5e", 197e12, 15.75 * GIB, 819e9, 50e9, 2, 16, 25e9 / 8),
    "v5p": Chip("v5p", 459e12, 95 * GIB, 2765e9, 100e9, 3, 4, 50e9 / 8),
    "v6e": Chip("v6e", 918e12, 31.25 * GIB, 1600e9, 100e9, 2, 16, 100e9 / 8),
}


@dataclass(frozen=True)
class Topology:
    """One or more equal slices."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @staticmethod
    def parse(text: str, slices: int = 1) -> Topology:
        """`v5p:4x4x4`. Raises ConfigError for what is no such slice, naming the option at fault."""
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
        """In all slices."""
        return math.prod(self.shape) * self.slices

    def __str__(self) -> str:
        one = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return one if self.slices == 1 else f"{self.slices} x {one}"

    def devices(self) -> Sequence[Any]:
        """Devices to compile for, none of which is here.

        Raises ConfigError when libtpu is not installed or knows no such slice.
        """
        import importlib.util
        import os

        if importlib.util.find_spec("libtpu") is None:
            raise ConfigError("planning compiles with libtpu, which is missing: pip install 'jax[tpu]'")
        # Nothing here runs on a TPU: neither ask a metadata server for one nor claim it.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        import jax
        from jax.experimental import topologies

        name = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        try:
            described = topologies.get_topology_desc(
                platform="tpu", topology_name=name, num_slices=self.slices
            )
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"--topology {name}: libtpu refuses it: {reason}") from error
        return described.devices

    def rate(self, group: Sequence[tuple[tuple[int, ...], int]]) -> tuple[float, bool]:
        """Bytes a second, one way, that a chip can exchange within a group, and whether over ICI.

        Args:
            group: (coordinates, slice) of each chip. Along a dimension that the group fills and that
                closes into a ring a chip has two links, along any other that it spans one.
        """
        if len({where for _, where in group}) > 1:
            return self.chip.dcn_rate, False
        links = 0
        for axis, size in enumerate(self.shape):
            spans = len({coords[axis] for coords, _ in group})
            if spans > 1:
                rings = spans == size and size > 2 and size % self.chip.wraps_at == 0
                links += 2 if rings else 1
        return max(1, links) * self.chip.link_rate, True
