"""Reads a compiled program (HLO text): traffic between chips and to memory, loops multiplied out.

Ours, because XLA's own count leaves kernels out and counts the body of a loop once.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

from livecc_jax.planning.replica_groups import first_replica_group

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "token": 0}
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
# XLA has two messages about too little memory: while it places buffers, or before that.
_OUT_OF_MEMORY = re.compile(
    r"(?:Used |temporaries \()([\d.]+)([GM])(?: of |\) exceeds available HBM \()([\d.]+)G"
)

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_CALLS = re.compile(
    r"(calls|body|condition|branch_computations|true_computation|false_computation|"
    r"called_computations|to_apply)=(\{[^}]*\}|%[\w.\-]+)"
)
# Operations that neither read nor write memory by themselves.
_NO_TRAFFIC = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
    "after-all", "partition-id", "replica-id", "iota", "copy-done", "slice-done", "async-done",
    "async-update", "optimization-barrier",
)  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: Name of the result.
        result_type: Type of the result, as text.
        opcode: Name of the operation.
        arguments: Text between the parentheses.
        operands: Names of the operands.
        attributes: Text after the parentheses.
    """

    name: str
    result_type: str
    opcode: str
    arguments: str
    operands: tuple[str, ...]
    attributes: str


Computations = dict[str, dict[str, Instruction]]


@dataclass
class Collective:
    """All collectives of one kind over the same groups of devices.

    Attributes:
        kind: One of COLLECTIVES.
        group: Indices in the mesh of the devices of the first group.
        bytes: Size of the full (gathered, or not yet reduced) array, over all executions.
    """

    kind: str
    group: tuple[int, ...]
    bytes: float = 0.0

    @property
    def sent(self) -> float:
        """Bytes that each device sends with an optimal algorithm."""
        n = len(self.group)
        if self.kind == "collective-permute":
            return self.bytes
        return self.bytes * (n - 1) / n * (2 if self.kind == "all-reduce" else 1)


@dataclass
class Program:
    """Totals of one device for one execution.

    Attributes:
        collectives: The collectives, by kind and group.
        memory_bytes: Bytes read from and written to HBM.
        unknown_loops: Names of loops whose length could not be determined.
    """

    collectives: list[Collective]
    memory_bytes: float
    unknown_loops: list[str] = field(default_factory=list)


def read_program(text: str, devices: int, unknown_trips: float = 1.0) -> Program:
    """Adds up the traffic of an optimised HLO module.

    Args:
        text: The module as text.
        devices: Number of partitions.
        unknown_trips: How often loops of unknown length are assumed to run.
    """
    computations, entry = _parse(text)
    collectives: dict[tuple[str, tuple[int, ...]], Collective] = {}
    unknown_loops: list[str] = []
    memory = 0.0
    for name, runs in _count_runs(computations, entry, unknown_loops, unknown_trips).items():
        body = computations[name]
        for op in body.values():
            if not runs.in_kernel:
                memory += runs.times * _traffic(op, body, computations)
            kind = op.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            group = first_replica_group(op.attributes, devices)
            if len(group) < 2:
                continue
            # The result of an operation that starts a collective includes its input.
            sizes = _sizes(op.result_type)
            size = max(sizes) if op.opcode.endswith("-start") else sum(sizes)
            if kind == "reduce-scatter":
                size *= len(group)
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # XLA fuses it with the slice of its result
            total = collectives.setdefault((kind, group), Collective(kind, group))
            total.bytes += runs.times * size
    return Program(list(collectives.values()), memory, unknown_loops)


