"""The configuration of a training run: one frozen dataclass and its checks.

A file under configs/ defines one value of `Config`.
"""

from __future__ import annotations

import dataclasses
import math
import runpy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from livecc_jax.errors import ConfigError
from livecc_jax.model.lora import LoraConfig
from livecc_jax.model.remat import REMAT_POLICIES, Remat
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.shipped import shipped_configs
from livecc_jax.timeline.position_modes import POSITION_MODES, PositionMode

Guard = Literal["ignore", "skip", "stop"]
Dtype = Literal["float32", "bfloat16"]
GUARD_POLICIES, DTYPES = get_args(Guard), get_args(Dtype)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is not one of {', '.join(choices)}")


def _check_at_least_one(section: str, node: Any, *names: str) -> None:
    for name in names:
        value = getattr(node, name)
        if value < 1:
            raise ConfigError(f"{section}{name} must be at least 1, not {value}")


def _check_not_negative(section: str, node: Any, *names: str) -> None:
    for name in names:
        value = getattr(node, name)
        if not 0 <= value < math.inf:  # also refuses NaN
            raise ConfigError(f"{section}{name} must not be negative, not {value}")


def _check_share(section: str, node: Any, *names: str) -> None:
    for name in names:
        value = getattr(node, name)
        if not 0 <= value < 1:  # also refuses NaN
            raise ConfigError(f"{section}{name} must be at least 0 and less than 1, not {value}")


