"""The fast share of `make fuzz`: a few hundred damaged files, and every one that failed before."""

import pytest

from tests.fuzz import regressions
from tests.fuzz.check import FAULTS, REFUSED, check
from tests.fuzz.inputs import Inputs
from tests.fuzz.readers import READERS

SEED = 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name, tmp_path):
    reader, folder = READERS[name], tmp_path / "good"
    folder.mkdir()
    reader.prepare(folder)
    for file in reader.files(folder):
        assert reader.differs(folder, file, reader.read(folder, file)) == "", f"{file}, undamaged"
    inputs = Inputs(reader, folder, SEED)
    cases = [(f"input {n} of seed {SEED}", False, inputs[n]) for n in range(reader.fast)]
    faults = []
    for what, must_be_refused, damaged in [*cases, *regressions.load(name, folder)]:
        outcome = check(reader, folder, damaged)
        if outcome.kind in FAULTS or (must_be_refused and outcome.kind != REFUSED):
            faults.append(f"{what}: {outcome}")
    assert not faults
