"""A packed row for a human: which examples it holds, how full it is, its frames over their words."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.data.examples.example import ExamplePlan
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.data.rows.quarantine import Quarantined
from livecc_jax.data.rows.row import Row
from livecc_jax.errors import DataError

PATCH = 14
TILE = 180  # pixels across a frame
COLUMNS = 8
LINE = 17  # pixels of a line of text
LINES = 4  # of words under a frame
MARGIN = 6


@dataclass(frozen=True)
class Seen:
    """A built row with what is known of its segments, in order: (example, plan)."""

    number: int
    row: Row
    segments: list[tuple[int, ExamplePlan]]
    failed: list[Quarantined]


def see(source: RowSource, number: int) -> Seen:
    """Build a row. Raises DataError when there is no such row."""
    if not 0 <= number < len(source):
        raise DataError(f"{source.index}: there is no row {number}, only 0 to {len(source) - 1}")
    row, failed = source.row(number)
    left_out = {entry.example for entry in failed} | source.quarantined
    members = [i for i in source.plan.row(number) if i not in left_out]
    plans = [(i, source.opened.plan(i, source.template, source.files)) for i in members]
    return Seen(number, row, plans, failed)


def describe_row(source: RowSource, seen: Seen) -> str:
    """The row segment by segment, and how much of each budget it fills."""
    shape = source.shape
    lines = [
        f"row {seen.number} of {len(source)}",
        "",
        f"{'segment':>7} {'example':>8} {'tokens':>7} {'targets':>7} {'windows':>7}  "
        f"{'places':<15} what",
    ]
    at = windows = 0
    for segment, (number, plan) in enumerate(seen.segments, 1):
        file, line = source.opened.where(number)
        kind = f"{len(plan.turns)} turns" if plan.turns else f"{len(plan.chat)} messages"
        windows += plan.windows(shape.window)
        lines.append(
            f"{segment:>7} {number:>8} {plan.tokens:>7} {plan.targets:>7} "
            f"{plan.windows(shape.window):>7}  {f'{at} - {at + plan.tokens - 1}':<15} "
            f"{Path(file).name} line {line}, {kind}: {_words(plan)}"
        )
        at += plan.tokens
    lines += [f"left out: {f.annotations} line {f.line}: {f.reason}" for f in seen.failed]
    targets = int(np.count_nonzero(seen.row["target_weights"]))
    lines += [
        "",
        f"tokens {_share(at, shape.tokens)}, windows {_share(windows, shape.windows)} "
        f"of {shape.window} patches, targets {_share(targets, shape.targets)}",
    ]
    return "\n".join(lines)


def _share(used: int, room: int) -> str:
    return f"{used} of {room} ({used / room:.1%})"


def _words(plan: ExamplePlan) -> str:
    said = [turn.text for turn in plan.turns if turn.text]
    said += [c for turn in plan.chat if turn.role == "assistant" for c in turn.content]
    return textwrap.shorten(" ".join(map(str, said)), 50, placeholder=" ...")


def row_pictures(row: Row) -> list[np.ndarray]:
    """The second frame of each frame pair of a row, put together from its patches, in order.

    Returns:
        uint8 [H, W, 3] each, RGB.
    """
    made = []
    for window in range(len(row["patches"])):
        pairs = row["patch_pairs"][window]
        for pair in range(1, int(pairs.max()) + 1):
            here = np.flatnonzero(pairs == pair)
            rows, cols = row["patch_rows"][window, here], row["patch_cols"][window, here]
            picture = np.zeros((rows.max() + 1, cols.max() + 1, PATCH, PATCH, 3), np.uint8)
            values = row["patches"][window, here].reshape(-1, 3, 2, PATCH, PATCH)
            picture[rows, cols] = values[:, :, 1].transpose(0, 2, 3, 1)
            h, w = picture.shape[:2]
            made.append(picture.transpose(0, 2, 1, 3, 4).reshape(h * PATCH, w * PATCH, 3))
    return made


def _captions(plan: ExamplePlan) -> list[list[str]]:
    """What is written under each frame pair of an example: what it is, then the words of its turn."""
    if plan.turns:
        times, found = plan.media[0].times_us / 1e6, []
        for turn in plan.turns:
            for first in range(turn.first_frame, turn.first_frame + turn.num_frames, 2):
                last = first + 2 == turn.first_frame + turn.num_frames
                words = turn.text or "..."
                found.append([f"{times[first + 1]:.2f} s", words if last else ""])
        return found
    found = []
    for media in plan.media:
        times = media.times_us / 1e6
        found += [
            [f"{times[2 * p + 1]:.2f} s" if len(times) else "image", ""] for p in range(media.pairs)
        ]
    if found:
        found[-1][1] = _words(plan)
    return found


def draw_sheet(source: RowSource, seen: Seen, path: str | Path) -> None:
    """Write the row's frame pairs with their words under them as a PNG.

    Raises DataError when it cannot be written.
    """
    import cv2

    pictures, bands = iter(row_pictures(seen.row)), []
    width = COLUMNS * (TILE + MARGIN) + MARGIN
    for segment, (number, plan) in enumerate(seen.segments, 1):
        file, line = source.opened.where(number)
        head = np.full((LINE + 2 * MARGIN, width, 3), 225, np.uint8)
        title = (
            f"segment {segment}: example {number}, {Path(file).name} line {line}, "
            f"{plan.tokens} tokens, {plan.targets} targets"
        )
        if not plan.media:
            title += f": {_words(plan)}"
        _write(head, title, MARGIN, MARGIN + LINE - 4)
        bands.append(head)
        tiles = [_tile(next(pictures), caption) for caption in _captions(plan)]
        for first in range(0, len(tiles), COLUMNS):
            these = tiles[first : first + COLUMNS]
            band = np.full((max(map(len, these)) + MARGIN, width, 3), 255, np.uint8)
            for place, tile in enumerate(these):
                left = MARGIN + place * (TILE + MARGIN)
                band[MARGIN : MARGIN + len(tile), left : left + TILE] = tile
            bands.append(band)
    sheet = np.concatenate(bands) if bands else np.full((LINE, width, 3), 255, np.uint8)
    ok, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    try:
        if ok:
            Path(path).write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def _tile(picture: np.ndarray, caption: list[str]) -> np.ndarray:
    import cv2

    height = max(1, round(len(picture) * TILE / picture.shape[1]))
    tile = np.full((height + LINE * (1 + LINES), TILE, 3), 255, np.uint8)
    tile[:height] = cv2.resize(picture, (TILE, height), interpolation=cv2.INTER_AREA)
    words = textwrap.wrap(caption[1], 26, max_lines=LINES, placeholder=" ...")
    for i, line in enumerate([caption[0], *words]):
        _write(tile, line, 2, height + LINE * (i + 1) - 4, (120, 120, 120) if i == 0 else (0, 0, 0))
    return tile


def _write(
    picture: np.ndarray, text: str, x: int, y: int, colour: tuple[int, int, int] = (0, 0, 0)
) -> None:
    """Draw a line of text in place; OpenCV before 5 has no letters beyond ASCII."""
    import cv2

    if hasattr(cv2, "FontFace") and int(cv2.__version__.split(".")[0]) >= 5:
        cv2.putText(picture, text, (x, y), colour, cv2.FontFace("sans"), 13)
    else:
        plain = text.encode("ascii", "replace").decode()
        cv2.putText(picture, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
