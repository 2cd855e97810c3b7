"""Loss on held-out rows, while training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from livecc_jax.data.rows.pipeline import RowSource, batches
from livecc_jax.model.config import ModelConfig
from livecc_jax.parallel.batch import place_batch
from livecc_jax.train.config import Config
from livecc_jax.train.state import split
from livecc_jax.train.step import weighted_loss


class HeldOut:
    """The held-out rows of a run; every evaluation reads the same ones.

    Args:
        config: the experiment, with `evaluate.index` set.
        model: the architecture.
        tokenizer_path: of the run.
        mesh: of the run.

    Raises:
        DataError, ConfigError: the index cannot be read, or is of another tokenizer.
    """

    def __init__(self, config: Config, model: ModelConfig, tokenizer_path: str, mesh: Mesh) -> None:
        data = config.data
        self._config, self._mesh = config, mesh
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
        )
        self._micro = data.rows_per_step // config.optim.accumulate
        self._steps = -(-min(len(self._source), config.evaluate.rows) // self._micro)

        def sums(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            rows = jax.tree.map(lambda x: x[0], batch)
            learning, frozen = split(params, config.compute.frozen)
            weighted, plain = weighted_loss(model, config.compute, learning, frozen, rows)
            weights = rows["target_weights"]
            return jnp.stack([weighted, jnp.sum(weights), plain, jnp.sum(weights > 0)])

        self._sums = jax.jit(sums)

    def losses(self, params: Any, poll: Callable[[], bool]) -> dict[str, float] | None:
        """`loss` (weighted as in training) and `token_loss` over all held-out rows.

        Args:
            params: of the model.
            poll: asked after every batch; true ends the evaluation.

        Returns:
            The two; None when it was ended.
        """
        total = np.zeros(4)
        stream = batches(
            self._source,
            first_step=0,
            steps=self._steps,
            rows_per_step=self._micro,
            accumulate=1,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        for batch in stream:
            total += np.asarray(self._sums(params, place_batch(self._mesh, batch.rows, 1)))
            if poll():
                return None
        return {
            "loss": float(total[0] / max(total[1], 1e-9)),
            "token_loss": float(total[2] / max(total[3], 1)),
        }
