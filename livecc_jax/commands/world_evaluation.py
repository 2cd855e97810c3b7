"""`livecc evaluate world`: commentary on the held-out matches of a synthetic world, scored by facts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_jax.commands.evaluation_run import open_run, print_summary, run_details, settings_rules
from livecc_jax.commands.processes import gather_answers, parse_shard, progress_printer
from livecc_jax.writing import write_text

if TYPE_CHECKING:
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.evaluate.metrics.world_clips import WorldClip
    from livecc_jax.stream.model import StreamModel

LAST_FRAMES = 4  # that the baseline without memory sees
PREDICTIONS = "predictions.jsonl"
NO_MEMORY, WORDS_ALONE = "last four frames", "text only"


def add_world_options(group: argparse._ArgumentGroup) -> None:
    """Adds the options of `livecc evaluate world`."""
    group.add_argument(
        "--batch", type=int, default=8, metavar="N", help="clips that are streamed together (default 8)"
    )
    group.add_argument(
        "--no-baselines",
        action="store_true",
        help="leave out the baselines that run a model: the last four frames without memory, and the "
        "text-only model",
    )
    group.add_argument(
        "--text-only",
        metavar="MODEL",
        help="the text-only model of that baseline, trained on grey pictures (default: MODEL itself, "
        "which is shown grey pictures)",
    )


def evaluate_world(args: argparse.Namespace) -> int:
    """Comments on the matches, with the model and as every baseline, and scores the commentaries."""
    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
    from livecc_jax.evaluate.metrics.world_clips import read_world, world_annotation
    from livecc_jax.evaluate.metrics.world_score import score_world
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.world_terminal import format_world
    from livecc_jax.stream.model import StreamModel

    if args.batch < 1:
        raise ConfigError(f"--batch must be at least 1, not {args.batch}")
    if args.memory is not None:
        raise ConfigError("world runs the baseline without memory by itself; leave out --memory")
    shard = parse_shard(args.share)
    clips = read_world(args.data)[: args.limit]
    decoding = {
        "max_new_tokens": args.max_new_tokens,
        "repetition_penalty": 1.0 if args.repetition_penalty is None else args.repetition_penalty,
        "temperature": args.temperature,
        "seed": args.seed,
    }
    annotation = world_annotation(args.data)
    folder, settings, checkpoint, budget = open_run(
        args, annotation, {"clips": len(clips)} | decoding, usual_budget=""
    )
    context = checkpoint.config.text.max_positions
    options = StreamOptions(positions=settings["positions"], context=context, **decoding)
    dtype = jax.numpy.dtype(settings["dtype"])
    tokenizer = checkpoint.open_tokenizer()
    model = StreamModel(checkpoint.config, checkpoint.load_params(dtype=dtype), tokenizer)
    common: dict[str, Any] = {
        "budget": budget, "options": options, "batch": args.batch, "shard": shard,
        "rules": settings_rules(settings, folder),
    }  # fmt: skip
    answers = _comment(model, clips, folder, "clips", **common)
    baselines: dict[str, Path] = {}
    if not args.no_baselines:
        inner = folder / NO_MEMORY.replace(" ", "-")
        _comment(model, clips, inner, f"clips, {NO_MEMORY}", memory_frames=LAST_FRAMES, **common)
        baselines[NO_MEMORY] = inner / PREDICTIONS
        if args.text_only:
            other = open_checkpoint(args.text_only)
            model = StreamModel(other.config, other.load_params(dtype=dtype), other.open_tokenizer())
        inner = folder / WORDS_ALONE.replace(" ", "-")
        _comment(model, clips, inner, f"clips, {WORDS_ALONE}", grey=True, **common)
        baselines[WORDS_ALONE] = inner / PREDICTIONS
    if answers is None:
        return 0
    settings |= run_details(ProblemLog(), answers)
    if any("turns" in a for a in answers.values()):
        scored = score_world(folder / PREDICTIONS, args.data, baselines)
        write_report(folder, scored, settings, results_file=PREDICTIONS)
        print(format_world(scored))
    print_summary(folder, PREDICTIONS, settings)
    return 0


def _comment(
    model: StreamModel,
    clips: list[WorldClip],
    folder: Path,
    items: str,
    *,
    options: StreamOptions,
    **more: Any,
) -> dict[str, dict[str, Any]] | None:
    """Comments on all clips in a folder of their own, and writes the predictions once all are there."""
    from livecc_jax.evaluate.run.world import comment_world
    from livecc_jax.writing import make_folder

    make_folder(folder)
    with progress_printer(items) as printer:
        progress = comment_world(model, clips, folder, options=options, on_progress=printer, **more)
    answers = gather_answers(progress, items, folder, [c.id for c in clips])
    if answers is not None:
        said = [answers[c.id] for c in clips if "turns" in answers[c.id]]
        lines = [
            json.dumps({k: v for k, v in p.items() if k != "id"}, ensure_ascii=False) for p in said
        ]
        write_text(folder / PREDICTIONS, "".join(line + "\n" for line in lines))
    return answers
