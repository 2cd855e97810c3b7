"""Reads the inputs of one reader in a process of its own, which may hang or crash.

`python -m tests.fuzz.worker READER SEED FIRST STOP SECONDS` prints one JSON object an input. An input
that takes longer than SECONDS ends the process, with a traceback on standard error.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import resource
import sys
import tempfile
from pathlib import Path

from tests.fuzz.check import FAULTS, check
from tests.fuzz.inputs import Inputs
from tests.fuzz.readers import READERS

MAX_BYTES = 16 << 30  # of address space of data: allocations beyond it raise MemoryError


def main(arguments: list[str]) -> None:
    """Reads inputs FIRST, ..., STOP - 1."""
    name, seed, first, stop, seconds = arguments
    reader = READERS[name]
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as temporary:
        folder = Path(temporary) / "good"
        folder.mkdir()
        reader.prepare(folder)
        inputs = Inputs(reader, folder, int(seed))
        print(json.dumps({"ready": True}), flush=True)
        for number in range(int(first), int(stop)):
            faulthandler.dump_traceback_later(float(seconds), exit=True)
            damaged = inputs[number]
            outcome = check(reader, folder, damaged)
            faulthandler.cancel_dump_traceback_later()
            line = {"number": number, **outcome.to_json()}
            if outcome.kind in FAULTS:
                from tests.fuzz.regressions import describe

                line["input"] = describe(inputs.good[damaged.file], damaged)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
