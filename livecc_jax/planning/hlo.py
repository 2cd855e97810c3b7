"""Reading a compiled program: what it moves between chips and through memory, loops counted."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "token": 0}
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
# Two wordings of having too little memory: found while buffers are placed, or before.
_USED = re.compile(
    r"(?:Used |temporaries \()([\d.]+)([GM])(?: of |\) exceeds available HBM \()([\d.]+)G"
)

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_CALLS = re.compile(
    r"(calls|body|condition|branch_computations|true_computation|false_computation|"
    r"called_computations|to_apply)=(\{[^}]*\}|%[\w.\-]+)"
)
# What neither reads nor writes memory by itself.
_FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
    "after-all", "partition-id", "replica-id", "iota", "copy-done", "slice-done", "async-done",
    "async-update", "optimization-barrier",
)  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    kind: str  # of its result, as written
    opcode: str
    arguments: str  # between the parentheses
    operands: tuple[str, ...]
    rest: str  # everything after them


Computations = dict[str, dict[str, Instruction]]


@dataclass
class Collective:
    """One kind of exchange within one kind of group."""

    kind: str
    group: tuple[int, ...]  # positions in the mesh of the first group's devices
    bytes: float = 0.0  # of the whole (gathered, or not yet reduced) array, over all executions

    @property
    def sent(self) -> float:
        """Bytes that each device sends if the exchange wastes nothing."""
        n = len(self.group)
        if self.kind == "collective-permute":
            return self.bytes
        return self.bytes * (n - 1) / n * (2 if self.kind == "all-reduce" else 1)


@dataclass
class Program:
    """Per-device totals of one execution."""

    collectives: list[Collective]
    memory_bytes: float  # read from and written to HBM
    unknown_loops: list[str] = field(default_factory=list)  # whose length nobody knows


def read_program(text: str, devices: int, unknown_trips: float = 1.0) -> Program:
    """Total up an optimised HLO module of `devices` partitions.

    Loops of unknown length are taken to run `unknown_trips` times.
    """
    computations, entry = _parse(text)
    found: dict[tuple[str, tuple[int, ...]], Collective] = {}
    unknown: list[str] = []
    memory = 0.0
    for name, runs in _executions(computations, entry, unknown, unknown_trips).items():
        body = computations[name]
        for op in body.values():
            if not runs.inside:
                memory += runs.times * _traffic(op, body, computations)
            kind = op.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            group = _first_group(op.rest, devices)
            if len(group) < 2:
                continue
            # What starts an exchange has both ends in its result.
            sizes = _sizes(op.kind)
            size = max(sizes) if op.opcode.endswith("-start") else sum(sizes)
            if kind == "reduce-scatter":
                size *= len(group)
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # fused with the slice of it that is kept
            total = found.setdefault((kind, group), Collective(kind, group))
            total.bytes += runs.times * size
    return Program(list(found.values()), memory, unknown)


def _parse(text: str) -> tuple[Computations, str]:
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
    kind, call = text[:end], text[end:].lstrip()
    start = call.index("(")
    stop = _closing(call, start)
    arguments = call[start + 1 : stop]
    return Instruction(
        name, kind, call[:start], arguments, tuple(_NAME.findall(arguments)), call[stop + 1 :]
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if not depth:
            return at
    return len(text) - 1


@dataclass
class _Runs:
    times: float = 0.0
    inside: bool = False  # part of one kernel, so its values never are in memory


def _executions(
    computations: Computations, entry: str, unknown: list[str], unknown_trips: float = 1.0
) -> dict[str, _Runs]:
    """How often each computation runs."""
    runs: dict[str, _Runs] = defaultdict(_Runs)
    todo: list[tuple[str, float, bool]] = [(entry, 1.0, False)]
    while todo:
        name, times, inside = todo.pop()
        runs[name].times += times
        runs[name].inside |= inside
        for op in computations[name].values():
            for attribute, called in _CALLS.findall(op.rest):
                if attribute == "to_apply" and op.opcode != "call":
                    continue  # the scalar function of a reduction
                repeats = 1.0
                if attribute in ("body", "condition"):
                    repeats = _trips(op, computations)
                    if not repeats:
                        repeats = unknown_trips
                        if op.name not in unknown:
                            unknown.append(op.name)
                deeper = inside or op.opcode in ("fusion", "async-start")
                todo += [
                    (callee, times * repeats, deeper)
                    for callee in _NAME.findall(called)
                    if callee in computations
                ]
    return runs


def _trips(op: Instruction, computations: Computations) -> float:
    """How often a while loop runs: as XLA says, or as its condition compares; 0 if neither tells."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', op.rest)
    if known:
        return float(known[1])
    condition = re.search(r"condition=%([\w.\-]+)", op.rest)
    body = computations.get(condition[1], {}) if condition else {}
    limits = {
        int(x.arguments)
        for x in body.values()
        if x.opcode == "constant" and re.fullmatch(r"[su]\d+\[\](\{.*\})?", x.kind)
    }
    return float(limits.pop()) if len(limits) == 1 else 0.0


