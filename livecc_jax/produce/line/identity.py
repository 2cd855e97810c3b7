"""What stands behind the names of files in parameters: another model of the same name gives other
results."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from livecc_jax.produce.line.workspace import hash_bytes
from livecc_jax.produce.parameters import Parameters

# Fields of each stage that name files, folders or models.
FILE_FIELDS = {
    "words": ("speech_model",),
    "decontamination": ("evaluation_sets",),
    "text": ("text_model",),
    "faces": ("face_model",),
    "prompts": ("prompt_model", "prompt_file"),
}
MAX_FILES = 10_000
SMALL_BYTES = 1 << 20  # of a file whose content is compared, rather than its size


def file_identities(stage: str, parameters: Parameters) -> list[str]:
    """Returns a digest of what each file or folder holds that a stage's parameters name."""
    names: list[str] = []
    for field in FILE_FIELDS.get(stage, ()):
        value = getattr(parameters, field)
        names += [value] if isinstance(value, str) else list(value)
    return [identity(name) for name in names]


@functools.cache
def identity(name: str) -> str:
    """Returns a digest of a file's or folder's content: names and sizes, and small files whole.

    It does not depend on where they lie. "" for what is no file: an address or a model's name.
    """
    path = Path(name.rpartition(":")[0] if name.endswith(".py") is False and ".py:" in name else name)
    if not name or not path.exists():
        return ""
    files = [path] if path.is_file() else []
    if path.is_dir():
        for folder, folders, inner in os.walk(path):
            folders.sort()
            files += [Path(folder) / n for n in sorted(inner)]
            if len(files) > MAX_FILES:
                break
    parts = []
    for file in files[:MAX_FILES]:
        try:
            size = file.stat().st_size
            parts.append(f"{file.relative_to(path) if path.is_dir() else ''} {size}".encode())
            if size <= SMALL_BYTES:
                parts.append(file.read_bytes())
        except OSError:
            continue
    return hash_bytes(*parts)
