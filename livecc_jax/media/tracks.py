"""Chooses the video track of a file that holds several: not a cover, a thumbnail or a small preview."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from livecc_jax.errors import MediaError
from livecc_jax.media.rules import MediaRules

if TYPE_CHECKING:
    import av

log = logging.getLogger(__name__)

SHORT = 0.5  # a track shorter than this share of the longest one is not the main one
STILL = 0.02  # nor is one shorter than this, even where it is marked as default: it is a picture
CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")  # a duration in Matroska's tags


def choose_track(
    name: str, container: av.container.InputContainer, rules: MediaRules
) -> av.VideoStream:
    """Returns the video track that is shown.

    Attached pictures and thumbnails are passed over. Among the other tracks, those that can be decoded,
    that hold more than one picture and that are marked as default come first, then those that are not
    much shorter than the longest, then the one with the most pixels, then the first.

    Args:
        name: Name of the file or address, for error messages.
        container: The open file.
        rules: Its `track`, if any, is the number of the track to take.

    Raises:
        MediaError: There is no such track, the file holds no video besides attached pictures, or its
            codec is not supported.
    """
    tracks = container.streams.video
    if not tracks:
        raise MediaError(f"{name}: holds no video stream")
    if rules.track is not None or rules.version == 1:
        number = rules.track or 0
        if number >= len(tracks):
            numbers = f"only 0 to {len(tracks) - 1}" if len(tracks) > 1 else "only 0"
            raise MediaError(f"{name}: has no video track {number}, {numbers}")
        stream = tracks[number]
    else:
        candidates = [track for track in tracks if not _is_attached(track)]
        if not candidates:
            raise MediaError(f"{name}: holds no video, only an attached picture")
        longest = max(map(_seconds, candidates))
        stream = max(candidates, key=lambda track: (*_rank(track, longest), -track.index))
        if len(candidates) > 1:
            log.debug("%s: shows video track %d of %d", name, tracks.index(stream), len(tracks))
    if rules.version > 1 and _is_tile(container, stream):
        raise MediaError(
            f"{name}: is a still picture stored in tiles, not a video; give it as an image"
        )
    if stream.codec_context is None:
        raise MediaError(f"{name}: its video codec cannot be decoded by this build of FFmpeg")
    return stream


def _is_attached(stream: av.VideoStream) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _is_tile(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether a track is one tile of an AVIF or HEIC picture: a single frame that depends on others."""
    from av.stream import Disposition

    is_dependent = bool(stream.disposition & Disposition.dependent)
    return is_dependent and "mp4" in container.format.name and stream.frames == 1


def _rank(stream: av.VideoStream, longest: float) -> tuple[bool, bool, bool, bool, bool, int]:
    """Returns what decides between two tracks, the most important first; larger is better.

    Args:
        stream: A track.
        longest: Seconds of the file's longest video track.
    """
    from av.stream import Disposition

    context, disposition, seconds = stream.codec_context, stream.disposition, _seconds(stream)
    secondary = Disposition.dependent | Disposition.non_diegetic | Disposition.still_image
    return (
        context is not None,
        not disposition & secondary,
        stream.frames != 1 and not 0 < seconds < min(1.0, STILL * longest),  # 0 is unknown
        bool(disposition & Disposition.default),
        not seconds or seconds >= SHORT * longest,
        context.width * context.height if context is not None else 0,
    )


def _seconds(stream: av.VideoStream) -> float:
    """Returns the length of a track; 0 if the file does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    for key, value in stream.metadata.items():
        if key.upper().startswith("DURATION") and (match := CLOCK.match(value)):
            hours, minutes, seconds = match.groups()
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    return 0.0
