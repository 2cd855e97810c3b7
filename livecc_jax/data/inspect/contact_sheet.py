"""A packed row as a picture: its frames with the words of their turns under them."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import numpy as np

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.inspect.row import InspectedRow, shortened_text
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.data.rows.row import Row
from livecc_jax.families.qwen2_vl import CHANNELS, TEMPORAL
from livecc_jax.redact import displayable
from livecc_jax.writing import atomic_file

TILE_WIDTH = 180  # width of a frame in pixels
TILES_PER_LINE = 8
TEXT_HEIGHT = 17  # height of a line of text in pixels
TEXT_LINES = 4  # lines of words under a frame
TEXT_CHARACTERS = 26  # characters of a line of words
MARGIN = 6
WIDTH = TILES_PER_LINE * (TILE_WIDTH + MARGIN) + MARGIN
BLACK, GREY = (0, 0, 0), (120, 120, 120)


def row_pictures(row: Row) -> list[np.ndarray]:
    """Reassembles the second frame of each frame pair of a row from its patches, in order.

    Returns:
        uint8 [H, W, 3] RGB for each frame pair.
    """
    pictures = []
    side = math.isqrt(row["patches"].shape[-1] // (CHANNELS * TEMPORAL))  # pixels of a patch
    for window in range(len(row["patches"])):
        pairs = row["patch_pairs"][window]
        for pair in range(1, int(pairs.max()) + 1):
            in_pair = np.flatnonzero(pairs == pair)
            rows, cols = row["patch_rows"][window, in_pair], row["patch_cols"][window, in_pair]
            grid = np.zeros((rows.max() + 1, cols.max() + 1, side, side, CHANNELS), np.uint8)
            values = row["patches"][window, in_pair]
            values = values.reshape(-1, CHANNELS, TEMPORAL, side, side)
            grid[rows, cols] = values[:, :, 1].transpose(0, 2, 3, 1)
            h, w = grid.shape[:2]
            picture = grid.transpose(0, 2, 1, 3, 4).reshape(h * side, w * side, CHANNELS)
            pictures.append(picture)
    return pictures


def _captions(example: EncodedExample) -> list[tuple[str, str]]:
    """Returns a title and words for each frame pair of an example.

    The words of a turn stand under its last frame pair.
    """
    captions = []
    if example.turns:
        times = example.media[0].times_us / 1e6
        for turn in example.turns:
            stop = turn.first_frame + turn.num_frames
            for first in range(turn.first_frame, stop, TEMPORAL):
                words = (turn.text or "...") if first + TEMPORAL == stop else ""
                captions.append((f"{times[first + 1]:.2f} s", words))
        return captions
    for media in example.media:
        times = media.times_us / 1e6
        for pair in range(media.pairs):
            captions.append((f"{times[TEMPORAL * pair + 1]:.2f} s" if len(times) else "image", ""))
    if captions:
        captions[-1] = (captions[-1][0], shortened_text(example))
    return captions


def draw_contact_sheet(source: RowSource, inspected: InspectedRow, path: str | Path) -> None:
    """Writes the row's frame pairs with their words as a PNG.

    Raises:
        OutputError: The file cannot be written.
    """
    import cv2

    pictures, bands = iter(row_pictures(inspected.row)), []
    for segment, (number, example) in enumerate(inspected.segments, 1):
        file, line = source.mixture.location(number)
        title = (
            f"segment {segment}: example {number}, {Path(displayable(file)).name} line {line}, "
            f"{example.tokens} tokens, {example.targets} targets"
        )
        if not example.media:
            title += f": {shortened_text(example)}"
        header = np.full((TEXT_HEIGHT + 2 * MARGIN, WIDTH, 3), 225, np.uint8)
        _write(header, title, MARGIN, MARGIN + TEXT_HEIGHT - 4)
        bands.append(header)
        tiles = [_tile(next(pictures), *caption) for caption in _captions(example)]
        for first in range(0, len(tiles), TILES_PER_LINE):
            bands.append(_band(tiles[first : first + TILES_PER_LINE]))
    sheet = np.concatenate(bands) if bands else np.full((TEXT_HEIGHT, WIDTH, 3), 255, np.uint8)
    ok, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if ok:
        with atomic_file(path) as file:
            file.write(data.tobytes())


def _band(tiles: list[np.ndarray]) -> np.ndarray:
    """Returns tiles next to one another, over the width of the sheet."""
    band = np.full((max(map(len, tiles)) + MARGIN, WIDTH, 3), 255, np.uint8)
    for column, tile in enumerate(tiles):
        left = MARGIN + column * (TILE_WIDTH + MARGIN)
        band[MARGIN : MARGIN + len(tile), left : left + TILE_WIDTH] = tile
    return band


def _tile(picture: np.ndarray, title: str, words: str) -> np.ndarray:
    """Returns a frame with its title and words under it."""
    import cv2

    height = max(1, round(len(picture) * TILE_WIDTH / picture.shape[1]))
    tile = np.full((height + TEXT_HEIGHT * (1 + TEXT_LINES), TILE_WIDTH, 3), 255, np.uint8)
    tile[:height] = cv2.resize(picture, (TILE_WIDTH, height), interpolation=cv2.INTER_AREA)
    lines = textwrap.wrap(words, TEXT_CHARACTERS, max_lines=TEXT_LINES, placeholder=" ...")
    for i, line in enumerate([title, *lines]):
        _write(tile, line, 2, height + TEXT_HEIGHT * (i + 1) - 4, BLACK if i else GREY)
    return tile


def _write(
    picture: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int] = BLACK
) -> None:
    """Draws a line of text in place; OpenCV before version 5 has only ASCII letters."""
    import cv2

    if hasattr(cv2, "FontFace") and int(cv2.__version__.split(".")[0]) >= 5:
        cv2.putText(picture, text, (x, y), colour, cv2.FontFace("sans"), 13)
    else:
        ascii_text = text.encode("ascii", "replace").decode()
        cv2.putText(picture, ascii_text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
