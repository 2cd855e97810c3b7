"""Short names of sources, for tables, logs and file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from livecc_jax.media.sources import camera_number, is_live
from livecc_jax.redact import HIDDEN, redact_address


def source_names(sources: Sequence[str]) -> list[str]:
    """Returns a short unique name for each source, fit for a file name and without passwords."""
    names: list[str] = []
    for source in sources:
        camera = camera_number(source)
        if camera is not None:
            name = f"camera-{camera}"
        elif is_live(source):
            place = re.split(r"[?#]", redact_address(source).split("://", 1)[1])[0]
            host, slash, path = place.removeprefix(f"{HIDDEN}@").partition("/")
            name = host.lower() + slash + path
        else:
            name = Path(source).stem
        name = re.sub(r"[^\w.]+", "-", name).strip("-.") or "source"
        unique, number = name, 1
        while unique in names:
            number += 1
            unique = f"{name}-{number}"
        names.append(unique)
    return names
