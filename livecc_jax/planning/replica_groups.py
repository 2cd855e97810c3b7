"""Parses the replica groups of a collective in HLO text, in any of the notations that XLA uses."""

from __future__ import annotations

import math
import re

import numpy as np


def first_replica_group(attributes: str, devices: int) -> tuple[int, ...]:
    """Returns the devices of the first replica group, in any of the notations that XLA uses."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    if pairs:
        return tuple(sorted({int(pairs[1]), int(pairs[2])}))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(int(n) for n in listed[1].split(","))
    tiled = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if tiled:
        ids = np.arange(devices).reshape([int(n) for n in tiled[3].split(",")])
        if tiled[4]:
            ids = ids.transpose([int(n) for n in tiled[4].split(",")])
        return tuple(int(n) for n in ids.reshape(int(tiled[1]), int(tiled[2]))[0])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?\]?(?:T\([\d,]+\))?)\))?\s*\{([^}]*)\}",
        attributes,
    )
    if named:
        order = _device_order(named[2], devices) if named[2] else np.arange(devices)
        return tuple(int(order[i]) for i in _mesh_group(named[1], named[3]))
    return tuple(range(devices))


def _device_order(text: str, devices: int) -> np.ndarray:
    """Returns the devices in the order of a text such as "[2,4]T(1,0)", or of a list of them.

    The example is an array [2, 4] of all devices, transposed.
    """
    shape, axes = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    numbers = [int(n) for n in shape.split(",")]
    if math.prod(numbers) != devices:
        return np.array(numbers)
    ids = np.arange(devices).reshape(numbers)
    return (ids.transpose([int(n) for n in axes.split(",")]) if axes else ids).ravel()


def _mesh_group(axes: str, members: str) -> tuple[int, ...]:
    """Returns the first group along axes of a mesh.

    Args:
        axes: Names and sizes of all axes, such as "'a'=4,'b'=2".
        members: Axes of the group, such as "'a'"; or "'a':(2)2" for a part of an axis, with the size
            before it and its own.
    """
    sizes = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
    group_axes = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", members)
    index: list[slice | int | np.ndarray] = [0] * len(sizes)
    for name, before, size in group_axes:
        axis = list(sizes).index(name)
        if size:
            index[axis] = np.arange(int(size)) * (sizes[name] // int(before) // int(size))
        else:
            index[axis] = slice(None)
    return tuple(int(n) for n in ids[tuple(index)].ravel())
