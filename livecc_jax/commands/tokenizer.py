"""`livecc tokenizer`: train a SentencePiece tokenizer for a model of one's own."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "tokenizer", help="train a SentencePiece tokenizer from text", description=__doc__
    )
    parser.add_argument("corpus", nargs="+", help="UTF-8 text files, one sentence a line")
    parser.add_argument("--out", required=True, help="directory that gets tokenizer.model")
    parser.add_argument("--vocab-size", type=int, default=32000, help="pieces in all (default 32000)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, then say what came out."""
    from livecc_jax.text.sentencepiece import SentencePieceTokenizer, train_sentencepiece

    path = train_sentencepiece(args.corpus, args.out, args.vocab_size)
    print(f"{path}: {SentencePieceTokenizer(path).vocab_size} pieces")
    return 0
