"""Score the options of multiple-choice questions: logits of the options after the answer prefix.

A video is encoded and prefilled once for all its questions. The questions follow the shared prefix in
one batch: each attends to the prefix and to itself, and to no other question. So the logits are those
of the full conversation, and the weights and the cache are read once for all questions about a video.

Over a mesh, a batch has as many videos as the batch axes have devices, and takes as long as its longest
video.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
from livecc_jax.evaluate.run.buckets import DEFAULT_BUCKETS, ShapeBuckets
from livecc_jax.evaluate.run.choice_model import ChoiceModel
from livecc_jax.evaluate.run.prompt_encoder import (
    EncodedPrompt,
    PromptEncoder,
    common_prefix_length,
    group_questions,
)
from livecc_jax.evaluate.run.sampled_video import SampledVideo
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.position_modes import POSITION_MODES
from livecc_jax.timeline.positions import token_positions


class ChoiceScores(NamedTuple):
    """Scores of a question.

    Attributes:
        logits: float32 [options], the logit of each option.
        prompt_tokens: Number of tokens of the prompt.
        log_total: Logarithm of the sum of exp(logit) over the whole vocabulary, so that
            exp(logit - log_total) is an option's probability; nan unless the scorer computes it.
    """

    logits: np.ndarray
    prompt_tokens: int
    log_total: float = float("nan")


class VideoQuestions(NamedTuple):
    """A video with its questions: the user's text and the options of each."""

    video: SampledVideo
    texts: Sequence[str]
    options: Sequence[Sequence[str]]


class ChoiceScorer:
    """Scores multiple-choice questions about videos with a model.

    Args:
        config: Architecture of the model.
        params: Weights of the model.
        tokenizer: Tokenizer of the model.
        positions: Rotary position mode.
        prompt_template: Answer prefix and option prefix of the benchmark.
        buckets: Sizes of the compiled programs.
        mesh: Devices to shard weights and videos over; None uses the default device.
        with_log_total: Whether scores have `log_total`.

    Raises:
        ConfigError: The position mode is unknown, the mesh has a context axis, or the model does not
            divide over the mesh.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        positions: str,
        prompt_template: PromptTemplate,
        buckets: ShapeBuckets = DEFAULT_BUCKETS,
        mesh: Mesh | None = None,
        with_log_total: bool = False,
    ) -> None:
        if positions not in POSITION_MODES:
            raise ConfigError(f"positions {positions!r} is not one of {', '.join(POSITION_MODES)}")
        self.tokenizer, self.positions = tokenizer, positions
        self._with_log_total = with_log_total
        self.prompt_encoder = PromptEncoder(tokenizer, prompt_template)
        self.model = ChoiceModel(config, params, tokenizer.special.video_pad, buckets, mesh)

    @property
    def batch_size(self) -> int:
        """Number of videos whose questions are scored at a time."""
        return self.model.batch_size

    def encode_prompt(self, grid: tuple[int, int, int], text: str) -> EncodedPrompt:
        """Encodes the prompt of a question about a video of `grid`; see `PromptEncoder.encode`."""
        encoded = self.prompt_encoder.encode(grid, text)
        special = self.tokenizer.special
        positions, _ = token_positions(encoded.tokens, encoded.grids, special, self.positions)
        return EncodedPrompt(encoded.tokens, positions)

    def score(
        self, video: SampledVideo, texts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[ChoiceScores]:
        """Scores the options of several questions about one video; see `submit`."""
        return self.submit([VideoQuestions(video, texts, options)])()[0]

    def submit(self, videos: Sequence[VideoQuestions]) -> Callable[[], list[list[ChoiceScores]]]:
        """Starts to score the questions about a batch of videos.

        All work is dispatched to the devices, and the host can prepare the next videos meanwhile. A
        prompt may be longer than the model's context, as in the published runs (Video-MME's subtitles
        of an hour): rotary positions continue beyond it.

        Args:
            videos: At most `batch_size` videos with their questions.

        Returns:
            A function that waits for the scores and returns them, by video and question.
        """
        option_ids = [[self.prompt_encoder.option_ids(o) for o in v.options] for v in videos]
        # The last video is repeated to fill the batch.
        batch = [*videos, *[videos[-1]] * (self.batch_size - len(videos))]
        with self.model.mesh_scope():
            vision_embeds = self.model.encode_videos([v.video for v in batch])
            prompts = [[self.encode_prompt(v.video.grid, text) for text in v.texts] for v in batch]
            prefix_lengths = np.array(
                [common_prefix_length([p.tokens for p in video_prompts]) for video_prompts in prompts],
                np.int32,
            )
            cache = self.model.prefill_prefixes(
                [video_prompts[0] for video_prompts in prompts], prefix_lengths, vision_embeds
            )
            del vision_embeds
            max_tokens = self.model.buckets.max_question_tokens
            groups = [group_questions(p, n, max_tokens) for p, n in zip(prompts, prefix_lengths)]
            logits_of_calls = [
                self.model.score_questions(group_by_video, prefix_lengths, cache)
                for group_by_video in itertools.zip_longest(*groups, fillvalue=[])
            ]

        def wait() -> list[list[ChoiceScores]]:
            fetched = [np.asarray(logits) for logits in logits_of_calls]
            scores = []
            for i, video_option_ids in enumerate(option_ids):
                question_logits = [
                    logits[i, n] for logits, group in zip(fetched, groups[i]) for n in range(len(group))
                ]
                questions = zip(question_logits, video_option_ids, prompts[i], strict=True)
                scores.append(
                    [ChoiceScores(x[ids], len(p.tokens), self._log_total(x)) for x, ids, p in questions]
                )
            return scores

        return wait

    def _log_total(self, logits: np.ndarray) -> float:
        if not self._with_log_total:
            return float("nan")
        largest = float(logits.max())
        return largest + float(np.log(np.exp(logits.astype(np.float64) - largest).sum()))
