"""Caption files to words and clips, beside the algorithm of the released scripts, in one run.

    python benchmarks/produce_rules.py [--sources 100000] [--workers 1 2] [--ways WAY ...]

Sources are invented and the same for both. The released scripts (LiveCC's `pretrain_to_clips.py`;
its rules and slips are those of docs/produce.md) begin with lists of lines that something else has
made of caption files, so each of their records is a JSON line of `[start, end, text]`; "released,
from vtt" makes these of a file first, with webvtt-py. Ours begins with the content of a caption
file. Both end with the lines of clips. Seconds are those of the processor, so that others on the
machine count little.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import random
import resource
import time
from functools import cache, partial

from livecc_jax.produce.annotations import annotation_line
from livecc_jax.produce.captions.read import parse_captions
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Clip, Source
from livecc_jax.produce.stages.cut import cut

SHARD = 500
LETTERS = "etaoinshrdlucmfwypvbgk"
DISTINCT = 500  # sources that differ; others repeat them
FORMATS = ("json3 automatic", "json3 manual", "srt", "vtt", "vtt automatic")
RELEASED = "released"
WAYS = (RELEASED, f"{RELEASED}, from json3 manual", f"{RELEASED}, from vtt", *FORMATS)


def lines_of(seed: int) -> list[tuple[int, int, str]]:
    """Lines of one video, in milliseconds: 4 to 9 words in 1.5 to 3.5 s, now and then a silence."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(LETTERS, k=rng.randint(1, 9))) for _ in range(300)]
    lines, now, end = [], rng.randint(0, 5000), rng.randint(60_000, 420_000)
    while now < end:
        length = rng.randint(1500, 3500)
        lines.append((now, now + length, " ".join(rng.choices(words, k=rng.randint(4, 9)))))
        now += length + rng.choice((0, 0, 0, 150, 800, 4000))
    return lines


def clock(ms: int, mark: str) -> str:
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{mark}{ms % 1000:03}"


def caption_file(lines: list[tuple[int, int, str]], format: str) -> bytes:
    """The content of a caption file of these lines."""
    if format == "srt":
        parts = [
            f"{i}\n{clock(a, ',')} --> {clock(b, ',')}\n{x}\n\n" for i, (a, b, x) in enumerate(lines, 1)
        ]
        return "".join(parts).encode()
    if format == "vtt":
        parts = [f"{clock(a, '.')} --> {clock(b, '.')}\n{x}\n\n" for a, b, x in lines]
        return ("WEBVTT\nLanguage: en\n\n" + "".join(parts)).encode()
    if format == "vtt automatic":
        parts, before = [], " "
        for a, b, text in lines:
            first, *rest = text.split()
            step = (b - a) // (len(rest) + 1)
            tagged = first + "".join(
                f"<{clock(a + step * i, '.')}><c> {word}</c>" for i, word in enumerate(rest, 1)
            )
            settings = "align:start position:0%"
            parts.append(f"{clock(a, '.')} --> {clock(b - 10, '.')} {settings}\n{before}\n{tagged}\n\n")
            parts.append(f"{clock(b - 10, '.')} --> {clock(b, '.')} {settings}\n{text}\n \n\n")
            before = text
        return ("WEBVTT\nKind: captions\nLanguage: en\n\n" + "".join(parts)).encode()
    events = []
    for a, b, text in lines:
        segments = [{"utf8": text}]
        if format == "json3 automatic":
            first, *rest = text.split()
            step = (b - a) // (len(rest) + 1)
            segments = [{"utf8": first, "acAsrConf": 0}] + [
                {"utf8": f" {word}", "tOffsetMs": step * i, "acAsrConf": 0}
                for i, word in enumerate(rest, 1)
            ]
        events.append({"tStartMs": a, "dDurationMs": b - a, "segs": segments})
    return json.dumps({"wireMagic": "pb3", "events": events}, separators=(",", ":")).encode()


def ours(data: bytes, order: int) -> list[str]:
    """One caption file, by our rules: the lines of its clips."""
    words = parse_captions(data).words
    source = Source(order, str(order), f"{order}.mp4", "A title", "Sports", words=words)
    return [annotation_line(clip) for clip in cut(source, PRETRAIN) if isinstance(clip, Clip)]


