"""Fixtures of the index tests: a tokenizer's template, and data that may be changed and moved."""

import shutil
from pathlib import Path

import pytest

from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate

DATA = Path(__file__).parents[3] / "data"


@pytest.fixture(scope="module")
def template(small_tokenizer):
    return ChatTemplate(open_tokenizer(small_tokenizer))


@pytest.fixture
def home(tmp_path):
    """A copy of clips and annotations."""
    return copy_data(tmp_path / "home")


@pytest.fixture(scope="module")
def module_home(tmp_path_factory):
    """A copy of clips and annotations that the tests of a file share."""
    return copy_data(tmp_path_factory.mktemp("data") / "home")


def copy_data(home):
    (home / "clips").mkdir(parents=True)
    for name in ("bbb_espeak_narration_30s.mp4", "bikes.mp4", "frame.png"):
        shutil.copy(DATA / "clips" / name, home / "clips")
    shutil.copytree(DATA / "annotations", home / "annotations")
    return home
