"""One home and one undisturbed run for all tests of whole runs."""

import pytest

from tests.support.training import config, losses, make_home


@pytest.fixture(scope="session")
def home(tmp_path_factory, small_tokenizer):
    """Where a tokenizer, an index and the runs are."""
    home = tmp_path_factory.mktemp("train")
    make_home(home, small_tokenizer)
    return home


@pytest.fixture(scope="session")
def straight(home):
    """The run that nothing interrupts: (loss, gradient norm, quarantined) of each step."""
    return losses(config(home, home / "straight"))
