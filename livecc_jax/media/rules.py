"""Rules by which a video file becomes pictures and times, where there is more than one way.

An index records the rules that it was made with, so that its rows stay the same when defaults change.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from livecc_jax.errors import ConfigError, DataError

ASPECTS = ("displayed", "stored")
GAPS = ("next", "previous")
VERSION = 2  # of what has no option; see MediaRules.version


@dataclass(frozen=True)
class MediaRules:
    """How videos are read.

    Attributes:
        track: Number of the video track, counted from 0 among a file's video tracks; None chooses the
            main one (`tracks.choose_track`).
        aspect: Shape of pictures whose pixels are not square: `displayed`, as players show them, or
            `stored`, as if pixels were square (the released reader).
        gap: Picture at a moment of a variable-rate video at which none begins: the `next` one (the
            published rule), or the `previous` one, which is on the screen until the next exists.
        version: Rules without an option. In version 1, that of indexes which record no rules, a file's
            first video track is shown, of a display matrix only the angle is applied, timestamps are
            those of the packets and images are read by OpenCV alone.
    """

    track: int | None = None
    aspect: Literal["displayed", "stored"] = "displayed"
    gap: Literal["next", "previous"] = "next"
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.track is not None and self.track < 0:
            raise ConfigError(f"a video track has a number from 0 on, not {self.track}")

    @property
    def timestamps_key(self) -> str:
        """Text that two rules share if they give every file the same timestamps and size."""
        track = "" if self.track is None else self.track
        return f"version={self.version} track={track} aspect={self.aspect}"

    def to_json(self) -> dict[str, Any]:
        """Returns the rules as a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: Any, path: str) -> MediaRules:
        """Reads the rules of an index.

        Args:
            value: The JSON object; None stands for the rules before indexes recorded them.
            path: Path of the file that holds it, for the error message.

        Raises:
            DataError: The rules are none that this version knows.
        """
        if value is None:
            return EARLIER
        known = (
            isinstance(value, dict)
            and value.keys() == asdict(DEFAULT).keys()
            and value["aspect"] in ASPECTS
            and value["gap"] in GAPS
            and type(value["version"]) is int
            and 1 <= value["version"] <= VERSION
            and (value["track"] is None or (type(value["track"]) is int and value["track"] >= 0))
        )
        if not known:
            raise DataError(
                f"{path}: was made with rules of media that this version does not know "
                f"({value!r:.120}); index again"
            )
        return MediaRules(**value)


DEFAULT = MediaRules()
EARLIER = MediaRules(aspect="stored", version=1)
