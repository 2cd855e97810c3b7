"""A checkpoint as judge: text in, text out, through this project's own decoder."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.decoding.generate import QUESTIONS
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.decoding.session_step import read
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.judge.endpoint import NoAnswer, Reply
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.stream.prompt import Prompt, stack_prompts
from livecc_jax.stream.session import Dialogue, StreamModel
from livecc_jax.text.tokenizer import fingerprint

CHUNK = 128  # tokens of a prompt read at a time: what is left of it has few sizes, so few programs
MAX_TOKENS = 64  # of an answer
_SAMPLED = 4096  # values of a parameter that go into the hash of weights


class LocalJudge:
    """What `judge` asks in place of an endpoint. Answers are greedy, so the same each time.

    Args:
        path: HuggingFace directory, run, or step of a run.
        dtype: of weights and cache; without it float32 on a CPU, bfloat16 elsewhere.
        max_tokens: of an answer.

    Attributes:
        address: the same for every checkpoint: which one it is stands in the request, by its weights.
        model: the path.
        steady: an answer that cannot be read is kept too, since asking again would give it again.
        faults: none are met.
        stop: once set, nothing more is answered.

    Raises:
        CheckpointError: it cannot be opened.
        ConfigError: fewer tokens than one.
    """

    address = "checkpoint"
    steady = True

    def __init__(
        self, path: str | Path, dtype: str | None = None, max_tokens: int = MAX_TOKENS
    ) -> None:
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, not {max_tokens}")
        self._checkpoint = open_checkpoint(path)
        self.model = str(self._checkpoint.path)
        self.faults: Counter[str] = Counter()
        self.stop = threading.Event()
        self._tokenizer = self._checkpoint.open_tokenizer()
        self._dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
        self._max_tokens = max_tokens
        params = self._checkpoint.load_params(dtype=jax.numpy.dtype(self._dtype))
        self._weights = weights_hash(params)
        self._params: Params | None = (
            params  # until the first question: a run from disk needs no device
        )
        self._stream: StreamModel | None = None
        self._options = StreamOptions(
            positions="sequential",  # text has the same positions in every mode
            repetition_penalty=1.0,
            context=self._checkpoint.config.text.max_positions,
        )
        self._lock = threading.Lock()

    def request(self, prompt: str) -> dict[str, Any]:
        """All that an answer depends on."""
        return {
            "model": self._weights,
            "tokenizer": fingerprint(self._tokenizer),
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
            "dtype": self._dtype,
        }

    def ask(self, prompt: str) -> Reply:
        """Answer. Raises NoAnswer when the prompt does not fit the model's context."""
        with self._lock:
            if self.stop.is_set():
                raise NoAnswer("stopped")
            if self._stream is None:
                config = self._checkpoint.config
                self._stream = StreamModel(config, self._params, self._tokenizer)
                self._params = None
            tokens = self._stream.template.opening((prompt,)).tokens
            context = self._options.context
            if len(tokens) + self._max_tokens > context:
                raise NoAnswer(
                    f"{len(tokens):,} tokens of a prompt and {self._max_tokens} of an answer do not "
                    f"fit the judge's context of {context:,}"
                )
            said = _Chat(self._stream, self._options).say(tokens, self._max_tokens)
        name = f"{self._checkpoint.path.name} {self._weights[:12]}"
        return Reply(self._tokenizer.decode(said), name, len(tokens), len(said))


class _Chat(Dialogue):
    """One text-only exchange."""

    def say(self, tokens: np.ndarray, limit: int) -> list[int]:
        """Greedy tokens after a prompt, int32 [T], up to the end of the turn."""
        self._make_room(-(-len(tokens) // CHUNK) * CHUNK, len(tokens), limit)
        last = (len(tokens) - 1) // CHUNK * CHUNK
        for first in range(0, last, CHUNK):
            part = stack_prompts([_prompt(tokens, first, first + CHUNK)])
            self._cache, self._state = read(
                self.model.config, self.model.weights.for_saying(), self._cache, self._state, part
            )
            self.length += CHUNK
        return self._take(stack_prompts([_prompt(tokens, last, len(tokens))]), QUESTIONS, limit)[0]


def _prompt(tokens: np.ndarray, first: int, stop: int) -> Prompt:
    places = np.broadcast_to(np.arange(first, stop, dtype=np.int32), (3, stop - first))
    return Prompt(tokens[first:stop], places, stop, np.full(stop - first, -1, np.int32))


def weights_hash(params: Params) -> str:
    """sha256 over every parameter's name, shape, type and a few thousand of its values, evenly spread:
    the same wherever a checkpoint lies, another after any training."""
    digest = hashlib.sha256()
    for name, x in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        flat = np.asarray(x).reshape(-1)
        digest.update(f"{name} {x.shape} {x.dtype}\n".encode())
        digest.update(np.ascontiguousarray(flat[:: max(1, flat.size // _SAMPLED)]).tobytes())
    return digest.hexdigest()
