"""Writes scalars to an event file of TensorBoard, in the thread of the caller.

tensorboardX's own writer has a thread and a bounded queue: when the disk is full the thread dies, and
whoever adds the next scalars waits for it indefinitely.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from livecc_jax.writing import RecordFile, writing


class EventFile:
    """An event file that holds whole records at any time.

    Args:
        directory: Directory of the event files of a run; it is created if it does not exist.

    Raises:
        OutputError: The file cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._file = RecordFile(directory / name, append=True)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Appends the scalars of a step. Raises OutputError."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def _write(self, event: Event) -> None:
        """Appends a record: its length, the checksum of that, the event, and its checksum."""
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checksums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        self._file.write(length + next(checksums) + data + next(checksums))

    def close(self) -> None:
        """Closes the file. Raises OutputError."""
        self._file.close()
