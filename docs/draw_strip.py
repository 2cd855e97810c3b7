"""Draws frames of a clip with the words that a model said under them. Writes docs/strip.svg.

    livecc demo
    python docs/draw_strip.py demo_out/commentary.jsonl

Each picture is the last frame of its turn, the words are the turn's, as `livecc stream --jsonl` wrote
them; nothing is chosen but the number of turns.
"""

from __future__ import annotations

import argparse
import base64
import json
import textwrap
from html import escape
from pathlib import Path

OUT = Path(__file__).with_name("strip.svg")
CLIP = "bbb_espeak_narration_30s.mp4"
COLUMNS, PICTURE, GAP, LINE = 5, (176, 99), 8, 16
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1c1e21; } .time { font-size: 11px; fill: #5b6470; }
.paper { fill: #fff; }
@media (prefers-color-scheme: dark) { text { fill: #e4e6ea; } .time { fill: #9ca3af; }
.paper { fill: #16181c; } }
"""


def pictures(clip: Path, seconds: list[float]) -> list[str]:
    """Returns the frames of a clip at given seconds as data addresses of JPEG pictures."""
    import cv2
    import numpy as np

    from livecc_jax.media.pixels import resize
    from livecc_jax.media.video import iter_frames, probe

    info = probe(clip)
    indices = np.searchsorted(info.frame_times_us, [s * 1e6 for s in seconds], "left")
    found = []
    for frame in iter_frames(info, np.minimum(indices, len(info.frame_times_us) - 1)):
        small = resize(frame[None], (2 * PICTURE[1], 2 * PICTURE[0]))[0]
        _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 72])
        found.append(f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}")
    return found


def draw(turns: list[dict], clip: Path) -> str:
    """Returns the drawing.

    Args:
        turns: Lines of `livecc stream --jsonl`.
        clip: The clip that they comment on.
    """
    frames = pictures(clip, [turn["stop"] - 0.5 for turn in turns])
    words = [turn["text"].removesuffix("...").strip() or "…" for turn in turns]
    lines = [textwrap.wrap(said, 25)[:2] for said in words]
    row = PICTURE[1] + 20 + LINE * max(map(len, lines), default=1) + GAP
    rows = -(-len(turns) // COLUMNS)
    width = COLUMNS * (PICTURE[0] + GAP) + GAP
    height = rows * row + GAP
    parts = []
    for i, (turn, frame) in enumerate(zip(turns, frames)):
        x = GAP + i % COLUMNS * (PICTURE[0] + GAP)
        y = GAP + i // COLUMNS * row
        parts.append(
            f'<image x="{x}" y="{y}" width="{PICTURE[0]}" height="{PICTURE[1]}" href="{frame}"/>'
        )
        below = y + PICTURE[1] + 14
        parts.append(
            f'<text class="time" x="{x}" y="{below}">{turn["start"]:g} - {turn["stop"]:g} s</text>'
        )
        for k, line in enumerate(lines[i]):
            parts.append(f'<text x="{x}" y="{below + 17 + LINE * k}">{escape(line)}</text>')
    said = " ".join(words)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(" ".join(said.split()), quote=True)}"><style>{STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commentary", type=Path, help="what `livecc stream --jsonl` wrote")
    parser.add_argument("--clip", type=Path, help="the clip (default: the shipped one)")
    parser.add_argument("--turns", type=int, default=10, help="turns that are drawn (default 10)")
    args = parser.parse_args()
    if args.clip is None:
        import livecc_jax

        args.clip = Path(livecc_jax.example_clip())
    lines = args.commentary.read_text(encoding="utf-8").splitlines()
    turns = [json.loads(line) for line in lines]
    OUT.write_text(draw([t for t in turns if "start" in t][: args.turns], args.clip), encoding="utf-8")
    print(OUT)
