"""A multiple-choice question as tokens: the conversation up to the answer prefix, and the options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from livecc_jax.errors import TokenizerError
from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import ChatTemplate, Encoded, Visual


class PromptEncoder:
    """How questions are put to a model.

    Args:
        tokenizer: the model's.
        asking: answer prefix and what precedes options.
    """

    def __init__(self, tokenizer: Tokenizer, asking: PromptTemplate) -> None:
        self.tokenizer, self.asking, self.template = tokenizer, asking, ChatTemplate(tokenizer)

    def opening(self, grid: tuple[int, int, int], text: str) -> Encoded:
        """System turn, a video of `grid` (frame pairs, rows, columns of patches), question, header of
        the answer, answer prefix; nothing is supervised."""
        opening = self.template.opening((Visual("video", grid), text))
        prefix = np.array(self.tokenizer.encode(self.asking.prefix), np.int32)
        none = np.zeros(len(opening.tokens) + len(prefix), np.int32)
        tokens = np.concatenate([opening.tokens, prefix])
        return dataclasses.replace(opening, tokens=tokens, supervised=none > 0, turns=none)

    def option_ids(self, options: Sequence[str]) -> np.ndarray:
        """int32 token that each option is compared by: the last of `asking.before` + option.

        Raises TokenizerError when two options have the same.
        """
        ids = [self.tokenizer.encode(self.asking.before + option)[-1] for option in options]
        if len(set(ids)) < len(ids):
            raise TokenizerError(f"the tokenizer does not tell options {', '.join(options)} apart")
        return np.array(ids, np.int32)
