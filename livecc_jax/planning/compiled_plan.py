"""The base of the two plans: memory, collectives and roofline times of programs compiled for a slice.

`planning.training` plans the training step, `planning.streaming` the steps of an engine. Both compile
the real programs ahead of time for a TPU slice that is not there, and read their costs off the result.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from jax.sharding import Mesh

from livecc_jax.errors import ConfigError
from livecc_jax.parallel.mesh import slice_index
from livecc_jax.planning.chips import GIB, Topology
from livecc_jax.planning.hlo import Program, parse_out_of_memory


class DoesNotFitError(ConfigError):
    """The compiler found that a program needs more memory than a chip has."""


@dataclass(frozen=True)
class CompiledPlan(ABC):
    """What every plan has: the slice, its mesh, the memory of a chip, and how to print and save it.

    Attributes:
        topology: Name of the slice or slices.
        chips: Number of chips of all slices.
        mesh: Size of every mesh axis.
        memory: Bytes of one chip, by use.
        hbm: Bytes that a program may use of a chip.
        compile_seconds: Time that compiling took.
    """

    topology: str
    chips: int
    mesh: dict[str, int]
    memory: dict[str, float]
    hbm: float
    compile_seconds: float

    # Names of properties that `to_json` adds to the fields.
    DERIVED: ClassVar[tuple[str, ...]] = ("used", "fits")

    @property
    def used(self) -> float:
        """Bytes of HBM that a chip needs."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the memory of a chip is large enough."""
        return self.used <= self.hbm

    def to_json(self) -> dict[str, Any]:
        """Returns every value by name."""
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in self.DERIVED}

    @property
    def mesh_text(self) -> str:
        """The mesh axes larger than 1, such as "fsdp 64 x context 2"."""
        return " x ".join(f"{axis} {n}" for axis, n in self.mesh.items() if n > 1) or "one chip"

    def describe(self) -> str:
        """Returns the plan as text of several lines."""
        total = f"HBM a chip: {self.used / GIB:.2f} of {self.hbm / GIB:.2f} GiB"
        lines = [
            f"{self.topology}: {self.chips} chips as {self.mesh_text}, {self.workload()}",
            self.compilation(),
            "",
            total + ("" if self.fits else "  DOES NOT FIT"),
            *(f"  {name:28s} {size / GIB:9.2f} GiB" for name, size in self.memory.items()),
            "",
            *self.cost_lines(),
        ]
        return "\n".join(lines)

    def compilation(self) -> str:
        """Returns a line about the cost of compiling."""
        return f"compiled in {self.compile_seconds:.0f} s"

    @abstractmethod
    def workload(self) -> str:
        """Returns a clause about what the chips are to do."""

    @abstractmethod
    def cost_lines(self) -> list[str]:
        """Returns the lines about arithmetic, traffic and time."""


@dataclass(frozen=True)
class NetworkTraffic:
    """What one chip sends during one execution of a program.

    Attributes:
        sent: Bytes by kind of collective; collectives between slices have a name of their own.
        chip_seconds: Time of the links between chips of a slice, if nothing else took time.
        slice_seconds: Time of the network between slices, if nothing else took time.
    """

    sent: dict[str, float]
    chip_seconds: float
    slice_seconds: float


def network_traffic(program: Program, topology: Topology, mesh: Mesh) -> NetworkTraffic:
    """Adds up the collectives of a compiled program at the rates of the links that they use."""
    coordinates = [(tuple(d.coords), slice_index(d)) for d in mesh.devices.flat]
    sent: dict[str, float] = {}
    chip_seconds = slice_seconds = 0.0
    for collective in program.collectives:
        rate, within_slice = topology.rate([coordinates[i] for i in collective.group])
        kind = collective.kind if within_slice else f"{collective.kind} between slices"
        sent[kind] = sent.get(kind, 0.0) + collective.sent
        if within_slice:
            chip_seconds += collective.sent / rate
        else:
            slice_seconds += collective.sent / rate
    return NetworkTraffic(sent, chip_seconds, slice_seconds)


def compile_for_slice(traced: Any, topology: Topology, what: str, advice: str) -> Any:
    """Compiles a traced program (`jax.stages.Traced`) for a slice.

    Args:
        traced: The traced program.
        topology: The slice, for the error message.
        what: Name of the program in the error message.
        advice: End of the error message.

    Raises:
        DoesNotFitError: The program needs more memory than a chip has.
    """
    try:
        return traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        shortage = parse_out_of_memory(str(error))
        if shortage is None:
            raise
        needed, available = shortage
        raise DoesNotFitError(
            f"{what} does not fit on {topology}: it needs {needed} a chip, of {available}{advice}"
        ) from error


def temporary_bytes(compiled: Any) -> float:
    """Returns the bytes that a compiled program needs of a chip besides its arguments and its code."""
    analysis = compiled.memory_analysis()
    size = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return float(size - analysis.alias_size_in_bytes)


def code_bytes(compiled: Any) -> float:
    """Returns the bytes of the code of a compiled program."""
    return float(compiled.memory_analysis().generated_code_size_in_bytes)


def bytes_per_device(tree: Any) -> float:
    """Returns the bytes of one device's shard of every array of a tree."""
    leaves = jax.tree.leaves(tree)
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves))
