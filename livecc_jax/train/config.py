"""An experiment as one frozen dataclass; a file under configs/ is one value of it."""

from __future__ import annotations

import dataclasses
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from livecc_jax.errors import ConfigError
from livecc_jax.model.lora import LoraConfig
from livecc_jax.parallel.mesh import MeshConfig


@dataclass(frozen=True)
class DataConfig:
    """Which rows, of which shape."""

    index: str = ""  # of `livecc index`; several: "clips,qa*2" (epochs), "clips@3,qa@1" (weights)
    root: str = ""  # what paths in the index are relative to, if its data was moved
    cache: str = ""  # folder for copies of videos in buckets, on each host; default ~/.cache/livecc
    cache_gb: float = 50.0  # most it holds
    tokens: int = 32768  # T, tokens a row
    windows: int = 64  # W, vision windows a row
    targets: int = 2048  # N, supervised tokens a row
    rows_per_step: int = 8  # global, over all hosts and accumulation steps
    weighting: str = "token"  # or "example": every example alike, as the released training
    epochs: int = 1
    workers: int = 0  # processes that decode video on each host; 0 decodes in threads
    quarantine: str = ""  # a quarantine.jsonl of an earlier run, to repeat it exactly
    max_quarantined: float = 0.1  # share of the examples; more (and more than 20) end the run


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay (LiveCC section 5)."""

    learning_rate: float = 2e-5
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0
    accumulate: int = 1  # micro-batches a step


@dataclass(frozen=True)
class ComputeConfig:
    """How the step is computed, and what of the model learns.

    All but `freeze` and `lora` change speed and memory, not what is learnt (up to rounding).
    """

    dtype: str = "bfloat16"
    remat: str = "full"
    unroll: bool = False  # compile the decoder layer by layer: faster on a GPU, compiling takes longer
    head_chunk: int = 512  # supervised tokens whose logits are alive at once
    freeze: tuple[str, ...] = ("vision",)  # parameter paths (prefixes) that do not learn
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Paths that do not learn: `freeze`, and with adapters the decoder that they adapt."""
        return (*self.freeze, "text") if self.lora.rank else self.freeze


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save and how many to keep."""

    every: int = 500
    keep: int = 3
    keep_every: int = 0  # and every step that this divides, for ever; 0 keeps none for ever


@dataclass(frozen=True)
class GuardConfig:
    """What becomes of a step that would harm the run: "stop" the run, "skip" or "ignore" the step."""

    nan: str = "stop"  # the loss or the gradient is no number
    spike: str = "ignore"  # the loss is over `factor` times the median of the last `window` good ones
    factor: float = 3.0
    window: int = 64
    most: int = 10  # skipped steps in a row; one more ends the run


@dataclass(frozen=True)
class EvaluateConfig:
    """What a run is measured by on data that it is not trained on (docs/pods.md)."""

    index: str = ""  # directory written by `livecc index`, for the loss on it; none: no loss
    every: int = 0  # steps; 0: with every checkpoint
    rows: int = 64  # at most so many (rounded up to whole micro-batches)
    choice: tuple[str, ...] = ()  # multiple choice: BENCHMARK=PATH, as `livecc evaluate` takes them
    questions: int = 64  # of each benchmark, at most
    max_frames: int = 32  # of a question's video; the conversation must fit a row
    commentary: str = ""  # annotations, or LiveSports-3K's CC file: clips to comment on
    clips: int = 8  # of them, at most


@dataclass(frozen=True)
class WatchConfig:
    """What a run does about itself when no step ends for long; seconds, 0 for never."""

    late: float = 300.0  # say which host is late
    give_up: float = 0.0  # end this process, so that the launcher starts the run again


@dataclass(frozen=True)
class Config:
    """A training run. `init` names starting weights; or `preset` and `tokenizer` start from random."""

    run: str = ""  # directory of checkpoints and logs; if it holds a checkpoint, training resumes
    init: str = ""
    preset: str = ""
    tokenizer: str = ""
    positions: str = "mrope"
    seed: int = 0
    max_steps: int = 0  # 0: all epochs
    log_every: int = 10
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    wandb: str = ""  # project of Weights & Biases that the figures also go to; "": none
    profile: str = ""  # steps to trace: "3" (so many, once compiled) or "100-103"; "": none


# What a run cannot change when it resumes: the rows would differ, or the state would not fit.
FIXED_ON_RESUME = (
    "preset", "tokenizer", "positions", "seed", "compute.freeze", "compute.lora.rank",
    "compute.lora.alpha", "compute.lora.targets", "optim.accumulate", "data.tokens", "data.windows",
    "data.targets", "data.rows_per_step", "data.weighting",
)  # fmt: skip


def load_config(path: str | Path) -> Config:
    """Run a config file and return its `config`.

    Raises ConfigError when the file is missing, fails, or holds no Config.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such config file")
    try:
        values = runpy.run_path(str(path))
    except ConfigError:
        raise
    except Exception as error:  # any mistake in the user's file is theirs to read, in one sentence
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    config = values.get("config")
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: it must define `config`, a livecc_jax.train.config.Config")
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field as {"data.tokens": 32768, ...}, tuples as lists as JSON has them."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = list(value) if isinstance(value, tuple) else value
    return flat


def override(config: Config, changes: list[tuple[str, str]]) -> Config:
    """Apply command-line changes such as ("optim.learning_rate", "1e-5").

    Raises ConfigError for an unknown field or a value of the wrong kind.
    """
    for name, text in changes:
        config = _replace(config, name.split("."), text, name)
    return config


def _replace(node: Any, path: list[str], text: str, name: str) -> Any:
    known = {f.name for f in dataclasses.fields(node)}
    if path[0] not in known:
        raise ConfigError(f"there is no config field {name!r}; here are {', '.join(sorted(known))}")
    value = getattr(node, path[0])
    if dataclasses.is_dataclass(value) != (len(path) > 1):
        raise ConfigError(f"config field {name!r} is not a single value that can be set")
    if len(path) > 1:
        return dataclasses.replace(node, **{path[0]: _replace(value, path[1:], text, name)})
    kind = get_type_hints(type(node))[path[0]]
    try:
        if kind is bool:
            parsed: Any = {"true": True, "false": False}[text.lower()]
        else:
            parsed = tuple(filter(None, text.split(","))) if get_args(kind) else kind(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"config field {name!r} takes {kind.__name__}, not {text!r}") from error
    return dataclasses.replace(node, **{path[0]: parsed})


def check_resume(old: dict[str, Any], new: Config, run: str) -> list[str]:
    """Sentences on what changed since the run was last started.

    Raises ConfigError naming every field that cannot change.
    """
    flat = flatten(new)
    old = flatten(Config()) | old  # a field that is younger than the run had its default
    changed = [k for k in flat if old[k] != flat[k] and k != "run"]
    refused = [k for k in changed if k in FIXED_ON_RESUME]
    if refused:
        what = ", ".join(f"{k} ({old[k]!r} before, {flat[k]!r} now)" for k in refused)
        raise ConfigError(f"{run}: this run cannot resume with another {what}")
    return [f"{k}: {old[k]!r} before, {flat[k]!r} now" for k in changed]
