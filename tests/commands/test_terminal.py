"""What commands print: no password of an address and no control character, whoever prints it."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

from livecc_jax.cli import main
from livecc_jax.commands.terminal import SafeStream

# A small one, which opens at once.
TOKENIZER = str(Path(__file__).parents[1] / "goldens/earlier/run/tokenizer.model")
SECRET = "hunter2"
ADDRESS = f"rtsp://admin:{SECRET}@127.0.0.1:9/live"
ESCAPE = "clip\x1b]0;gone\x07\x1b[2J"


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", ADDRESS, "--out", "{tmp}/index", "--tokenizer", TOKENIZER],
        ["index", ESCAPE, "--out", "{tmp}/index", "--tokenizer", TOKENIZER],
        ["dataset", f"http://u:{SECRET}@127.0.0.1:9/a.jsonl", "--out", "{tmp}"],
        ["inspect", ESCAPE, "--tokenizer", TOKENIZER],
        ["train", f"{ADDRESS}{ESCAPE}"],
        ["convert", ESCAPE, "{tmp}/out", "--to", "hf"],
        ["stream", f"{ESCAPE}{ADDRESS}", "x.mp4"],
        ["score", "videomme", f"{ESCAPE} {ADDRESS}"],
        ["ask", "model", "x.mp4", f"--{ADDRESS}{ESCAPE}"],  # a usage message
        [f"{ADDRESS}{ESCAPE}"],
    ],
)
def test_no_command_prints_a_secret_or_a_control_character(arguments, tmp_path, capsys):
    code = 2
    with contextlib.suppress(SystemExit):  # of a usage message
        code = main([a.replace("{tmp}", str(tmp_path)) for a in arguments])
    assert code == 2
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert text.strip()
    assert SECRET not in text
    assert "Traceback" not in text
    assert all(c == "\n" or c.isprintable() for c in text)


def test_an_uncaught_exception_and_logs_of_threads(capsys, monkeypatch):
    monkeypatch.setattr("livecc_jax.cli.build_parser", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([])
    try:
        raise RuntimeError(f"{ADDRESS} {ESCAPE}")
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    text = capsys.readouterr().err
    assert "RuntimeError: rtsp://***@127.0.0.1:9/live clip\\x1b" in text
    assert SECRET not in text
    assert "\x1b" not in text
    assert not isinstance(sys.stderr, SafeStream)  # restored


def test_a_name_cannot_move_the_cursor():
    out = io.StringIO()
    stream = SafeStream(out)
    stream.write("left out: ")
    stream.write("\rall is well\n")
    stream.writelines(["\x1b[31mred\n"])
    stream.write_controls("\x1b[2F")
    assert out.getvalue() == "left out: \\x0dall is well\n\\x1b[31mred\n\x1b[2F"
