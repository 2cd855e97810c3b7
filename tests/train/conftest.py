"""One data folder and one uninterrupted run for all tests of complete runs."""

import pytest

from tests.support.training import make_run_data, run_config, train_losses


@pytest.fixture(scope="session")
def home(tmp_path_factory, small_tokenizer):
    """The folder of the tokenizer, the index and the runs."""
    home = tmp_path_factory.mktemp("train")
    make_run_data(home, small_tokenizer)
    return home


@pytest.fixture(scope="session")
def straight(home):
    """(loss, gradient norm, quarantined) of each step of the run that is not interrupted."""
    return train_losses(run_config(home, home / "straight"))
