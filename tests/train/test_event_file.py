"""Event files: byte for byte those of tensorboardX, and whole after a full disk."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from livecc_jax.errors import OutputError
from livecc_jax.train.event_file import EventFile
from livecc_jax.train.metrics import Dashboard
from tests.support.disk import file_size_limit


def events(path):
    """The events of a file, without regard to checksums."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_scalars_are_read_back(tmp_path):
    file = EventFile(tmp_path / "run/tensorboard")
    file.add_scalars({"loss": 1.5, "time/step": 0.25}, 7)
    (path,) = (tmp_path / "run/tensorboard").iterdir()
    head, scalars = events(path)
    assert head.file_version == "brain.Event:2"
    assert scalars.step == 7
    assert {v.tag: v.simple_value for v in scalars.summary.value} == {"loss": 1.5, "time/step": 0.25}
    size = path.stat().st_size
    with (
        file_size_limit(size + 20),
        pytest.raises(OutputError, match=r"events\.out\S+: cannot be written"),
    ):
        file.add_scalars({"loss": 2.0}, 8)
    assert path.stat().st_size == size
    file.add_scalars({"loss": 3.0}, 9)
    file.close()
    assert [e.step for e in events(path)] == [0, 7, 9]
    theirs = RecordWriter(str(tmp_path / "theirs"))
    for event in events(path):
        theirs.write(event.SerializeToString())
    theirs.close()
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_metrics_that_find_no_room_raise_at_once(tmp_path):
    """However many are added: no queue fills up, and no one waits for a thread that has ended."""
    with Dashboard(tmp_path) as dashboard:
        for step in range(100):
            with file_size_limit(1), pytest.raises(OutputError, match="cannot be written"):
                dashboard.add({"loss": 1.0}, step)
        dashboard.add({"loss": 1.0}, 100)
    (path,) = tmp_path.iterdir()
    assert [e.step for e in events(path)] == [0, 100]