def _parse(text: str) -> tuple[Computations, str]:
    """Returns all computations of a module and the name of its entry."""
    computations: Computations = {}
    entry, current = "", {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
            continue
        match = _LINE.match(line)
        if match:
            current[match[2]] = _instruction(match[2], match[3])
    return computations, entry


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    result_type, call = text[:end], text[end:].lstrip()
    start = call.index("(")
    stop = _closing(call, start)
    arguments = call[start + 1 : stop]
    operands = tuple(_NAME.findall(arguments))
    return Instruction(name, result_type, call[:start], arguments, operands, call[stop + 1 :])


def _closing(text: str, start: int) -> int:
    """Returns the index at which the parenthesis that opens at `start` closes."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index
    return len(text) - 1


@dataclass
class _Runs:
    times: float = 0.0
    in_kernel: bool = False  # part of a fused kernel, so its values are never in memory


def _count_runs(
    computations: Computations, entry: str, unknown_loops: list[str], unknown_trips: float
) -> dict[str, _Runs]:
    """Returns how often each computation runs; appends loops of unknown length to `unknown_loops`."""
    runs: dict[str, _Runs] = defaultdict(_Runs)
    todo: list[tuple[str, float, bool]] = [(entry, 1.0, False)]
    while todo:
        name, times, in_kernel = todo.pop()
        runs[name].times += times
        runs[name].in_kernel |= in_kernel
        for op in computations[name].values():
            for attribute, called in _CALLS.findall(op.attributes):
                if attribute == "to_apply" and op.opcode != "call":
                    continue  # the scalar function of a reduction
                repeats = 1.0
                if attribute in ("body", "condition"):
                    repeats = _trips(op, computations)
                    if not repeats:
                        repeats = unknown_trips
                        if op.name not in unknown_loops:
                            unknown_loops.append(op.name)
                fused = in_kernel or op.opcode in ("fusion", "async-start")
                todo += [
                    (callee, times * repeats, fused)
                    for callee in _NAME.findall(called)
                    if callee in computations
                ]
    return runs


def _trips(op: Instruction, computations: Computations) -> float:
    """Returns how often a while loop runs, from XLA's annotation or from the constant in its condition.

    0 if neither is there.
    """
    annotation = re.search(r'known_trip_count":\{"n":"(\d+)"', op.attributes)
    if annotation:
        return float(annotation[1])
    condition = re.search(r"condition=%([\w.\-]+)", op.attributes)
    body = computations.get(condition[1], {}) if condition else {}
    limits = {
        int(x.arguments)
        for x in body.values()
        if x.opcode == "constant" and re.fullmatch(r"[su]\d+\[\](\{.*\})?", x.result_type)
    }
    return float(limits.pop()) if len(limits) == 1 else 0.0


def _sizes(result_type: str, *, memory_only: bool = False) -> list[float]:
    """Returns 0 and the bytes of every array of a type.

    Args:
        result_type: The type as text.
        memory_only: Leave out arrays in on-chip or host memory.
    """
    sizes = [0.0]
    for dtype, dims, layout in _ARRAY.findall(result_type):
        if memory_only and re.search(r"S\([1-9]\)", layout):
            continue
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(digits[0]) if digits else 0)
        sizes.append(math.prod(int(n) for n in dims.split(",") if n) * bits / 8)
    return sizes


def _traffic(op: Instruction, body: dict[str, Instruction], computations: Computations) -> float:
    """Returns the bytes that one execution of an operation reads from and writes to HBM.

    Of an array that is only sliced, or updated in place, the accessed part counts. A Pallas kernel
    counts as reading and writing each of its arrays once.
    """
    if op.opcode in _NO_TRAFFIC:
        return 0.0

    def size(name: str) -> float:
        return sum(_sizes(body[name].result_type, memory_only=True)) if name in body else 0.0

    result = sum(_sizes(op.result_type, memory_only=True))
    if op.opcode == "copy-start":  # its result has both the source and the destination
        source = body.get(op.operands[0])
        return result if source else 0.0
    if op.opcode == "slice-start":  # its result has the array and the slice, often on the chip
        slice_size, array_size = _sizes(op.result_type)[2], size(op.operands[0])
        return slice_size * ((array_size > 0) + (result > array_size))
    if op.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * result
    if op.opcode == "dynamic-update-slice":
        return 2 * size(op.operands[1])
    if op.opcode != "fusion":
        return result + sum(map(size, op.operands))

    called = re.search(r"calls=%([\w.\-]+)", op.attributes)
    fused = computations.get(called[1], {}) if called else {}
    total = 0.0
    in_place = [x for x in fused.values() if x.opcode == "dynamic-update-slice"]
    for parameter in fused.values():
        if parameter.opcode != "parameter":
            continue
        name = op.operands[int(parameter.arguments)]
        users = [x for x in fused.values() if parameter.name in x.operands]
        if any(x.operands[0] == parameter.name for x in in_place):
            result -= min(result, size(name))  # it is updated in place, not written again
            continue
        if users and all(x.opcode in ("dynamic-slice", "slice", "gather") for x in users):
            total += min(size(name), sum(sum(_sizes(x.result_type)) for x in users))
        else:
            total += size(name)
    updates = [fused[x.operands[1]] for x in in_place if x.operands[1] in fused]
    updated = sum(sum(_sizes(x.result_type)) for x in updates)
    return total + result + updated


def parse_out_of_memory(message: str) -> tuple[str, str] | None:
    """Reads the error message of a compiler that ran out of memory.

    Returns:
        (needed, available) memory of a chip as text, such as ("20.1 GiB", "15.75 GiB"); None if the
        message is about something else.
    """
    match = _OUT_OF_MEMORY.search(message)
    if match is None:
        return None
    used = float(match[1]) / (1 if match[2] == "G" else 1024)
    return f"{used:.1f} GiB", f"{match[3]} GiB"
