"""A local checkpoint as judge: it answers text prompts with this project's own decoder."""

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
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.judge.judge_model import Completion, RequestFailed
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.stream.completion import complete
from livecc_jax.stream.model import StreamModel
from livecc_jax.text.tokenizer import fingerprint

# Tokens of a prompt that are prefilled at a time. Only the rest of a prompt has a varying size, so
# there are few programs to compile.
PREFILL_CHUNK = 128
MAX_TOKENS = 64  # generated tokens of an answer
_HASHED_VALUES = 4096  # values of each parameter that enter the hash of the weights


class LocalJudge:
    """A judge model that runs a checkpoint on this machine, with greedy decoding.

    Args:
        path: HuggingFace directory, run, or step of a run.
        dtype: Dtype of the weights and the cache; by default float32 on a CPU and bfloat16 elsewhere.
        max_tokens: Maximum number of generated tokens.

    Attributes:
        address: The same for every checkpoint; the request body identifies a checkpoint by its weights.
        model: Path of the checkpoint.
        deterministic: True: decoding is greedy.
        fault_counts: Empty: there are no faults to retry.
        stop: When it is set, requests fail.

    Raises:
        CheckpointError: The checkpoint cannot be opened.
        ConfigError: max_tokens is less than 1.
    """

    address = "checkpoint"
    deterministic = True

    def __init__(
        self, path: str | Path, dtype: str | None = None, max_tokens: int = MAX_TOKENS
    ) -> None:
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, not {max_tokens}")
        self._checkpoint = open_checkpoint(path)
        self.model = str(self._checkpoint.path)
        self.fault_counts: Counter[str] = Counter()
        self.stop = threading.Event()
        self._tokenizer = self._checkpoint.open_tokenizer()
        self._dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
        self._max_tokens = max_tokens
        params = self._checkpoint.load_params(dtype=jax.numpy.dtype(self._dtype))
        self._weights = weights_hash(params)
        # Moved to the device with the first question: a run that is fully cached needs no device.
        self._params: Params | None = params
        self._stream: StreamModel | None = None
        self._options = StreamOptions(
            positions="sequential",  # positions of text are the same in every mode
            repetition_penalty=1.0,
            context=self._checkpoint.config.text.max_positions,
        )
        self._lock = threading.Lock()

    def request_body(self, prompt: str) -> dict[str, Any]:
        """Returns everything that an answer depends on."""
        return {
            "model": self._weights,
            "tokenizer": fingerprint(self._tokenizer),
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
            "dtype": self._dtype,
        }

    def complete(self, prompt: str) -> Completion:
        """Answers a prompt.

        Raises:
            RequestFailed: The prompt does not fit into the model's context, or `stop` is set.
        """
        with self._lock:
            if self.stop.is_set():
                raise RequestFailed("stopped")
            if self._stream is None:
                config = self._checkpoint.config
                self._stream = StreamModel(config, self._params, self._tokenizer)
                self._params = None
            tokens = self._stream.template.opening((prompt,)).tokens
            context = self._options.context
            if len(tokens) + self._max_tokens > context:
                raise RequestFailed(
                    f"{len(tokens):,} tokens of a prompt and {self._max_tokens} of an answer do not "
                    f"fit the judge's context of {context:,}"
                )
            generated = complete(self._stream, self._options, tokens, self._max_tokens, PREFILL_CHUNK)
        name = f"{self._checkpoint.path.name} {self._weights[:12]}"
        return Completion(self._tokenizer.decode(generated), name, len(tokens), len(generated))


def weights_hash(params: Params) -> str:
    """Returns a sha256 of the weights.

    It covers the name, shape, dtype and some evenly spaced values of every parameter. It does not
    depend on where a checkpoint is stored, and any training changes it.
    """
    digest = hashlib.sha256()
    for name, x in sorted(traverse_util.flatten_dict(params, sep="/").items()):
        flat = np.asarray(x).reshape(-1)
        digest.update(f"{name} {x.shape} {x.dtype}\n".encode())
        digest.update(np.ascontiguousarray(flat[:: max(1, flat.size // _HASHED_VALUES)]).tobytes())
    return digest.hexdigest()
