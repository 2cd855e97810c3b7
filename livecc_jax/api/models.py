"""Opens a model for commentary and questions."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Literal

import jax

from livecc_jax.checkpoints.open import Checkpoint, open_checkpoint
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.parallel.mesh import make_mesh, parse_mesh
from livecc_jax.stream.model import StreamModel

DTYPES = ("float32", "bfloat16")


class Model:
    """A checkpoint that comments and answers; `open_model` makes it.

    Its weights are loaded when they are first needed, so that an unreadable video is noticed before
    that, and any number of streams share them. A model may be used by several threads.

    Attributes:
        checkpoint: Where it lies on disk, its architecture, and how it was trained.
        dtype: Dtype of weights and caches as it was asked for; None chooses it by the device.
        precision: Precision of matrix products, "weights" or "fp8".
        mesh: Device mesh as it was asked for, such as "data=2,tensor=2"; None is one device.
        compile_cache: Folder that caches compiled programs, as in `open_model`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: Literal["float32", "bfloat16"] | None = None,
        precision: Literal["weights", "fp8"] = "weights",
        mesh: str | None = None,
        compile_cache: str | Path | None = None,
    ) -> None:
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        self.checkpoint, self.dtype, self.precision, self.mesh = checkpoint, dtype, precision, mesh
        self.compile_cache = compile_cache
        self._loaded: StreamModel | None = None
        self._loading = threading.Lock()

    @property
    def path(self) -> Path:
        """The HuggingFace directory, or the step folder of a run."""
        return self.checkpoint.path

    @property
    def positions(self) -> str:
        """The rotary position mode that the model was trained with; decoding uses it by default."""
        return self.checkpoint.livecc.positions

    @property
    def pixel_budget(self) -> str:
        """The pixel budget that the model was trained with: "reference", or a number of tokens."""
        return str(self.checkpoint.livecc.pixel_budget)

    def load(self) -> StreamModel:
        """Loads the weights onto the devices, unless they are there already, and returns them.

        Raises:
            CheckpointError: The weights are damaged or do not have this architecture.
            TokenizerError: The checkpoint has no tokenizer that can be used.
            ConfigError: The model does not divide over the mesh, or the precision is unknown.
        """
        with self._loading:
            if self._loaded is None:
                configure_compilation_cache(self.compile_cache, jax.default_backend())
                self._loaded = load_stream_model(self.checkpoint, self.dtype, self.precision, self.mesh)
        return self._loaded

    def stream_options(self, positions: str | None = None, **decoding: Any) -> StreamOptions:
        """Returns decoding options with the model's own position mode and context length.

        Args:
            positions: Rotary position mode; None is the model's.
            **decoding: Other fields of `StreamOptions`, such as `temperature=0.7`.

        Raises:
            ConfigError: A value is out of range, or there is no such field.
        """
        unknown = sorted(decoding.keys() - StreamOptions.__dataclass_fields__.keys())
        if unknown:
            raise ConfigError(
                f"there is no decoding option {unknown[0]!r}; the options are "
                f"{', '.join(StreamOptions.__dataclass_fields__)}"
            )
        settings = {"context": self.checkpoint.config.text.max_positions} | decoding
        return StreamOptions(positions=positions or self.positions, **settings)

    def budget(self, pixel_budget: str | int | None = None) -> PixelBudget:
        """Returns a pixel budget; None is the model's. Raises ConfigError if it is none."""
        budget = self.pixel_budget if pixel_budget is None else pixel_budget
        return PixelBudget.parse(budget, self.checkpoint.config.vision.patch_size)

    def __repr__(self) -> str:
        return f"<livecc_jax.Model {self.path}>"


def open_model(
    path: str | Path,
    *,
    dtype: Literal["float32", "bfloat16"] | None = None,
    precision: Literal["weights", "fp8"] = "weights",
    mesh: str | None = None,
    compile_cache: str | Path | None = None,
) -> Model:
    """Opens a model; its weights are loaded when they are first needed.

    Args:
        path: A HuggingFace directory (Qwen2-VL, LiveCC, or what `livecc convert` has written), a
            training run (its newest complete step), or one step folder of a run.
        dtype: Dtype of weights and caches; None is float32 on a CPU and bfloat16 elsewhere.
        precision: Precision of matrix products: that of the weights, or "fp8" (8-bit floats, on Hopper
            GPUs).
        mesh: Device mesh of this host, such as "data=2,tensor=2": weights are split over `tensor`, the
            streams of an engine over `data`. None is one device.
        compile_cache: Folder that caches compiled programs for the next process, "none" for no cache,
            or "auto" for ~/.cache/livecc/programs, where JAX is configured with no other and the
            device is no CPU. It is a setting of the whole process; None leaves it as it is.

    Raises:
        CheckpointError: The path is no checkpoint, or its config.json cannot be used.
        ConfigError: The dtype is unknown.

    Example:
        >>> model = livecc_jax.open_model("demo_out/hf")
        >>> model.positions
        'mrope'
    """
    return Model(open_checkpoint(path), dtype, precision, mesh, compile_cache)


def configure_compilation_cache(folder: str | Path | None, backend: str) -> None:
    """Sets JAX's persistent compilation cache, for the whole process.

    Args:
        folder: Folder of the cache, or "none" for no cache. "auto" is what JAX is configured with (for
            instance by JAX_COMPILATION_CACHE_DIR), or else a folder in the user's cache directory, but
            none on a CPU, because a program compiled for one CPU may not run on another machine that
            shares the home directory. None changes nothing.
        backend: JAX's default backend.
    """
    if folder is None:
        return
    if folder == "auto":
        if jax.config.jax_compilation_cache_dir or backend == "cpu":
            return
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(home).expanduser() / "livecc" / "programs"
    jax.config.update("jax_compilation_cache_dir", None if folder == "none" else str(folder))


def load_stream_model(
    checkpoint: Checkpoint, dtype: str | None, precision: str, mesh: str | None
) -> StreamModel:
    """Loads a checkpoint's weights onto the devices of `mesh`, or onto the first device."""
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    if mesh:
        devices = make_mesh(parse_mesh(mesh), jax.local_devices())
        # Weights go from the host to the devices layer by layer, so the devices never hold two copies.
        params = checkpoint.load_params(jax.numpy.dtype(dtype))
        return StreamModel(checkpoint.config, params, checkpoint.open_tokenizer(), precision, devices)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, checkpoint.abstract_params())
    params = checkpoint.load_params(jax.numpy.dtype(dtype), shardings)
    return StreamModel(checkpoint.config, params, checkpoint.open_tokenizer(), precision)
