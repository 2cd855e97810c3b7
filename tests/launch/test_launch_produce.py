"""launch_produce.sh prints commands that the parser of `livecc produce` takes."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from livecc_jax.commands.parser import build_parser

SCRIPT = Path(__file__).parents[2] / "launch_produce.sh"
CLOUD = ["--project", "p", "--region", "r", "--bucket", "gs://b/x"]


def launch(*arguments):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "options", "runner", "exchange"),
    [
        ("dataflow", [*CLOUD, "--workers", "9"], "DataflowRunner", "gs://b/x/shards"),
        ("flink", ["--master", "h:8081", "--bucket", "gs://b"], "FlinkRunner", "gs://b/shards"),
        ("spark", ["--master", "spark://h:7077", "--shared"], "SparkRunner", ""),
        ("portable", ["--master", "h:8099", "--shared"], "PortableRunner", ""),
    ],
)
def test_the_commands_are_those_of_livecc_produce(command, options, runner, exchange):
    rest = ["--", "sft", "a b.jsonl", "--out", "d"]
    printed = launch(command, "--image", "i", *options, "--print", *rest)
    assert printed.returncode == 0, printed.stderr
    name, *words = shlex.split(printed.stdout)
    assert name == "livecc"
    args = build_parser().parse_args(words)
    assert (args.kind, args.sources, args.out) == ("sft", ["a b.jsonl"], "d")
    assert (args.runner, args.exchange) == (runner, exchange)
    assert all("=" in option for option in args.beam)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fly"], "there is no command 'fly'"),
        (["flink", "--print"], "--image is missing"),
        (["flink", "--image"], "--image needs a value"),
        (["flink", "--image", "i", "--", "sft"], "flink needs --master"),
        (["spark", "--image", "i", "--master", "m", "--", "sft"], "name --bucket, or say --shared"),
        (["dataflow", "--image", "i", "--shared", "--", "sft"], "dataflow needs --project"),
        (["dataflow", "--image", "i", *CLOUD], "the arguments of livecc produce are missing"),
    ],
)
def test_what_is_missing_is_one_sentence(arguments, sentence):
    result = launch(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_the_script_is_clean():
    shellcheck = shutil.which("shellcheck") or Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
