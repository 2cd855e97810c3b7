"""How `livecc evaluate` divides a benchmark over processes and a model over the devices of one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from livecc_jax.evaluate.run.run_folder import EvaluationProgress

PRINT_EVERY = 20  # videos, where stderr is not a terminal


def local_mesh(text: str | None) -> Mesh | None:
    """Returns the mesh that --mesh describes, over this process's devices; None without --mesh."""
    import jax

    from livecc_jax.parallel.mesh import make_mesh, parse_mesh

    return make_mesh(parse_mesh(text), jax.local_devices()) if text else None


def parse_shard(text: str | None) -> tuple[int, int]:
    """Returns (index, count) of the shard that this process answers.

    Args:
        text: The value of --share, "I/N"; None divides the videos over the connected processes.

    Raises:
        ConfigError: The text is not I/N, or the processes are connected.
    """
    import jax

    from livecc_jax.errors import ConfigError

    if text is None:
        return jax.process_index(), jax.process_count()
    if jax.process_count() > 1:
        raise ConfigError("--share is for processes that are not connected; these are")
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--share {text}: must be I/N with I from 0 to N - 1")
    return int(index), int(count)


@contextlib.contextmanager
def progress_printer(items: str) -> Iterator[Callable[[EvaluationProgress, int], None]]:
    """Yields a function that shows the progress: a bar in a terminal, a line now and then elsewhere.

    Args:
        items: What is counted, "questions" or "events".
    """
    from livecc_jax.commands.console import progress_bar

    next_print = PRINT_EVERY

    def show_progress(progress: EvaluationProgress, total: int) -> None:
        nonlocal next_print
        done_now = progress.answered + progress.failed
        done = progress.already_answered + done_now
        show_bar(done, total)
        if progress.videos >= next_print and not sys.stderr.isatty():
            next_print = progress.videos + PRINT_EVERY
            rate = 60 * done_now / max(progress.seconds, 1e-9)
            print(f"{done:,} of {total:,} {items}, {rate:.1f} a minute", file=sys.stderr, flush=True)

    with progress_bar(sys.stderr, items) as show_bar:
        yield show_progress


def gather_answers(
    progress: EvaluationProgress, items: str, folder: Path, ids: list[str]
) -> dict[str, dict[str, Any]] | None:
    """Prints the progress of this process, waits for the others and reads all answers.

    Args:
        progress: Progress of this process at its end.
        items: What is counted, "questions" or "events".
        folder: Run folder.
        ids: Ids of all questions or events.

    Returns:
        The answers by id in the process that writes the report, once all are there; None otherwise.

    Raises:
        ConfigError: Answers of connected processes are missing in the folder.
    """
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.run.run_folder import all_answers
    from livecc_jax.parallel.processes import (
        is_main_process,
        other_process_count,
        wait_for_all_processes,
    )

    print(
        f"{progress.answered:,} {items} answered in {progress.seconds:.0f} s "
        f"({progress.videos:,} videos), {progress.already_answered:,} before, "
        f"{progress.failed:,} could not be answered",
        flush=True,
    )
    wait_for_all_processes("answers")
    if not is_main_process():
        return None
    answers = all_answers(folder)
    missing = sum(i not in answers for i in ids)
    if missing and other_process_count():
        raise ConfigError(
            f"{folder}: lacks {missing:,} {items}; is it a folder that all processes share?"
        )
    if missing:
        print(f"{missing:,} {items} are in other shards; the last one to finish writes the report")
    return None if missing else answers
