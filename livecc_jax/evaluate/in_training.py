"""What a training run is examined by, beside its held-out loss: benchmarks and commentary."""

from __future__ import annotations

from jax.sharding import Mesh

from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.annotations import QUESTION_READERS
from livecc_jax.evaluate.run.clip_commentary import ClipCommentaryEvaluation
from livecc_jax.evaluate.run.packed_choice import PackedChoiceEvaluation
from livecc_jax.model.config import ModelConfig
from livecc_jax.train.config import Config
from livecc_jax.train.loop import Examination


def training_evaluations(
    config: Config, model: ModelConfig, source: RowSource, mesh: Mesh
) -> dict[str, Examination]:
    """What `config.evaluate` names, by the prefix of its figures; all of it is read once, here.

    Args:
        config: of the run.
        model: its architecture.
        source: its rows, whose shape, budget and tokenizer the examinations share.
        mesh: of the run.

    Raises:
        ConfigError: an entry of `evaluate.run.choice` is not BENCHMARK=PATH.
        DataError, TokenizerError: what it names cannot be used.
    """
    asked, found = config.evaluate, {}
    budget, tokenizer = source.opened.budget, source.tokenizer
    for entry in asked.choice:
        benchmark, _, data = entry.partition("=")
        if benchmark not in QUESTION_READERS or not data:
            raise ConfigError(
                f"evaluate.choice {entry!r} must be BENCHMARK=PATH with one of {', '.join(QUESTION_READERS)}"
            )
        found[f"{benchmark}/"] = PackedChoiceEvaluation(
            benchmark,
            data,
            asked.questions,
            asked.max_frames,
            budget,
            model,
            config.compute,
            tokenizer,
            config.positions,
            source.shape,
            config.data.rows_per_step // config.optim.accumulate,
            mesh,
        )
    if asked.commentary:
        context = model.text.max_positions
        options = StreamOptions(positions=config.positions, context=context)
        found["commentary/"] = ClipCommentaryEvaluation(
            asked.commentary, asked.clips, budget, model, config.compute, tokenizer, options, mesh
        )
    return found