def released(line: str) -> list[str]:
    """One record, by the algorithm of the released scripts, with its slips."""
    record = json.loads(line)
    stream = []
    for start, end, text in record.pop("subtitles"):
        if "[" in text or "]" in text:
            continue
        kept = []
        for word in text.split(" "):
            if not kept or kept[-1] != word:
                kept.append(word)
        share = (end - start) / len(kept)
        for k, word in enumerate(kept):
            stream.append([round(start + k * share, 1), round(start + (k + 1) * share, 1), word])
    clips, first = [], 0
    while first < len(stream):
        stop = None
        for stop in range(first + 1, len(stream)):
            if stream[stop][1] - stream[first][1] > 240 or stream[stop][1] - stream[stop - 1][1] > 3:
                break
        if stop is None:
            break
        if stop > first and stream[stop - 1][1] - stream[first][1] >= 30:
            clips.append((stream[first:stop], " ".join(word[2] for word in stream[:first])))
        first = stop
    lines = []
    for content, previous in clips:
        rate = len(content) / (content[-1][1] - content[0][1])
        if 1 <= rate <= 4:
            clip = {"video": record["video"], "content": content, "previous": previous}
            lines.append(
                json.dumps(clip | {"title": record["title"], "category": record["category"]}) + "\n"
            )
    return lines


def released_from_file(data: bytes, format: str) -> list[str]:
    """The same, begun with a caption file: the reader that is at hand for its format makes the
    lines.
    """
    if format == "vtt":
        import webvtt

        captions = webvtt.from_string(data.decode())
        lines = [[c.start_in_seconds, c.end_in_seconds, c.text] for c in captions]
    else:
        lines = []
        for event in json.loads(data)["events"]:
            start, length = event["tStartMs"] / 1000, event["dDurationMs"] / 1000
            lines.append([start, start + length, "".join(part["utf8"] for part in event["segs"])])
    return released(record_of("x.mp4", lines))


def record_of(video: str, lines: list) -> str:
    return json.dumps({"video": video, "title": "A title", "category": "Sports", "subtitles": lines})


@cache
def inputs(seed: int) -> dict:
    """What each way is given of one source, and its number of words."""
    lines = lines_of(seed)
    given: dict = {format: caption_file(lines, format) for format in FORMATS}
    given[RELEASED] = record_of(f"{seed}.mp4", [[a / 1000, b / 1000, text] for a, b, text in lines])
    given["words"] = sum(len(text.split()) for _, _, text in lines)
    return given


def shard(first: int, count: int, ways: tuple[str, ...]) -> dict:
    """Processor seconds and clips of each way over some sources, in turn; making them is not
    counted.
    """
    stop = min(first + SHARD, count)
    result: dict = {"records": stop - first, "words": 0, "peak_mb": 0}
    for order in range(first, stop):
        result["words"] += inputs(order % DISTINCT)["words"]
    for way in ways:
        base, clips = way.removeprefix(f"{RELEASED}, from "), 0
        gc.collect()
        began = time.process_time()
        for order in range(first, stop):
            given = inputs(order % DISTINCT)[base]
            if way == RELEASED:
                clips += len(released(given))
            elif way == base:
                clips += len(ours(given, order))
            else:
                clips += len(released_from_file(given, base))
        result[way] = (time.process_time() - began, clips)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def measure(ways: tuple[str, ...], count: int, workers: int) -> None:
    """All ways over all sources with some workers; prints a JSON line a way."""
    firsts = range(0, count, SHARD)
    work = partial(shard, count=count, ways=ways)
    began = time.perf_counter()
    if workers == 1:
        results = list(map(work, firsts))
    else:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            results = pool.map(work, firsts, chunksize=1)
    clock = time.perf_counter() - began
    records, words = (sum(result[key] for result in results) for key in ("records", "words"))
    for way in ways:
        seconds, clips = (sum(column) for column in zip(*[result[way] for result in results]))
        print(json.dumps({
            "way": way, "workers": workers, "records": records, "words": words, "clips": clips,
            "cpu_seconds": round(seconds, 1), "records_per_cpu_second": round(records / seconds),
        }), flush=True)  # fmt: skip
    peaks = [result["peak_mb"] for result in results]
    print(json.dumps({
        "workers": workers, "clock_seconds": round(clock, 1), "peak_mb_after_first_shard": peaks[0],
        "peak_mb_after_all": max(peaks), "load": round(os.getloadavg()[0], 1),
    }), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--ways", nargs="+", default=WAYS)
    args = parser.parse_args()
    print(
        platform.machine(),
        os.cpu_count(),
        "cores, Python",
        platform.python_version(),
        time.strftime("%F"),
    )
    for workers in args.workers:
        measure(tuple(args.ways), args.sources, workers)


if __name__ == "__main__":
    main()
