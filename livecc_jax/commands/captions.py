"""`livecc captions`: the words of a caption or transcript file, with their times."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "captions", help="read the words of a caption or transcript file", description=__doc__
    )
    parser.add_argument(
        "file",
        help="captions (YouTube json3, srv1 to srv3, WebVTT, SRT, TTML, ASS) or a transcript (JSON of "
        "WhisperX, faster-whisper or whisper)",
    )
    parser.add_argument(
        "--language",
        metavar="L",
        help="language of the file, where it does not state it; the wanted one of several in a file",
    )
    parser.add_argument("--json", metavar="OUT", help="file for the words as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the words a line each, or writes them as JSON."""
    from livecc_jax.produce.captions.read import read_captions
    from livecc_jax.produce.records import dumps
    from livecc_jax.redact import visible
    from livecc_jax.writing import write_text

    found = read_captions(args.file, args.language or "")
    language = found.language or args.language or None
    kind = found.kind or None
    if args.json:
        words = [[start / 1000, end / 1000, text] for start, end, text in found.words]
        write_text(args.json, dumps({"kind": kind, "language": language, "words": words}) + "\n")
    else:
        for start, end, text in found.words:
            print(f"{start / 1000:10.3f} {end / 1000:10.3f}  {visible(text)}")
    print(f"{visible(args.file)}: {found.format}, {len(found.words)} words", end="")
    print(f", {kind}" if kind else "", f"in {visible(language)}" if language else "")
    return 0
