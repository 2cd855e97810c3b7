"""Encode multiple-choice questions: the prompt up to the answer prefix, and the options' tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import TokenizerError
from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import ChatTemplate, EncodedChat, Visual


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt with its video as tokens int32 [T] and rotary positions int32 [3, T]."""

    tokens: np.ndarray
    positions: np.ndarray


class PromptEncoder:
    """Encodes the questions of a benchmark.

    Args:
        tokenizer: Tokenizer of the model.
        prompt_template: Answer prefix and option prefix of the benchmark.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_template: PromptTemplate) -> None:
        self.tokenizer, self.prompt_template = tokenizer, prompt_template
        self.chat_template = ChatTemplate(tokenizer)

    def encode(self, grid: tuple[int, int, int], text: str) -> EncodedChat:
        """Encodes the prompt: system turn, video, question, header of the answer, answer prefix.

        Args:
            grid: Frame pairs, and rows and columns of patches, of the video.
            text: The user's text.

        Returns:
            The tokens of the prompt, none of them supervised.
        """
        opening = self.chat_template.opening((Visual("video", grid), text))
        prefix = np.array(self.tokenizer.encode(self.prompt_template.answer_prefix), np.int32)
        tokens = np.concatenate([opening.tokens, prefix])
        zeros = np.zeros(len(tokens), np.int32)
        return dataclasses.replace(opening, tokens=tokens, supervised=zeros > 0, turns=zeros)

    def option_ids(self, options: Sequence[str]) -> np.ndarray:
        """Returns int32 [options]: the token whose logit is the score of each option.

        It is the last token of the option prefix followed by the option.

        Raises:
            TokenizerError: Two options have the same token.
        """
        ids = [
            self.tokenizer.encode(self.prompt_template.option_prefix + option)[-1] for option in options
        ]
        if len(set(ids)) < len(ids):
            raise TokenizerError(f"the tokenizer does not tell options {', '.join(options)} apart")
        return np.array(ids, np.int32)


def common_prefix_length(sequences: Sequence[np.ndarray]) -> int:
    """Returns how many leading tokens all sequences share; each keeps at least its last token."""
    shared = min(len(s) for s in sequences) - 1
    for other in sequences[1:]:
        differences = np.flatnonzero(sequences[0][:shared] != other[:shared])
        shared = int(differences[0]) if len(differences) else shared
    return shared


def group_questions(
    prompts: Sequence[EncodedPrompt], prefix_length: int, max_tokens: int
) -> list[list[EncodedPrompt]]:
    """Groups the questions about a video, in order, into those that are scored in one call.

    Args:
        prompts: Prompts of all questions.
        prefix_length: Number of tokens that all prompts share.
        max_tokens: Maximum tokens of a group after the prefix; a longer question is a group by itself.
    """
    groups: list[list[EncodedPrompt]] = []
    free_tokens = 0
    for prompt in prompts:
        tokens = len(prompt.tokens) - int(prefix_length)
        if tokens > free_tokens:
            groups.append([])
            free_tokens = max_tokens
        groups[-1].append(prompt)
        free_tokens -= tokens
    return groups
