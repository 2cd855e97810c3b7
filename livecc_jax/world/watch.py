"""Shows a match to a human: its commentary with the fact behind each word, as text or web page."""

from __future__ import annotations

import base64
import html
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from livecc_jax.world.commentary import Commentary
from livecc_jax.world.facts import Fact
from livecc_jax.world.match import Match
from livecc_jax.world.render import render
from livecc_jax.world.truth import Truth

PAGE_FRAMES = 4  # a second of the page


def timeline(true: Truth, spoken: Commentary) -> Iterator[str]:
    """Yields lines: what happens, what is said, and the fact behind what is said.

    Args:
        true: What is true of the match.
        spoken: A commentary on it.
    """
    rows: list[tuple[float, int, str]] = []
    for event in (f for f in true.facts if f.kind in ("event", "picture")):
        rows.append((event.time, 0, f"{event.time:7.1f} s  {_plain(event)}"))
    for fact, began in zip(spoken.facts, spoken.began):
        text = " ".join(word for _, _, word in spoken.words[slice(*fact.words)])
        late = f", {fact.time - began:.1f} s after" if fact.kind == "event" else ""
        rows.append((fact.time, 1, f"{fact.time:7.1f} s      \u201c{text}\u201d  [{fact}{late}]"))
    yield f"{true.context.title}, {true.seconds:g} seconds"
    yield from (text for _, _, text in sorted(rows, key=lambda row: row[:2]))


def _plain(fact: Fact) -> str:
    return f"{fact.action} {fact.actor}".strip() + (f" > {fact.object}" if fact.object else "")


def png(frame: np.ndarray) -> bytes:
    """Returns a picture as PNG; numpy and zlib are all it needs.

    Args:
        frame: uint8 [height, width, 3], RGB.
    """
    height, width = frame.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), frame.reshape(height, -1)], 1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def page(match: Match, true: Truth, spoken: Commentary, size: tuple[int, int] = (252, 336)) -> str:
    """Returns a web page that plays a match, with its words and the facts behind them; one file.

    Args:
        match: The match.
        true: What is true of it.
        spoken: A commentary on it.
        size: Height and width of the picture in pixels.
    """
    times = np.arange(int(match.seconds * PAGE_FRAMES)) / PAGE_FRAMES
    pictures = [
        "data:image/png;base64," + base64.b64encode(png(frame)).decode()
        for first in range(0, len(times), 64)
        for frame in render(match, times[first : first + 64], size)
    ]
    fact_of = {i: str(fact) for fact in spoken.facts for i in range(*fact.words)}
    words = [[a, b, w, fact_of.get(i, "")] for i, (a, b, w) in enumerate(spoken.words)]
    events = [[f.time, _plain(f)] for f in true.facts if f.kind in ("event", "picture")]
    scores = [[f.time, f.object] for f in true.facts if f.kind == "score"]
    data = json.dumps([PAGE_FRAMES, pictures, words, events, scores]).replace("<", "\\u003c")
    return _PAGE.replace("TITLE", html.escape(match.context.title)).replace("DATA", data)


_PAGE = """<!doctype html><meta charset="utf-8"><title>TITLE</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5em auto; max-width: 1100px; padding: 0 1em;
  color: #222; background: #fafafa }
main { display: flex; flex-wrap: wrap; gap: 1.5em }
img { width: 560px; max-width: 100%; image-rendering: pixelated; border-radius: 6px; background: #000 }
#words { max-height: 300px; overflow: auto } #words span { padding: 1px 2px; border-radius: 3px }
#words .said { color: #000 } #words .now { background: #ffd54a } #words .later { color: #bbb }
#fact { min-height: 1.6em; font-weight: 600 } #events { color: #555; font-size: 13px }
input { width: 560px; max-width: 100% } aside { flex: 1; min-width: 300px }
</style><h1>TITLE</h1><main><div><img id="picture" alt="the match"><br>
<input id="time" type="range" min="0" step="0.05"><br>
<button id="play">play</button> <span id="clock"></span></div>
<aside><p id="fact"></p><p id="words"></p><p id="events"></p></aside></main>
<script>
const [fps, pictures, words, events, scores] = DATA;
const $ = id => document.getElementById(id);
let playing = false, time = 0, last = 0;
$('time').max = pictures.length / fps;
words.forEach(([a, b, word, fact]) => {
  const span = document.createElement('span');
  span.textContent = word; span.title = fact;
  span.onclick = () => { time = a; show(); };
  $('words').append(span, ' ');
});
const spans = $('words').children;
function show() {
  $('picture').src = pictures[Math.min(pictures.length - 1, Math.floor(time * fps))];
  $('time').value = time;
  const score = scores.filter(([t]) => t <= time).pop();
  $('clock').textContent = time.toFixed(1) + ' s, ' + (score ? score[1] : '');
  let fact = '';
  words.forEach(([a, b, word, f], i) => {
    spans[i].className = time > b ? 'said' : time >= a ? 'now' : 'later';
    if (time >= a && time < b + 1.5) fact = f;
    if (time >= a && time <= b) spans[i].scrollIntoView({block: 'nearest'});
  });
  $('fact').textContent = fact;
  $('events').textContent = events.filter(([t]) => t <= time && t > time - 6)
    .map(([t, e]) => t.toFixed(1) + ' s ' + e).join(' | ');
}
function step(now) {
  if (playing) { time += (now - last) / 1000; show(); }
  last = now;
  if (time > pictures.length / fps) playing = false;
  requestAnimationFrame(step);
}
$('play').onclick = () => {
  playing = !playing; $('play').textContent = playing ? 'pause' : 'play';
};
$('time').oninput = () => { time = +$('time').value; show(); };
show(); requestAnimationFrame(step);
</script>
"""
