"""`livecc produce pretrain` over invented source records: time by stage, and memory.

    python benchmarks/produce_scale.py --records 1000000 --workers 2 --out DIR

Records give their words, so no file is opened: what is measured is the line itself with every filter
that needs no model. Words are English sentences put together at random; one record in twenty repeats
another's words. Memory is the largest sum of resident memory of all processes, and that of the parent.
Python's allocator and the records of a shard are in it; it must not grow with the number of records but
for the comparison of clips, which keeps about 200 bytes of each.
"""

import argparse
import json
import random
import sys
import threading
import time
from pathlib import Path

import psutil

from livecc_jax.produce.line.local import LocalPool
from livecc_jax.produce.line.run import produce
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.report.page import write_report
from livecc_jax.produce.sources.listing import list_sources

WHO = (
    "the keeper",
    "a young player",
    "our chef",
    "the driver",
    "she",
    "the whole team",
    "this machine",
)
DOES = ("takes", "turns", "passes", "watches", "cuts", "lifts", "holds", "finds", "opens", "follows")
WHAT = ("the ball", "a sharp corner", "the onions", "another chance", "a heavy box", "the last lap")
WHERE = ("near the line", "on the left", "with great care", "in the second half", "before the break")
THEN = ("and", "but then", "while", "so now", "because of that,")


def words_of(rng):
    """35 to 80 seconds of words at about 2.5 a second."""
    at, words = rng.uniform(0, 3), []
    until = at + rng.uniform(35, 80)
    while at < until:
        parts = (rng.choice(WHO), rng.choice(DOES), rng.choice(WHAT), rng.choice(WHERE))
        sentence = " ".join(parts) + (". " if rng.random() < 0.5 else f" {rng.choice(THEN)} ")
        sentence += f"number {rng.randrange(10_000)}" if rng.random() < 0.5 else ""
        for word in sentence.split():
            length = 0.15 + 0.04 * len(word)
            words.append([round(at, 2), round(at + length, 2), word])
            at += length + rng.uniform(0, 0.1)
    return words


def write_records(path, count):
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            rng = random.Random(i if i % 20 else i // 2)
            words = words_of(rng)
            record = {
                "video": f"v{i:08}.mp4", "duration": round(words[-1][1] + 2, 1), "width": 1280,
                "height": 360 if i % 9 == 0 else 720, "title": f"Video {i}", "category": "Sports",
                "words": words,
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")


class Memory(threading.Thread):
    """Samples the memory of this process and its children."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.most_of_parent, self.ended = 0, 0, False

    def run(self):
        own = psutil.Process()
        while not self.ended:
            parent = own.memory_info().rss
            total = parent
            for child in own.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
            self.most, self.most_of_parent = max(self.most, total), max(self.most_of_parent, parent)
            time.sleep(0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", required=True)
    parser.add_argument("--without-language", action="store_true", help="leave the language filter out")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    sources = out / "sources.jsonl"
    if not sources.is_file():
        write_records(sources, args.records)
    parameters = PRETRAIN
    if args.without_language:
        parameters = PRETRAIN.with_filters([n for n in PRETRAIN.filters if n != "language"])
    memory = Memory()
    memory.start()
    began, cpu = time.monotonic(), time.process_time()
    produced = produce(
        list_sources([str(sources)]), out / "run", parameters, LocalPool(args.workers),
        say=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )  # fmt: skip
    seconds = time.monotonic() - began
    memory.ended = True
    data = write_report(produced)
    files = (out / "run").rglob("*")
    result = {
        "records": args.records, "workers": args.workers, "seconds": round(seconds, 1),
        "records_per_s": round(args.records / seconds), "clips": data["clips"],
        "source_gb": round(sources.stat().st_size / 1e9, 3),
        "work_gb": round(sum(p.stat().st_size for p in files if p.is_file()) / 1e9, 3),
        "memory_mb": round(memory.most / 1e6),
        "memory_of_parent_mb": round(memory.most_of_parent / 1e6),
        "cpu_ms_a_record": {row["stage"]: row["cpu_ms_per_record"] for row in data["cost"]},
        "wall_s": {k: round(v, 1) for k, v in produced.wall_seconds.items()},
        "cpu_s_of_parent": round(time.process_time() - cpu, 1),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
