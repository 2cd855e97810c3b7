"""A run whose disk fills up between checkpoints, or whose directory disappears, ends with an error."""

import resource
import shutil
import time

import pytest

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.run import RunDirectory, list_steps
from livecc_jax.errors import CheckpointError, OutputError
from livecc_jax.model.presets import preset
from livecc_jax.train.guard import Diverged
from livecc_jax.train.hooks import Hook
from livecc_jax.train.loop import train
from livecc_jax.train.run_folder import RunFolderHook, check_run_folder
from livecc_jax.train.run_lock import LOCK, RunLock
from tests.support.disk import file_size_limit
from tests.support.training import run_config


class AtStep(Hook):
    """Calls a function after a step, before its metrics are written."""

    def __init__(self, step, function):
        self._step, self._function = step, function

    def after_step(self, step):
        if step == self._step:
            self._function()


def fill_disk(run):
    """Lets no file grow any more, once the checkpoint that is being written is complete."""
    deadline = time.monotonic() + 60
    while not list_steps(run):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.slow
def test_a_disk_that_fills_up_between_checkpoints_ends_the_run(home):
    """The metrics find no room; a run never waits for them."""
    run = home / "full"
    with (
        file_size_limit(resource.RLIM_INFINITY),
        pytest.raises(
            OutputError,
            match=r"tensorboard/events\S+: cannot be written: File too large; "
            "the newest checkpoint is step 2$",
        ),
    ):
        train(run_config(home, run), hooks=[AtStep(2, lambda: fill_disk(run))])
    assert list_steps(run) == [2]
    assert not (run / LOCK).exists()


REMOVALS = [
    (shutil.rmtree, "run: was deleted or moved while it was trained; there is no checkpoint yet"),
    (lambda run: run.rename(run.parent / "moved"), "run: was deleted or moved while it was trained"),
    (lambda run: (run / "config.json").unlink(), r"run: has lost its config\.json while it was"),
    (lambda run: (run / LOCK).unlink(), r"run: has lost its lock\.json while it was"),
]


@pytest.mark.parametrize(("remove", "message"), REMOVALS)
def test_a_run_directory_that_disappears_is_noticed(tmp_path, remove, message):
    run = RunDirectory(tmp_path / "run")
    lock = RunLock(run.path)
    run.create(preset("tiny"), LiveCCBlock(), None, {})
    hook = RunFolderHook(2, run, lock)
    hook.after_metrics(2, {})
    remove(run.path)
    hook.after_metrics(3, {})  # it looks at every second step
    with pytest.raises(CheckpointError, match=message):
        hook.after_metrics(4, {})
    RunFolderHook(1, run, None).after_metrics(
        1, {}
    )  # another process of the run leaves it to the first
    lock.release()


def test_a_directory_of_another_run_is_not_the_same(tmp_path):
    run = RunDirectory(tmp_path / "run")
    lock = RunLock(run.path)
    shutil.rmtree(run.path)
    other = RunLock(run.path)
    run.create(preset("tiny"), LiveCCBlock(), None, {})
    with pytest.raises(CheckpointError, match="run: was replaced by another one while it was trained"):
        check_run_folder(run, lock)
    check_run_folder(run, other)
    lock.release()
    assert other.is_held()
    other.release()


@pytest.mark.slow
@pytest.mark.parametrize(("remove", "message"), REMOVALS[:3])
def test_a_run_whose_directory_disappears_ends_in_an_error(home, tmp_path, remove, message):
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match=message):
        train(run_config(home, run), hooks=[AtStep(1, lambda: remove(run))])
    assert not list_steps(run)


@pytest.mark.slow
def test_a_run_that_diverges_before_its_first_checkpoint_says_so(home):
    class NanWeights(Hook):
        def after_batch(self, step, batch):
            batch.rows["target_weights"] = batch.rows["target_weights"] * float("nan")

    with pytest.raises(Diverged, match=r"step 1: the loss is nan .*, and there is no checkpoint yet"):
        train(run_config(home, home / "nan"), hooks=[NanWeights()])
