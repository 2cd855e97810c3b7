"""What is kept of a source's metadata beside the fields of `Source`, and ids in names."""

from __future__ import annotations

import math
import re
from typing import Any

# Who may have opted out, what a licence allows, and what reports group by.
INFO_KEYS = (
    "license", "channel", "channel_id", "channel_url", "uploader", "uploader_id", "uploader_url",
    "webpage_url", "upload_date", "tags", "fps",
)  # fmt: skip
ROUNDED = "duration_is_rounded"  # in `Source.info`: the duration has whole seconds, as sites give it
# A YouTube id as the whole name, or as yt-dlp puts it behind the title.
_YOUTUBE_ADDRESS = re.compile(
    r"(?:https?://)?(?:[a-z0-9-]+\.)?(?:youtu\.be/|youtube(?:-nocookie)?\.com/"
    r"(?:watch/?\?(?:[^#]*&)?v=|(?:shorts|embed|live|v)/|(?=channel/|@)))"
    r"(?:([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])|channel/([A-Za-z0-9_-]+)|(@[^/?#\s]+))",
    re.IGNORECASE,
)
_YOUTUBE_ID = re.compile(r"([A-Za-z0-9_-]{11})|.*\[([A-Za-z0-9_-]{11})\]", re.DOTALL)


def youtube_id(name: str) -> str:
    """Returns the YouTube id that a file name without its ending is or ends with; "" for none."""
    match = _YOUTUBE_ID.fullmatch(name)
    return (match[1] or match[2]) if match else ""


def names_in_address(text: str) -> set[str]:
    """Returns what an address of YouTube names: a video's id, or a channel's id or handle.

    Args:
        text: An address, with or without `https://`; of any other text nothing is returned.
    """
    match = _YOUTUBE_ADDRESS.match(text.strip())
    return {name for name in match.groups() if name} if match else set()


def clean_text(text: str) -> str:
    """Returns a text in which a question mark stands for each half of a character (a lone
    surrogate).
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def clean_info(value: Any) -> Any:
    """Returns a JSON value that can be written: no halves of characters, and null for what is no
    number.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean_text(key): clean_info(part) for key, part in value.items()}
    return [clean_info(part) for part in value] if isinstance(value, list) else value
