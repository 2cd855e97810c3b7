"""`livecc ask`: answer questions about a whole video, or an image."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from livecc_jax.commands.options import (
    add_device_options,
    add_media_options,
    add_sampling_options,
    add_span_options,
    add_timeline_options,
    check_span,
    decoding_options,
    media_rules,
    open_command_model,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser("ask", help="answer questions about a video", description=__doc__)
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument("source", help="video or image file")
    parser.add_argument(
        "questions",
        nargs="*",
        metavar="question",
        help="questions in order; each sees the answers before it (default: the lines of standard "
        "input)",
    )
    add_span_options(parser)
    parser.add_argument(
        "--max-frames",
        type=int,
        default=480,
        metavar="N",
        help="largest number of frames of a video (default 480)",
    )
    add_timeline_options(parser)
    add_media_options(parser)
    add_sampling_options(parser, 128, "an answer")
    add_device_options(parser)
    parser.add_argument("--jsonl", metavar="OUT", help="also write a line for each answer")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answers in the terminal and in the requested file."""
    import contextlib
    import sys

    from livecc_jax.api.questions import check_question, open_chat
    from livecc_jax.serving.sinks import JsonLines

    check_span(args)
    for question in args.questions:
        check_question(question)
    chat = open_chat(
        open_command_model(args),
        args.source,
        start=args.start,
        end=args.end,
        max_frames=args.max_frames,
        pixel_budget=args.pixel_budget,
        rules=media_rules(args),
        **decoding_options(args),
    )
    with contextlib.ExitStack() as stack:
        lines = JsonLines(args.jsonl) if args.jsonl else None
        if lines:
            stack.callback(lines.close)
        for question in args.questions or _read_questions():
            answer = chat.ask(question, args.max_new_tokens)
            if args.questions or not sys.stdin.isatty():  # otherwise the terminal shows it already
                print(f"? {question}")
            print(f"> {answer.text.strip()}", flush=True)
            if lines:
                lines.answer(answer)
    return 0


def _read_questions() -> Iterator[str]:
    """Yields the lines of standard input as questions, with a prompt at a terminal."""
    import sys

    from livecc_jax.errors import ConfigError

    while True:
        if sys.stdin.isatty():
            print("? ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise ConfigError(f"standard input is not text in {error.encoding}") from None
        if not line:
            return
        if line.strip():
            yield line.strip()