def _sizes(kind: str, *, memory_only: bool = False) -> list[float]:
    """Bytes of every array in a type; those in on-chip or host memory left out if asked."""
    sizes = [0.0]
    for dtype, dims, layout in _ARRAY.findall(kind):
        if memory_only and re.search(r"S\([1-9]\)", layout):
            continue
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(digits[0]) if digits else 0)
        sizes.append(math.prod(int(n) for n in dims.split(",") if n) * bits / 8)
    return sizes


def _traffic(op: Instruction, body: dict[str, Instruction], computations: Computations) -> float:
    """Bytes that one execution reads from and writes to HBM.

    Of an array that is only sliced, or updated in place, what is touched counts. A Pallas kernel counts
    as reading and writing each of its arrays once.
    """
    if op.opcode in _FREE:
        return 0.0

    def size(name: str) -> float:
        return sum(_sizes(body[name].kind, memory_only=True)) if name in body else 0.0

    result = sum(_sizes(op.kind, memory_only=True))
    if op.opcode == "copy-start":  # its result names both ends
        source = body.get(op.operands[0])
        return sum(_sizes(op.kind, memory_only=True)) if source else 0.0
    if op.opcode == "slice-start":  # its result names the whole and the slice, often on the chip
        part, whole = _sizes(op.kind)[2], size(op.operands[0])
        return part * ((whole > 0) + (result > whole))
    if op.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * result
    if op.opcode == "dynamic-update-slice":
        return 2 * size(op.operands[1])
    if op.opcode != "fusion":
        return result + sum(map(size, op.operands))

    called = re.search(r"calls=%([\w.\-]+)", op.rest)
    inside = computations.get(called[1], {}) if called else {}
    total = 0.0
    in_place = [x for x in inside.values() if x.opcode == "dynamic-update-slice"]
    for parameter in inside.values():
        if parameter.opcode != "parameter":
            continue
        name = op.operands[int(parameter.arguments)]
        users = [x for x in inside.values() if parameter.name in x.operands]
        if any(x.operands[0] == parameter.name for x in in_place):
            result -= min(result, size(name))  # the same memory, not written anew
            continue
        if users and all(x.opcode in ("dynamic-slice", "slice", "gather") for x in users):
            total += min(size(name), sum(sum(_sizes(x.kind)) for x in users))
        else:
            total += size(name)
    updated = sum(sum(_sizes(inside[x.operands[1]].kind)) for x in in_place if x.operands[1] in inside)
    return total + result + updated


def _first_group(rest: str, devices: int) -> tuple[int, ...]:
    """The devices of the first replica group, in any of the notations XLA has for them."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest)
    if pairs:
        return tuple(sorted({int(pairs[1]), int(pairs[2])}))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    if listed:
        return tuple(int(n) for n in listed[1].split(","))
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if tiled:
        ids = np.arange(devices).reshape([int(n) for n in tiled[3].split(",")])
        if tiled[4]:
            ids = ids.transpose([int(n) for n in tiled[4].split(",")])
        return tuple(int(n) for n in ids.reshape(int(tiled[1]), int(tiled[2]))[0])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?\]?(?:T\([\d,]+\))?)\))?\s*\{([^}]*)\}",
        rest,
    )
    if named:
        order = _device_order(named[2], devices) if named[2] else np.arange(devices)
        return tuple(int(order[i]) for i in _mesh_group(named[1], named[3]))
    return tuple(range(devices))


def _device_order(text: str, devices: int) -> np.ndarray:
    """[2,4]T(1,0): the devices as an array of this shape, transposed; or a list of them."""
    shape, axes = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    numbers = [int(n) for n in shape.split(",")]
    if math.prod(numbers) != devices:
        return np.array(numbers)
    ids = np.arange(devices).reshape(numbers)
    return (ids.transpose([int(n) for n in axes.split(",")]) if axes else ids).ravel()


def _mesh_group(axes: str, members: str) -> tuple[int, ...]:
    """mesh['a'=4,'b'=2] {'a'} or, for part of an axis, {'a':(2)2}: sizes before it and its own."""
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
    chosen = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", members)
    index: list[slice | int | np.ndarray] = [0] * len(sizes)
    for name, before, size in chosen:
        axis = list(sizes).index(name)
        if size:
            index[axis] = np.arange(int(size)) * (sizes[name] // int(before) // int(size))
        else:
            index[axis] = slice(None)
    return tuple(int(n) for n in ids[tuple(index)].ravel())


def wanted_memory(message: str) -> tuple[str, str] | None:
    """What a compiler that ran out of memory wanted of a chip and what there is, as it reads in a
    sentence ("20.1 GiB", "15.75 GiB"); None if the message is about something else.
    """
    found = _USED.search(message)
    if found is None:
        return None
    used = float(found[1]) / (1 if found[2] == "G" else 1024)
    return f"{used:.1f} GiB", f"{found[3]} GiB"
