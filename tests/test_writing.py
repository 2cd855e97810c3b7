"""Files that are whole or absent: on a full disk, over an earlier file, through a link, to a device."""

import io
import os
import stat

import numpy as np
import pytest

from livecc_jax.errors import OutputError
from livecc_jax.writing import RecordFile, atomic_file, format_bytes, write_npz, write_text
from tests.support.disk import file_size_limit


def test_sizes_have_a_unit_that_fits():
    sizes = (0, 999, 9_999, 10_000, 999_949, 999_950, 80_300_000, 1.5e9, 5e18)
    assert [format_bytes(size) for size in sizes] == [
        "0 bytes", "999 bytes", "9999 bytes", "10.0 kB", "999.9 kB", "1.0 MB", "80.3 MB", "1.5 GB",
        "5000.0 PB",
    ]  # fmt: skip


def test_an_earlier_file_is_replaced_completely_or_not_at_all(tmp_path):
    path, link = tmp_path / "results.json", tmp_path / "link.json"
    write_text(path, "first")
    path.chmod(0o640)
    link.symlink_to(path)
    numbers = {"x": np.arange(9999)}
    too_large = r"link\.json: cannot be written: File too large"
    for write in (lambda: write_text(link, "x" * 5000), lambda: write_npz(link, numbers)):
        with file_size_limit(1000), pytest.raises(OutputError, match=too_large):
            write()
        assert path.read_text() == "first"

    def interrupted():
        with atomic_file(link, "w") as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "first"
    assert {p.name for p in tmp_path.iterdir()} == {"results.json", "link.json"}
    write_text(link, "second")
    assert link.is_symlink()
    assert path.read_text() == "second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_npz(link, numbers)
    np.testing.assert_array_equal(np.load(io.BytesIO(path.read_bytes()))["x"], np.arange(9999))


def test_folders_and_devices(tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written: Is a directory"):
        write_text(tmp_path, "x")
    with pytest.raises(OutputError, match=r"no/x: cannot be written: No such file or directory"):
        write_text(tmp_path / "no/x", "x")
    with pytest.raises(OutputError, match=r"^/dev/full: cannot be written: No space left on device$"):
        write_text("/dev/full", "x")
    with RecordFile("/dev/full") as file, pytest.raises(OutputError, match="No space left on device"):
        file.write("x")
    write_text(os.devnull, "x")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("append", [False, True])
def test_a_record_that_finds_no_room_is_taken_back(tmp_path, append):
    """At every limit the file is what it was after the last record that fits."""
    records = [f"{n} {'é' * n}\n" for n in range(12)]
    ends = np.cumsum([0] + [len(r.encode()) for r in records])
    path = tmp_path / "records"
    for limit in range(0, ends[-1], 7):
        path.unlink(missing_ok=True)
        with file_size_limit(limit), RecordFile(path, append) as file:
            written = 0
            for record in records:
                try:
                    file.write(record)
                    written += 1
                except OutputError:
                    break
        fitting = int(np.flatnonzero(ends <= limit)[-1])
        assert (written, path.read_text()) == (fitting, "".join(records[:fitting]))
        with RecordFile(path, append) as file:  # there is room again
            file.write("last\n")
        assert path.read_text() == "".join(records[:fitting] if append else []) + "last\n"
