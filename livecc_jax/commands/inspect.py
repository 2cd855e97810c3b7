"""`livecc inspect`: the timeline of one example, turn by turn, as the model will see it."""

from __future__ import annotations

import argparse

from livecc_jax.commands.options import add_timeline_options, add_tokenizer_options


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("inspect", help="show an example's timeline", description=__doc__)
    parser.add_argument("annotations", help="JSONL annotation file")
    parser.add_argument("--example", type=int, default=0, help="number of the line, from 0 (default 0)")
    add_tokenizer_options(parser)
    add_timeline_options(parser)
    parser.add_argument("--no-context", action="store_true", help="without title or previous text")
    parser.add_argument("--npz", metavar="OUT", help="also write the example's arrays")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the timeline."""
    from livecc_jax.commands.options import timeline_settings
    from livecc_jax.data.inspect import describe, save_npz
    from livecc_jax.data.plan import plan_example
    from livecc_jax.data.records import AnnotationFile
    from livecc_jax.errors import ExampleError
    from livecc_jax.timeline.chat import ChatTemplate

    tokenizer, budget, mode = timeline_settings(args)
    file = AnnotationFile(args.annotations)
    example = file[args.example]
    try:
        plan = plan_example(example, ChatTemplate(tokenizer), budget, not args.no_context)
    except ExampleError as error:
        raise ExampleError(f"{args.annotations} line {args.example + 1}: {error}") from None
    print(describe(plan, tokenizer, budget, mode))
    if args.npz:
        save_npz(plan, tokenizer, mode, args.npz)
        print(f"arrays written to {args.npz}")
    return 0
