"""The evaluators of a training run besides held-out loss: benchmarks and commentary."""

from __future__ import annotations

from jax.sharding import Mesh

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.annotations import QUESTION_READERS
from livecc_jax.evaluate.run.clip_commentary import ClipCommentaryEvaluator
from livecc_jax.evaluate.run.packed_choice import PackedChoiceEvaluator
from livecc_jax.model.config import ModelConfig
from livecc_jax.train.config import Config
from livecc_jax.train.hooks import Evaluator


def make_evaluators(
    config: Config, model: ModelConfig, source: RowSource, mesh: Mesh
) -> dict[str, Evaluator]:
    """Makes the evaluators that `config.evaluate` names; their data is read once, here.

    Args:
        config: Configuration of the run.
        model: Architecture of the model.
        source: Row source of the run, whose shape, pixel budget, media rules and tokenizer the
            evaluators use.
        mesh: Mesh of the run.

    Returns:
        Evaluators by the prefix of their metrics' names.

    Raises:
        ConfigError: An entry of `evaluate.choice` is not BENCHMARK=PATH.
        DataError, TokenizerError: The data or the tokenizer cannot be used.
    """
    settings, evaluators = config.evaluate, {}
    budget, tokenizer = source.mixture.budget, source.tokenizer
    rules = source.mixture.media_rules(0)  # videos are read as those of the first index
    media_root = MediaRoot.of(config.data.media_root, config.data.allow_hosts)
    for entry in settings.choice:
        benchmark, _, data = entry.partition("=")
        if benchmark not in QUESTION_READERS or not data:
            benchmarks = ", ".join(QUESTION_READERS)
            raise ConfigError(
                f"evaluate.choice {entry!r} must be BENCHMARK=PATH with one of {benchmarks}"
            )
        evaluators[f"{benchmark}/"] = PackedChoiceEvaluator(
            benchmark,
            data,
            settings.questions,
            settings.max_frames,
            budget,
            model,
            config.compute,
            tokenizer,
            config.positions,
            source.shape,
            config.data.rows_per_step // config.optim.accumulate,
            mesh,
            rules,
            media_root,
        )
    if settings.commentary:
        options = StreamOptions(positions=config.positions, context=model.text.max_positions)
        evaluators["commentary/"] = ClipCommentaryEvaluator(
            settings.commentary,
            settings.clips,
            budget,
            model,
            config.compute,
            tokenizer,
            options,
            mesh,
            rules,
            media_root,
        )
    return evaluators
