"""Ctrl-C and SIGTERM end a command also where the exception they raise is lost."""

import argparse
import gc
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from livecc_jax import cli
from livecc_jax.commands.signals import raise_if_stopped

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Runs a function as a command; returns its exit code and what it printed on standard error."""

    def run(function):
        args = argparse.Namespace(command="test", run=function, verbose=False)
        parser = SimpleNamespace(parse_args=lambda argv: args)
        monkeypatch.setattr(cli, "build_parser", lambda: parser)
        before = [signal.getsignal(n) for n, *_ in SIGNALS]
        code = cli.main([])
        assert [signal.getsignal(n) for n, *_ in SIGNALS] == before
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_inside_a_callback_is_not_lost(run_command, number, code, word):
    """The garbage collector's callbacks, of which jax has one, pass no exception on."""
    calls = []

    def callback(phase, info):
        if not calls:
            calls.append(phase)
            os.kill(os.getpid(), number)
            for _ in range(1000):
                pass
            calls.append("not interrupted")

    def command(args):
        gc.callbacks.append(callback)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(callback)
        calls.append("went on")
        time.sleep(20)

    start = time.monotonic()
    assert run_command(command) == (code, f"livecc test: {word}\n")
    assert time.monotonic() - start < 5
    assert calls == ["start", "went on"]


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_an_interrupt_that_became_another_error_is_one(run_command, number, code, word):
    """Native code turns the exception of a callback into one of its own."""

    def command(args):
        try:
            os.kill(os.getpid(), number)
            time.sleep(20)
        except KeyboardInterrupt as error:
            raise RuntimeError("INTERNAL: the callback failed") from error

    assert run_command(command) == (code, f"livecc test: {word}\n")


def test_a_loop_notices_an_interrupt_that_was_swallowed(run_command):
    def command(args):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)
        except BaseException:
            pass
        raise_if_stopped()
        raise AssertionError("it went on")

    assert run_command(command) == (130, "livecc test: interrupted\n")
    raise_if_stopped()  # the next command is not concerned


PRINTS = """
import argparse
from livecc_jax import cli
args = argparse.Namespace(command="test", run=lambda args: print("a line"), verbose=False)
cli.build_parser = lambda: argparse.Namespace(parse_args=lambda argv: args)
raise SystemExit(cli.main([]))
"""


def test_a_standard_output_that_is_full_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS], stdout=full, stderr=subprocess.PIPE)
    assert done.stderr == b"livecc test: standard output: No space left on device\n"
    assert done.returncode == 2
