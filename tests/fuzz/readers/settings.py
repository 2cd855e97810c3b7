"""Settings of training as the command line takes them: config fields and mixtures of indexes."""

import math
from dataclasses import fields, is_dataclass
from pathlib import Path

from livecc_jax.data.rows.mixture import parse_mixture
from livecc_jax.train.config import Config, flatten
from livecc_jax.train.overrides import override
from tests.fuzz.reader import Reader

LINES = """run=out
init=model
seed=3
data.index=clips,qa*2
data.tokens=4096
data.rows_per_step=8
optim.learning_rate=1e-5
optim.b2=0.95
optim.eps=1e-8
optim.clip_norm=1.0
optim.accumulate=2
guard.factor=3.0
watch.late=300
checkpoint.every=100
data.index=clips@3,qa@1
"""


def _prepare(folder: Path) -> None:
    (folder / "changes.txt").write_text(LINES)


def _read(folder: Path, file: str):
    text = (folder / file).read_bytes().decode("utf-8", "surrogateescape")
    changes = [tuple(line.partition("=")[::2]) for line in text.split("\n") if line]
    config = override(Config(), changes)
    config.check()
    return changes, config, parse_mixture(config.data.index)


def _differs(folder: Path, file: str, value) -> str:
    changes, config, parts = value
    flat = flatten(config)
    for name, text in dict(changes).items():
        found = flat[name]
        if type(found) is int and found != int(text):
            return f"{name} is {found}, not {text}"
        if type(found) is float and found != float(text):
            return f"{name} is {found}, not {text}"
    for section in (config.optim, config.guard, config.watch):
        for field in fields(section):
            number = getattr(section, field.name)
            if isinstance(number, float) and not is_dataclass(number) and math.isnan(number):
                return f"{field.name} of NaN was accepted"
    return (
        ""
        if all(p.epochs is None or 0 < p.epochs <= 10_000 for p in parts)
        else "a mixture of any size"
    )


READER = Reader(
    "settings",
    _prepare,
    lambda folder: ["changes.txt"],
    _read,
    _differs,
    is_text=True,
    share=0.7,
    fast=50,
)
