"""Runs the ablations on one machine: every job whose result is missing, the most important first.

    python -m benchmarks.ablations.run --out DIR                          # all arms, on one GPU
    python -m benchmarks.ablations.run --out DIR --only 1/,2/none         # jobs whose names begin so
    python -m benchmarks.ablations.run --out DIR --seconds 500            # what is done by then
    python -m benchmarks.ablations.report DIR                             # the report of what there is

Matches are made once, by all cores, and kept in memory; `--workers` processes share the device. Each
result is appended to DIR/results.jsonl as it comes, so a run that was stopped goes on where it was.
"""

import argparse
import fcntl
import importlib.metadata
import json
import multiprocessing
import os
import platform
import sys
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.ablations.matches import MatchSpec, make_matches  # noqa: E402
from benchmarks.ablations.recipe import RECIPES  # noqa: E402
from benchmarks.ablations.variants import BASE_MATCHES, LONG_TEXTS, TEXTS, all_jobs  # noqa: E402

TEST_SEEDS = 900_000  # matches from this seed on are tested on
LONG_SEEDS = 950_000  # likewise, those of half an hour


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of results.jsonl")
    parser.add_argument("--recipe", default="small", choices=RECIPES)
    parser.add_argument("--only", default="", help="beginnings of names of jobs, with commas")
    parser.add_argument("--seconds", type=float, default=3 * 3600, help="time for everything")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the device")
    parser.add_argument("--data", default="/tmp/livecc-ablations", help="folder of matches")
    parser.add_argument("--matches", type=int, default=16 * BASE_MATCHES, help="to train on")
    parser.add_argument("--test-matches", type=int, help="to test on (default: the recipe's)")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies all steps")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds kept at the end")
    return parser.parse_args()


def specs(first, count, recipe, seconds=0.0):
    from livecc_jax.world.drill import DrillOptions
    from livecc_jax.world.match import MatchOptions

    if recipe.drill:
        actions = {"actions": ("shot", "foul", "yellow")} if seconds else {}
        options = DrillOptions(seconds=seconds or recipe.seconds, quiet=0.15, **actions)
    else:
        options = MatchOptions(seconds=(seconds or recipe.seconds,) * 2)
    texts = LONG_TEXTS if seconds else TEXTS
    return [MatchSpec(first + i, options, recipe.size, texts) for i in range(count)]


def results_of(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def append(path, record):
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(record) + "\n")
        file.flush()


def machine():
    import jax

    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "flax": importlib.metadata.version("flax"),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }


def work(worker, jobs, args, data, began):
    """Runs jobs from a queue until it is empty or the time is over."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.9 / args.workers:.3f}")
    import jax

    jax.config.update("jax_compilation_cache_dir", f"{args.data}/programs")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
    from benchmarks.ablations.jobs import Lab
    from livecc_jax.text.open import open_tokenizer

    def log(text):
        print(f"[{time.time() - began:6.1f} s, worker {worker}] {text}", flush=True)

    train_matches, test_matches, long_matches = data
    tokenizer = open_tokenizer(f"{args.data}/tokenizer")
    recipe = RECIPES[args.recipe]
    lab = Lab(train_matches, test_matches, long_matches, tokenizer, recipe, args.steps_scale, log)
    out = Path(args.out) / "results.jsonl"
    if args.recipe != "smoke":
        threading.Thread(target=lab.warm_up, daemon=True).start()
    slowest, first = 0.0, True  # seconds of a job by its cost; the first one compiles
    while (job := jobs.get()) is not None:
        left = args.seconds - args.grace - (time.time() - began)
        if left < slowest * job.cost or left <= 0:
            log(f"{job.key}: no time left")
            continue
        start = time.time()
        log(f"{job.key} begins")
        try:
            for result in lab.run(job):
                append(out, result | {"recipe": args.recipe, "machine": machine()})
                shown = {
                    k: result["metrics"].get(k) for k in ("fact F1, in time", "fact F1, at any time")
                }
                log(f"{job.key}: {result['variant']}: {shown} {result.get('accuracy', '')}")
        except Exception:
            log(f"{job.key} failed\n{traceback.format_exc()[-1500:]}")
        slowest, first = 0.0 if first else max(slowest, (time.time() - start) / job.cost), False
        log(f"{job.key} took {time.time() - start:.0f} s")


def main():
    args = parse_args()
    began = time.time()
    recipe = RECIPES[args.recipe]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    done = {r["job"] for r in results_of(out / "results.jsonl") if r.get("last", True)}
    only = [x for x in args.only.split(",") if x]
    jobs = [
        job for job in all_jobs()
        if job.key not in done and (not only or any(job.key.startswith(x) for x in only))
    ]  # fmt: skip
    print(f"{len(jobs)} jobs, {len(done)} done before", flush=True)
    from livecc_jax.world.vocabulary import train_tokenizer

    test_count = args.test_matches or recipe.test_matches
    size = "x".join(map(str, recipe.size))
    train_matches = make_matches(specs(0, args.matches, recipe), f"{args.data}/train-{size}")
    test_matches = make_matches(specs(TEST_SEEDS, test_count, recipe), f"{args.data}/test-{size}")
    long_matches = []
    if any(job.arm == 9 for job in jobs):
        found = specs(LONG_SEEDS, recipe.long_matches, recipe, recipe.long_seconds)
        long_matches = make_matches(found, f"{args.data}/long-{size}", chunk=1)
    asked = tuple({text for m in train_matches[:64] for text, _, _ in m.questions})
    train_tokenizer(f"{args.data}/tokenizer", (*sorted(asked), *(f"Answer: {x}" for x in "ABCD")))
    print(
        f"{len(train_matches)} + {len(test_matches)} matches in {time.time() - began:.0f} s", flush=True
    )
    baselines(out, test_matches, args)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    for job in jobs:
        queue.put(job)
    for _ in range(args.workers):
        queue.put(None)
    data = train_matches, test_matches, long_matches
    workers = [
        context.Process(target=work, args=(i, queue, args, data, began)) for i in range(args.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(1.0, args.seconds - (time.time() - began)))
        if worker.is_alive():
            worker.kill()
    print(f"{time.time() - began:.0f} s in all", flush=True)


def baselines(out, matches, args):
    """Appends what needs no model, unless it is there: ceiling, silence, copy of what was said."""
    from benchmarks.ablations import scoring

    path = out / "results.jsonl"
    if any(r["job"] == "baselines" for r in results_of(path)):
        return
    for text in ("calm", "club", "radio"):
        for name, counts in scoring.baseline_counts(matches, text, f"{text} 2").items():
            append(path, {
                "arm": -1, "variant": name, "job": "baselines", "seed": 0, "text": text,
                "metrics": scoring.summary(counts), "errors": scoring.errors(counts),
                "clips": [[c.in_time, c.any_time, c.said, c.reference, c.true] for c in counts],
                "recipe": args.recipe,
            })  # fmt: skip


if __name__ == "__main__":
    main()
