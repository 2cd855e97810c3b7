"""Every command that a document prints is one that exists, with the options that it has."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from livecc_jax.commands.parser import build_parser
from tests.docs.pages import ROOT, code_lines, documents, inline_commands, site_pages, words

PARSER = build_parser()
[COMMANDS] = [a for a in PARSER._actions if isinstance(a, argparse._SubParsersAction)]
FIELDS = set(re.findall(r"^\| `([\w.]+)` \|", site_pages.config_page(), re.MULTILINE))
TAKES_FIELDS = ("train", "plan")  # commands that take --field.sub value
PAGES = [path for path in documents() if path.name != "CHANGELOG.md"]  # it also names what is gone
FIRST_WORDS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\S*/)?(livecc|python3?|make|\./launch_tpu\.sh)\b")


def name(path):
    return path.relative_to(ROOT).as_posix()


def options_of(command):
    return {o for action in COMMANDS.choices[command]._actions for o in action.option_strings}


def problem(line):
    """What is wrong with a printed line; None if nothing is."""
    match = FIRST_WORDS.match(line)
    if not match:
        return None
    try:
        rest = words(line[match.end() :])
    except ValueError as error:
        return str(error)
    if match[1] == "livecc":
        return problem_of_livecc(rest)
    if match[1] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return next(
            (f"no target {w}" for w in rest if re.fullmatch("[a-z-]+", w) and w not in targets), None
        )
    if match[1].startswith("python") and rest and rest[0].endswith(".py"):
        return problem_of_script(rest)
    return None


def problem_of_livecc(rest):
    if rest and rest[0] in ("-v", "--verbose"):
        rest = rest[1:]
    if not rest or rest[0] in ("...", "COMMAND", "--help", "--version"):
        return None
    command = rest[0]
    if command not in COMMANDS.choices:
        return f"there is no command {command}"
    options = [w.partition("=")[0] for w in rest if re.match(r"--[a-z]", w)]
    known = options_of(command)
    for option in options:
        field = option.removeprefix("--")
        if option not in known and not (command in TAKES_FIELDS and field in FIELDS):
            return f"livecc {command} has no {option}"
    if "..." in rest or not rest[1:] or command in TAKES_FIELDS:
        return None  # a line that is shortened
    try:
        PARSER.parse_args(rest)
    except SystemExit:
        return "the parser refuses it"
    return None


def problem_of_script(rest):
    script = ROOT / rest[0]
    if not script.exists():
        return f"{rest[0]} does not exist"
    source = script.read_text()
    for module in re.findall(r"^from (\w+) import", source, re.MULTILINE):
        if (script.parent / f"{module}.py").exists():
            source += (script.parent / f"{module}.py").read_text()
    options = [w.partition("=")[0] for w in rest[1:] if re.match(r"--[a-z]", w)]
    missing = [
        o for o in options if f'"{o}"' not in source and f'"--{o.removeprefix("--no-")}"' not in source
    ]
    return f"{rest[0]} has no {missing[0]}" if missing else None


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_printed_commands_exist(path, capsys):
    for line in code_lines(path):
        assert problem(line) is None, f"{line}: {problem(line)}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_commands_within_sentences_exist(path, capsys):
    for line in inline_commands(path):
        rest = line if "..." in line else f"{line} ..."  # a sentence names what matters in it
        assert problem(rest) is None, f"{line}: {problem(rest)}"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("livecc stream MODEL clip.mp4 --title 'Big Buck Bunny'", False),
        ("livecc stream MODEL clip.mp4 --titel x", True),
        ("livecc stream MODEL", True),
        ("livecc strem MODEL clip.mp4", True),
        ("livecc train configs/sft_7b.py --data.index index --run r", False),
        ("livecc train configs/sft_7b.py --data.indx index", True),
        ("make demo", False),
        ("make demmo", True),
        ("python benchmarks/packing.py --examples 5", False),
        ("python benchmarks/packing.py --exmples 5", True),
        ("python benchmarks/gone.py", True),
    ],
)
def test_the_check_finds_what_is_wrong(line, wrong, capsys):
    assert (problem(line) is not None) == wrong


def test_the_launch_script_has_the_commands_that_the_handbook_names():
    script = (ROOT / "launch_tpu.sh").read_text() + "".join(
        p.read_text() for p in (ROOT / "launch").glob("*.sh")
    )
    for path in PAGES:
        for line in code_lines(path):
            if line.startswith("./launch_tpu.sh"):
                rest = shlex.split(line.partition(" -- ")[0])[1:]
                for word in [rest[0], *(w for w in rest if w.startswith("--"))]:
                    assert word in script, f"{name(path)}: {line}"


def test_generated_pages_name_every_option():
    pages = site_pages.written_pages()
    for command in COMMANDS.choices:
        text = pages[f"{site_pages.CLI}/{command}.md"]
        for option in options_of(command):
            assert f"`{option}" in text
    assert "`data.rows_per_step`" in pages[site_pages.CONFIG_PAGE]
    assert {"mesh.fsdp", "compute.lora.rank", "optim.learning_rate"} <= FIELDS
    assert not Path(site_pages.DOCS / site_pages.CONFIG_PAGE).exists()
