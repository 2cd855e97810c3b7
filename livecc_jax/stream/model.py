"""The model of a stream: weights prepared for decoding, with their tokenizer and chat template."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.generate import StopIds
from livecc_jax.decoding.session_step import encode_frames_step
from livecc_jax.decoding.vision import is_laid_out
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.parallel.batch import shard_count
from livecc_jax.parallel.rules import partition_spec
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import ChatTemplate

log = logging.getLogger(__name__)


class StreamModel:
    """Weights prepared for decoding, with their tokenizer; shared by any number of sessions.

    Args:
        config: The architecture.
        params: The parameter tree.
        tokenizer: The model's tokenizer.
        precision: Precision of matrix products, as in `decoding.weights.prepare_weights`.
        mesh: Devices to shard over, by the rules of training: weights and key heads over `tensor`, an
            engine's conversations over `data` and `fsdp` (and weights over `fsdp`). None puts
            everything on the default device.

    Attributes:
        shards: Number of device groups that serve different conversations.
        dtype: Data type of the weights before quantization.
        template: The chat template.
        stop: Token ids that end a turn, and the silence token.

    Raises:
        ConfigError: The precision is unknown, or the model does not divide over the mesh.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        precision: str = "weights",
        mesh: Mesh | None = None,
    ) -> None:
        if mesh is not None and shard_count(mesh, "length") > 1:
            raise ConfigError("mesh.context splits rows of training; here it must be 1")
        self.config, self.mesh, self.precision = config, mesh, precision
        self.shards = shard_count(mesh, "batch") if mesh else 1
        self.weights = prepare_weights(
            params,
            vision=is_laid_out(config.vision),
            precision=precision,
            shard_over=(config, mesh) if mesh else None,
        )
        self.dtype = params["text"]["embed"].dtype
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer, config.family, config.vision.pair_positions)
        special = tokenizer.special
        self.stop = StopIds((special.im_end, special.endoftext), tokenizer.silence_id)

    def device_scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the scope in which compiled programs run on the devices of the weights."""
        return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()

    def shard_batch(self, arrays: Any) -> Any:
        """Puts a tree of host arrays [B, ...] onto the devices that serve their batch entries."""
        if self.mesh is None:
            return arrays  # the compiled call that takes them moves them all at once
        return jax.device_put(arrays, NamedSharding(self.mesh, partition_spec(("batch",))))

    def encode_frames(self, frames: Sequence[np.ndarray | jax.Array]) -> jax.Array:
        """Runs the vision tower, without waiting for the result.

        Args:
            frames: B arrays uint8 [F, H, W, 3] of one shape.

        Returns:
            [B, P, D] vision features.
        """
        # The transfer starts first, so that it runs while the call is prepared.
        if self.mesh is None:
            on_device = tuple(x if isinstance(x, jax.Array) else jax.device_put(x) for x in frames)
        else:
            on_device = self.shard_batch(np.stack(frames))
        with self.device_scope():
            return encode_frames_step(self.config, self.weights.for_vision(), on_device)

    def prefetch_vision(self, frames: Sequence[np.ndarray | jax.Array]) -> jax.Array | None:
        """As `encode_frames`, but returns None if it fails: the turn itself will raise the error."""
        try:
            return self.encode_frames(frames)
        except jax.errors.JaxRuntimeError as error:
            log.warning("the vision prefetch of the next frames failed: %s", error)
            return None
