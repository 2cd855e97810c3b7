"""`livecc tokenizer`: train a SentencePiece tokenizer for a new model."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "tokenizer", help="train a SentencePiece tokenizer from text", description=__doc__
    )
    parser.add_argument("corpus", nargs="+", help="UTF-8 text files, one sentence a line")
    parser.add_argument("--out", required=True, help="directory to write tokenizer.model to")
    parser.add_argument("--vocab-size", type=int, default=32000, help="vocabulary size (default 32000)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains, and prints what was written."""
    from livecc_jax.text.sentencepiece import SentencePieceTokenizer, train_sentencepiece

    path = train_sentencepiece(args.corpus, args.out, args.vocab_size)
    print(f"{path}: {SentencePieceTokenizer(path).vocab_size} pieces")
    return 0
