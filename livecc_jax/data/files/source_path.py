"""Paths in an index: relative to a root, so that index and data can be moved."""

from __future__ import annotations

import os

from livecc_jax.data.files.remote import is_remote, normal


def common_root(folders: list[str]) -> str:
    """The folder that all of these are in: "" when there is none (two kinds of store)."""
    if all(map(is_remote, folders)):
        shared: list[str] = []
        for names in zip(*(f.split("/") for f in folders)):
            if len(set(names)) > 1:
                break
            shared.append(names[0])
        return "/".join(shared) if len(shared) > 2 else ""
    if any(map(is_remote, folders)):
        return ""
    return os.path.commonpath([os.path.abspath(f) for f in folders])


def store(path: str, folder: str, root: str) -> str:
    """A path as the index keeps it.

    Args:
        path: as the annotation gives it, a relative one joined to `folder`.
        folder: of the annotation file.
        root: of the index.

    Returns:
        Relative to the root when it was relative to the annotation file or lies in the root; else
        absolute.
    """
    if is_remote(path) or is_remote(root):
        clean = normal(path) if is_remote(path) else os.path.abspath(path)
        beneath = is_remote(root) and clean.startswith(normal(root) + "/")
        return clean[len(normal(root)) + 1 :] if beneath else clean
    whole = os.path.abspath(path)
    if not root:
        return whole
    given_relative = path.startswith(os.path.join(folder, "")) if folder else not os.path.isabs(path)
    beneath = whole.startswith(os.path.join(root, ""))
    return os.path.relpath(whole, root) if given_relative or beneath else whole


def resolve(path: str, root: str) -> str:
    """A stored path, absolute again."""
    if is_remote(path) or os.path.isabs(path):
        return path
    return normal(f"{root}/{path}") if is_remote(root) else os.path.normpath(os.path.join(root, path))
