"""The loss on held-out rows, measured during training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from livecc_jax.data.rows.pipeline import RowSource, batches
from livecc_jax.model.config import ModelConfig
from livecc_jax.parallel.batch import shard_batch
from livecc_jax.train.config import Config
from livecc_jax.train.start import check_rows_fit
from livecc_jax.train.state import split_trainable
from livecc_jax.train.step import weighted_loss


class HeldOutLoss:
    """The loss on the held-out rows of a run; every evaluation reads the same rows.

    Args:
        config: The config of the run, with `evaluate.index` set.
        model: The architecture.
        tokenizer_path: Path of the tokenizer of the run.
        mesh: The device mesh of the run.

    Raises:
        DataError, ConfigError: The index cannot be read, or was built with another tokenizer.
    """

    def __init__(self, config: Config, model: ModelConfig, tokenizer_path: str, mesh: Mesh) -> None:
        data = config.data
        self._mesh = mesh
        self._source = RowSource(
            config.evaluate.index,
            tokenizer_path=tokenizer_path,
            tokens=data.tokens,
            windows=data.windows,
            targets=data.targets,
            positions=config.positions,
            weighting=data.weighting,
            seed=0,
            epochs=1,
            cache=data.cache,
            cache_gb=data.cache_gb,
            media_root=data.media_root,
            allow_hosts=data.allow_hosts,
            pair_positions=model.vision.pair_positions,
        )
        check_rows_fit(model, self._source, config.positions)
        self._batch_size = data.rows_per_step // config.optim.accumulate
        self._batches = -(-min(len(self._source), config.evaluate.rows) // self._batch_size)

        def loss_sums(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            rows = jax.tree.map(lambda x: x[0], batch)
            trainable, frozen = split_trainable(params, config.compute.frozen)
            weighted, unweighted = weighted_loss(model, config.compute, trainable, frozen, rows)
            weights = rows["target_weights"]
            return jnp.stack([weighted, jnp.sum(weights), unweighted, jnp.sum(weights > 0)])

        self._loss_sums = jax.jit(loss_sums)

    def evaluate(self, params: Any, poll: Callable[[], bool]) -> dict[str, float] | None:
        """Computes `loss` (weighted as in training) and `token_loss` over all held-out rows.

        Args:
            params: Parameters of the model.
            poll: Function that is called after every batch; the evaluation ends when it returns true.

        Returns:
            The two losses, or None when `poll` has ended the evaluation.
        """
        total = np.zeros(4)
        stream = batches(
            self._source,
            first_step=0,
            steps=self._batches,
            rows_per_step=self._batch_size,
            accumulate=1,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        for batch in stream:
            total += np.asarray(self._loss_sums(params, shard_batch(self._mesh, batch.rows, 1)))
            if poll():
                return None
        return {
            "loss": float(total[0] / max(total[1], 1e-9)),
            "token_loss": float(total[2] / max(total[3], 1)),
        }
