"""Paths and addresses of data files, and how an index stores them relative to a root.

Relative paths let an index and its data be moved together.
"""

from __future__ import annotations

import os
import posixpath


def is_remote(path: str) -> bool:
    """Returns whether the path is an address in a bucket, such as `gs://bucket/name`."""
    return "://" in path


def join(folder: str, path: str) -> str:
    """Joins a path to a folder; either may be local or an address."""
    if is_remote(path) or os.path.isabs(path):
        return path
    return normalize(f"{folder}/{path}") if is_remote(folder) else os.path.join(folder, path)


def normalize(address: str) -> str:
    """Removes `.` and `..` from an address."""
    scheme, rest = address.split("://", 1)
    lead = "/" if rest.startswith("/") else ""
    return f"{scheme}://{lead}{posixpath.normpath(rest).lstrip('/')}"


def absolute_path(path: str) -> str:
    """Returns the absolute form of a local path, without `.` and `..`, for the same file.

    The parent of a symbolic link is that of the folder it leads to, as for the file system. Other links
    stay in the path.
    """
    parts = os.path.join(os.getcwd(), path).split(os.sep)
    clean = os.sep
    for part in parts:
        if part == os.pardir:
            clean = os.path.dirname(os.path.realpath(clean) if os.path.islink(clean) else clean)
        elif part not in ("", os.curdir):
            clean = os.path.join(clean, part)
    return clean


def folder_of(path: str) -> str:
    """Returns the folder that holds a file; the path may be local or an address."""
    return path.rsplit("/", 1)[0] if is_remote(path) else os.path.dirname(path)


def common_root(folders: list[str]) -> str:
    """Returns the deepest folder that contains all folders.

    The result is "" when there is none, as for folders in two kinds of store.
    """
    if all(map(is_remote, folders)):
        shared: list[str] = []
        for names in zip(*(f.split("/") for f in folders)):
            if len(set(names)) > 1:
                break
            shared.append(names[0])
        return "/".join(shared) if len(shared) > 2 else ""
    if any(map(is_remote, folders)):
        return ""
    return os.path.commonpath([absolute_path(f) for f in folders])


def relative_to_root(path: str, folder: str, root: str) -> str:
    """Returns a path in the form in which an index stores it.

    Args:
        path: Path of a file. A path that was relative in the annotation file is joined to `folder`.
        folder: Folder of the annotation file.
        root: Root of the index.

    Returns:
        A path relative to the root when the file lies in the root or when its path was relative to the
        annotation file; otherwise an absolute path.
    """
    if is_remote(path) or is_remote(root):
        clean = normalize(path) if is_remote(path) else absolute_path(path)
        in_root = is_remote(root) and clean.startswith(normalize(root) + "/")
        return clean[len(normalize(root)) + 1 :] if in_root else clean
    clean = absolute_path(path)
    if not root:
        return clean
    was_relative = path.startswith(os.path.join(folder, "")) if folder else not os.path.isabs(path)
    in_root = clean.startswith(os.path.join(root, ""))
    return os.path.relpath(clean, root) if was_relative or in_root else clean


def resolve(path: str, root: str) -> str:
    """Returns the absolute form of a path that an index stores."""
    if is_remote(path) or os.path.isabs(path):
        return path
    if is_remote(root):
        return normalize(f"{root}/{path}")
    return os.path.normpath(os.path.join(root, path))