@dataclass(frozen=True)
class DataConfig:
    """The packed rows that a run trains on, and their static shape."""

    index: str = ""  # of `livecc index`; several: "clips,qa*2" (epochs), "clips@3,qa@1" (weights)
    root: str = ""  # folder that paths in the index are relative to, if its data was moved
    cache: str = ""  # folder for copies of videos in buckets, on each host; default ~/.cache/livecc
    cache_gb: float = 50.0  # maximum size of that folder
    media_root: str = ""  # folder that the files of an index must lie in (--media-root); "": anywhere
    allow_hosts: tuple[str, ...] = ()  # hosts that may be reached though not public (--allow-host)
    tokens: int = 32768  # T, tokens of a row
    windows: int = 64  # W, vision windows of a row
    targets: int = 2048  # N, supervised tokens of a row
    rows_per_step: int = 8  # global, over all hosts and micro-batches
    # how losses are averaged: every token alike, or every example, as in the released training
    weighting: Literal["token", "example"] = "token"
    epochs: int = 1  # how often each example is seen
    workers: int = 0  # processes that decode video on each host; 0 decodes in threads
    quarantine: str = ""  # a quarantine.jsonl of an earlier run, to repeat it exactly
    max_quarantined: float = 0.1  # share of the examples; more (and more than 20) end the run

    def check(self) -> None:
        """Raises ConfigError, naming the field, for a value that no run can have."""
        # Imported here because building rows needs much that reading a config does not.
        from livecc_jax.data.files.media_root import MediaRoot
        from livecc_jax.data.rows.row import WEIGHTINGS

        MediaRoot.of(self.media_root, self.allow_hosts)
        if not self.index:
            raise ConfigError("the config sets no data.index")
        _check_choice("data.weighting", self.weighting, WEIGHTINGS)
        _check_at_least_one(
            "data.", self, "tokens", "windows", "targets", "rows_per_step", "epochs"
        )  # fmt: skip
        _check_not_negative("data.", self, "workers", "max_quarantined", "cache_gb")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay (LiveCC, arXiv 2504.16030, section 5)."""

    learning_rate: float = 2e-5  # at the end of the warm-up
    warmup_ratio: float = 0.03  # share of the steps in which the rate rises from 0
    weight_decay: float = 0.0  # of matrices; added to AdamW's step
    b1: float = 0.9  # decay of the mean of gradients
    b2: float = 0.999  # decay of the mean of their squares
    eps: float = 1e-8  # added to the root of that mean
    clip_norm: float = 1.0  # largest norm of all gradients together; inf clips nothing
    accumulate: int = 1  # micro-batches of a step

    def check(self) -> None:
        """Raises ConfigError, naming the field, for a value that no run can have."""
        _check_at_least_one("optim.", self, "accumulate")
        _check_not_negative("optim.", self, "learning_rate", "warmup_ratio", "weight_decay")
        _check_share("optim.", self, "b1", "b2")
        if not 0 < self.eps < math.inf:
            raise ConfigError(f"optim.eps must be a positive number, not {self.eps}")
        if not self.clip_norm > 0:  # infinity clips nothing
            raise ConfigError(f"optim.clip_norm must be positive, not {self.clip_norm}")


@dataclass(frozen=True)
class ComputeConfig:
    """How the step is computed, and which parameters are trainable.

    All fields but `freeze` and `lora` change speed and memory only, and results up to rounding.
    """

    dtype: Dtype = "bfloat16"  # of activations and matrix products; parameters stay in float32
    remat: Remat = "full"  # what is computed again in the backward pass, to save memory
    unroll: bool = False  # compile the decoder layer by layer: faster on a GPU, compiling takes longer
    head_chunk: int = 512  # supervised tokens whose logits are in memory at the same time
    freeze: tuple[str, ...] = ("vision",)  # parameter paths (prefixes) that are not trainable
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Paths that are not trainable: `freeze`, and with adapters the decoder that they adapt."""
        return (*self.freeze, "text") if self.lora.rank else self.freeze

    def check(self) -> None:
        """Raises ConfigError, naming the field, for a value that no run can have."""
        self.check_remat()
        _check_choice("compute.dtype", self.dtype, DTYPES)
        self.lora.check()
        _check_at_least_one("compute.", self, "head_chunk")

    def check_remat(self) -> None:
        """Raises ConfigError when `remat` is not the name of a rematerialization policy."""
        _check_choice("compute.remat", self.remat, REMAT_POLICIES)


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save checkpoints and how many to keep."""

    every: int = 500  # steps; 0 saves at the end only
    keep: int = 3  # the newest so many
    keep_every: int = 0  # also keep all steps that are multiples of this; 0 keeps none besides `keep`

    def check(self) -> None:
        """Raises ConfigError, naming the field, for a value that no run can have."""
        _check_at_least_one("checkpoint.", self, "keep")
        _check_not_negative("checkpoint.", self, "every", "keep_every")


@dataclass(frozen=True)
class GuardConfig:
    """What happens after a harmful step: "stop" the run, "skip" the update, or "ignore" it."""

    nan: Guard = "stop"  # the loss or the gradient norm is not finite
    spike: Guard = "ignore"  # the loss exceeds `factor` times the median of the last `window` good ones
    factor: float = 3.0  # of the median, from which a loss is a spike
    window: int = 64  # good losses of which the median is taken
    most: int = 10  # maximum of consecutive skipped steps; one more ends the run

    def check(self) -> None:
        """Raises ConfigError, naming the field, for a value that no run can have."""
        _check_choice("guard.nan", self.nan, GUARD_POLICIES)
        _check_choice("guard.spike", self.spike, GUARD_POLICIES)
        _check_at_least_one("guard.", self, "window")
        _check_not_negative("guard.", self, "factor", "most")


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluations during training, on data that the run is not trained on (docs/pods.md)."""

    index: str = ""  # directory of `livecc index` for the held-out loss; "": no held-out loss
    every: int = 0  # steps; 0: with every checkpoint
    rows: int = 64  # maximum number of held-out rows (rounded up to full micro-batches)
    choice: tuple[str, ...] = ()  # multiple choice: BENCHMARK=PATH, as `livecc evaluate` takes them
    questions: int = 64  # maximum number of questions of each benchmark
    max_frames: int = 32  # of the video of a question; the conversation must fit a row
    commentary: str = ""  # annotations, or LiveSports-3K's CC file: clips to comment on
    clips: int = 8  # maximum number of those clips

    def check(self) -> None:
        """Raises ConfigError, naming the field, for a value that no run can have."""
        _check_at_least_one("evaluate.", self, "rows", "questions", "clips", "max_frames")
        _check_not_negative("evaluate.", self, "every")


@dataclass(frozen=True)
class WatchConfig:
    """What the watchdog does when no step ends for long. Values are seconds; 0 means never."""

    late: float = 300.0  # log which host is late
    give_up: float = 0.0  # end this process, so that the launcher starts the run again

    def check(self) -> None:
        """Raises ConfigError, naming the field, for a value that no run can have."""
        _check_not_negative("watch.", self, "late", "give_up")


