"""What `livecc evaluate` does as one of several processes, and with several devices."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from livecc_jax.evaluate.run.run_folder import EvaluationProgress

PRINT_EVERY = 20  # videos


def local_mesh(text: str | None) -> Mesh | None:
    """Of the devices that this process has."""
    import jax

    from livecc_jax.parallel.mesh import make_mesh, parse_mesh

    return make_mesh(parse_mesh(text), jax.local_devices()) if text else None


def parse_shard(text: str | None) -> tuple[int, int]:
    """Which of how many parts this process asks."""
    import jax

    from livecc_jax.errors import ConfigError

    if text is None:
        return jax.process_index(), jax.process_count()
    if jax.process_count() > 1:
        raise ConfigError("--share is for processes that do not find each other; these do")
    first, _, of = text.partition("/")
    if not (first.isdecimal() and of.isdecimal() and int(first) < int(of)):
        raise ConfigError(f"--share {text}: must be I/N with I from 0 to N - 1")
    return int(first), int(of)


def progress_printer(what: str) -> Callable[[EvaluationProgress, int], None]:
    """What tells how far a run is, now and then."""
    due = PRINT_EVERY

    def told(asked: EvaluationProgress, of: int) -> None:
        nonlocal due
        if sys.stderr.isatty() or asked.videos >= due:
            due = asked.videos + PRINT_EVERY
            done = asked.before + asked.now + asked.failed
            rate = 60 * (asked.now + asked.failed) / max(asked.seconds, 1e-9)
            print(f"{done:,} of {of:,} {what}, {rate:.1f} a minute", file=sys.stderr, flush=True)

    return told


def gather_answers(
    asked: EvaluationProgress, what: str, folder: Path, ids: list[str]
) -> dict[str, dict[str, Any]] | None:
    """Everybody's answers, for the process that writes the report once all are there."""
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.run.run_folder import all_answers
    from livecc_jax.parallel.processes import is_first, others, wait_for_all

    print(
        f"{asked.now:,} {what} answered in {asked.seconds:.0f} s, {asked.before:,} before, "
        f"{asked.failed:,} could not be asked",
        flush=True,
    )
    wait_for_all("answers")
    if not is_first():
        return None
    answers = all_answers(folder)
    left = sum(i not in answers for i in ids)
    if left and others():
        raise ConfigError(f"{folder}: lacks {left:,} {what}; is it a folder that all processes share?")
    if left:
        print(f"{left:,} {what} are in other shares; the last one to finish writes the report")
    return None if left else answers
