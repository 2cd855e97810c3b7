"""What a listing holds of a source before it is read: enough to read it in another process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ListLine:
    """A line of a JSON list.

    Attributes:
        order: Position among all sources of the run, from 0.
        file: Path or address of the list.
        number: Number of the line, from 1.
        text: The line in UTF-8; None for one that is too long to be read.
    """

    order: int
    file: str
    number: int
    text: bytes | None


@dataclass(frozen=True)
class FolderVideo:
    """A video of a folder, with the files that lie beside it.

    Attributes:
        order: Position among all sources of the run, from 0.
        video: Path or address of the video; "" where only its metadata are there.
        stem: Path or address without the ending, by which the files belong together.
        info: Path or address of yt-dlp's info.json; "" for none.
        captions: Language (as the name has it, "" for none) and path of each caption file, sorted.
    """

    order: int
    video: str
    stem: str
    info: str = ""
    captions: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The name without folder and ending."""
        return self.stem.rpartition("/")[2]


Entry = ListLine | FolderVideo