@dataclass(frozen=True)
class Config:
    """A training run. Weights come from `init`, or are random with `preset` and `tokenizer`."""

    run: str = ""  # directory of checkpoints and logs; if it holds a checkpoint, training resumes
    init: str = ""  # checkpoint to start from: HuggingFace directory, run, or step of a run
    preset: str = ""  # architecture to start with random weights: tiny, small, 2b, 7b, ...
    tokenizer: str = ""  # tokenizer file or directory of a preset
    positions: PositionMode = "mrope"  # rotary positions; see docs/positions.md
    seed: int = 0  # of initial weights and of the order of rows
    max_steps: int = 0  # steps after which the run ends; 0: all epochs
    log_every: int = 10  # steps from one report to the next
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    wandb: str = ""  # project of Weights & Biases that metrics also go to; "": none
    profile: str = ""  # steps to trace: "3" (so many, once compiled) or "100-103"; "": none

    def check(self) -> None:
        """Raises ConfigError for values that no run can have, of this dataclass and of its sections.

        This is a method, not `__post_init__`: command-line overrides are applied one after another, so
        a value in between may be inconsistent.
        """
        if not self.run:
            raise ConfigError("the config sets no run")
        try:
            is_file = Path(self.run).exists() and not Path(self.run).is_dir()
        except (OSError, ValueError) as error:  # too long, or a NUL in it
            raise ConfigError(f"{self.run!a:.200}: is no possible path of a run") from error
        if is_file:
            raise ConfigError(f"{self.run}: the run must be a directory")
        if bool(self.init) == bool(self.preset):
            raise ConfigError(
                "the config must set one of init (a checkpoint) and preset (random weights)"
            )
        if self.preset and not self.tokenizer:
            raise ConfigError("a preset needs a tokenizer: the config sets no tokenizer")
        _check_choice("positions", self.positions, POSITION_MODES)
        _check_at_least_one("", self, "log_every")
        _check_not_negative("", self, "seed", "max_steps")
        for section in (self.data, self.optim, self.compute, self.checkpoint, self.guard):
            section.check()
        self.evaluate.check()
        self.watch.check()
        self.check_micro_batches()

    def check_micro_batches(self) -> None:
        """Raises ConfigError when the rows of a step do not divide into its micro-batches."""
        rows, accumulate = self.data.rows_per_step, self.optim.accumulate
        if accumulate < 1 or rows % accumulate:
            raise ConfigError(
                f"data.rows_per_step is {rows}, "
                f"which does not divide over optim.accumulate = {accumulate}"
            )


# Fields that cannot change when a run resumes: the rows would differ, or the state would not fit.
FIXED_ON_RESUME = (
    "preset", "tokenizer", "positions", "seed", "compute.freeze", "compute.lora.rank",
    "compute.lora.alpha", "compute.lora.targets", "optim.accumulate", "data.tokens", "data.windows",
    "data.targets", "data.rows_per_step", "data.weighting",
)  # fmt: skip


def load_config(path: str | Path) -> Config:
    """Runs a config file and returns its `config`.

    Args:
        path: A Python file that defines `config`, or the name of a config that is installed with the
            package: "demo", "pretrain_7b", ...; a file `demo.py` goes before the shipped `demo.py`, but
            the name `demo` is always the shipped one.

    Raises:
        ConfigError: The file is missing, fails, or defines no Config.

    Example:
        >>> livecc_jax.load_config("pretrain_7b").optim.learning_rate
        2e-05
    """
    named = shipped_configs()
    path = named.get(str(path), Path(path))
    if not _is_file(path):
        path = named.get(str(path).removesuffix(".py"), path)
    if not _is_file(path):
        raise ConfigError(
            f"{path}: there is no such config file; the shipped ones are {', '.join(named)}"
        )
    try:
        values = runpy.run_path(str(path))
    except ConfigError:
        raise
    except Exception as error:  # any mistake in the user's file is reported in one sentence
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    config = values.get("config")
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: it must define `config`, a livecc_jax.train.config.Config")
    return config


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long, or a NUL in it
        return False


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every field as {"data.tokens": 32768, ...}, with tuples as lists as in JSON."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = list(value) if isinstance(value, tuple) else value
    return flat


def check_resume(old: dict[str, Any], new: Config, run: str) -> list[str]:
    """Compares a config with the one that the run was last started with.

    Args:
        old: The flat config in the checkpoint.
        new: The config to resume with.
        run: The run directory, for error messages.

    Returns:
        A sentence for every field that changed.

    Raises:
        ConfigError: Fields changed that cannot change; the message names all of them.
    """
    flat = flatten(new)
    old = flatten(Config()) | old  # a field added after the run was started had its default
    changed = [k for k in flat if old[k] != flat[k] and k != "run"]
    refused = [k for k in changed if k in FIXED_ON_RESUME]
    if refused:
        what = ", ".join(f"{k} ({old[k]!r} before, {flat[k]!r} now)" for k in refused)
        raise ConfigError(f"{run}: this run cannot resume with another {what}")
    return [f"{k}: {old[k]!r} before, {flat[k]!r} now" for k in changed]
