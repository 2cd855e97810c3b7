"""LiveCC in JAX: a streaming video-language model that comments while it watches.

    import livecc_jax

    model = livecc_jax.open_model("demo_out/hf")
    for turn in livecc_jax.comment(model, livecc_jax.example_clip(), title="Big Buck Bunny"):
        print(turn.start, turn.words)

Everything in `__all__` is public. A name's libraries are imported when it is first used, so importing
the package takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from livecc_jax.version import __version__

if TYPE_CHECKING:
    from livecc_jax.api.comments import comment
    from livecc_jax.api.indexing import build_index
    from livecc_jax.api.models import Model, open_model
    from livecc_jax.api.questions import ask, open_chat
    from livecc_jax.api.sessions import FrameSession, open_session
    from livecc_jax.api.streams import Streams, open_engine, watch
    from livecc_jax.api.training import train_model
    from livecc_jax.checkpoints.convert import convert as convert_model
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        LiveCCError,
        MediaError,
        OutputError,
        TokenizerError,
    )
    from livecc_jax.media.rules import MediaRules
    from livecc_jax.shipped import example_clip
    from livecc_jax.stream.engine import Engine
    from livecc_jax.stream.turn import Answer, ContextFull, SpokenTurn
    from livecc_jax.train.config import Config, load_config
    from livecc_jax.verify.compare import Verification, verify_models

_HOMES = {
    "api.comments": ("comment",),
    "api.indexing": ("build_index",),
    "api.models": ("Model", "open_model"),
    "api.questions": ("ask", "open_chat"),
    "api.sessions": ("FrameSession", "open_session"),
    "api.streams": ("Streams", "open_engine", "watch"),
    "api.training": ("train_model",),
    "checkpoints.convert": ("convert as convert_model",),
    "decoding.options": ("StreamOptions",),
    "errors": (
        "CheckpointError", "ConfigError", "DataError", "LiveCCError", "MediaError", "OutputError",
        "TokenizerError",
    ),
    "media.rules": ("MediaRules",),
    "shipped": ("example_clip",),
    "stream.engine": ("Engine",),
    "stream.turn": ("Answer", "ContextFull", "SpokenTurn"),
    "train.config": ("Config", "load_config"),
    "verify.compare": ("Verification", "verify_models"),
}  # fmt: skip
_HOME = {name.split()[-1]: (home, name.split()[0]) for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 (in the order of a reader's questions)
    "__version__",
    "open_model", "Model", "example_clip",
    "comment", "SpokenTurn", "Answer", "StreamOptions", "MediaRules",
    "open_session", "FrameSession",
    "watch", "Streams", "open_engine", "Engine",
    "ask", "open_chat",
    "build_index", "load_config", "Config", "train_model",
    "convert_model", "verify_models", "Verification",
    "LiveCCError", "CheckpointError", "ConfigError", "ContextFull", "DataError", "MediaError",
    "OutputError", "TokenizerError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, name_there = _HOME[name]
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name_there)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
