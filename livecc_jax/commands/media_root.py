"""The options --media-root and --allow-host, which confine what annotations may point to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_jax.data.files.media_root import MediaRoot


def add_media_root_options(parser: argparse.ArgumentParser) -> None:
    """Adds --media-root and --allow-host, which `media_root` reads."""
    parser.add_argument(
        "--media-root",
        default="",
        metavar="DIR",
        help="annotations may point to files in this folder alone, symbolic links followed, and to "
        "addresses in buckets and of public hosts (default: to any file and address)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help="with --media-root: host or network, such as media.local or 10.0.0.0/8, that annotations "
        "may point to although it is not public; repeat for more",
    )


def media_root(args: argparse.Namespace) -> MediaRoot | None:
    """Returns what the options confine annotations to; None without --media-root."""
    from livecc_jax.data.files.media_root import MediaRoot

    return MediaRoot.of(args.media_root, tuple(args.allow_host))
