"""Shows transparent parts of decoded video frames over white, as those of images are shown."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter


def over_white(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray | None:
    """Returns a frame over white, uint8 [H, W, 3] RGB; None if no pixel of it is transparent.

    Args:
        frame: A decoded frame.
        reformatter: Converts it.
    """
    if not _may_be_transparent(frame.format.name):
        return None
    rgba = reformatter.reformat(frame, format="rgba", interpolation="BICUBIC", threads=1).to_ndarray()
    alpha = rgba[..., 3:].astype(np.uint16)
    if (alpha == 255).all():
        return None
    # Rounded to the nearest: x / 255 = (x + 128 + (x + 128) / 256) / 256 in integers.
    x = rgba[..., :3] * alpha + 255 * (255 - alpha) + 128
    return ((x + (x >> 8)) >> 8).astype(np.uint8)


@functools.cache
def _may_be_transparent(pixel_format: str) -> bool:
    """Whether pixels of a format have an alpha channel, or a palette, which may have one."""
    from av import VideoFormat

    described = VideoFormat(pixel_format)
    return described.has_palette or any(c.is_alpha for c in described.components)
