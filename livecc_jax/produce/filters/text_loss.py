"""The mean loss of texts under a causal language model, many texts in one row.

Texts with their prompts are packed into rows, where each attends to itself alone; the head runs on the
tokens of the texts only. Rows have one of a few lengths, and calls one number of rows, so few programs
are compiled. How texts are packed follows from the texts of one call alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.text_decoder import TextDecoder, open_text_decoder
from livecc_jax.model.config import TextConfig
from livecc_jax.model.decoder import Decoder
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.text.chat_pieces import ChatPieces, open_chat_pieces
from livecc_jax.train.loss import target_losses

ROW_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
HEAD_CHUNK = 256  # targets of a row whose logits exist at a time
MIN_TARGETS = 64
ROWS_PER_CALL = {"cpu": 1}
ACCELERATOR_ROWS = 8


class ScoredText(NamedTuple):
    """A text with what stands before it, as ids: only the text's tokens count."""

    prompt: Sequence[int]
    text: Sequence[int]


class TextLoss:
    """Computes mean losses with a decoder.

    Args:
        decoder: The decoder.
        pieces: Its tokenizer.
        dtype: Dtype of weights and activations; float32 on a CPU and bfloat16 elsewhere by default.

    Attributes:
        name: Name of the model with a digest of its weights.
    """

    def __init__(self, decoder: TextDecoder, pieces: ChatPieces, dtype: str | None = None) -> None:
        self.pieces, self.name, self._config = pieces, decoder.name, decoder.config
        platform = jax.default_backend()
        self._dtype = jnp.dtype(dtype or ("float32" if platform == "cpu" else "bfloat16"))
        self._rows_per_call = ROWS_PER_CALL.get(platform, ACCELERATOR_ROWS)
        self._params = jax.tree.map(lambda x: jnp.asarray(x, self._dtype), decoder.params)

    @classmethod
    def open(cls, path: str | Path, dtype: str | None = None) -> TextLoss:
        """Opens a checkpoint. Raises CheckpointError and TokenizerError."""
        platform = jax.default_backend()
        decoder = open_text_decoder(path, dtype or ("float32" if platform == "cpu" else "bfloat16"))
        try:
            root = open_checkpoint(path).root
        except Exception:
            root = decoder.path
        return cls(decoder, open_chat_pieces(root), dtype)

    @property
    def max_tokens(self) -> int:
        """The most tokens of a prompt and its text together."""
        return min(ROW_LENGTHS[-1], self._config.max_positions)

    def losses(self, texts: Sequence[ScoredText]) -> list[float]:
        """Returns the mean loss of each text's tokens in nats; nan for one without tokens.

        Args:
            texts: Texts of at most `max_tokens` tokens with their prompts.
        """
        lengths = [len(t.prompt) + len(t.text) for t in texts]
        row_length = next(n for n in ROW_LENGTHS if n >= max(lengths, default=1))
        # Rows long enough to be filled well, where there is something to fill them with.
        while row_length < min(2048, sum(lengths)) and row_length < 2 * max(lengths):
            row_length *= 2
        rows = pack(lengths, row_length)
        results = [math.nan] * len(texts)
        for first in range(0, len(rows), self._rows_per_call):
            self._run(texts, rows[first : first + self._rows_per_call], row_length, results)
        return results

    def _run(
        self, texts: Sequence[ScoredText], rows: list[list[int]], row_length: int, results: list[float]
    ) -> None:
        count = self._rows_per_call
        tokens = np.zeros((count, row_length + 1), np.int32)
        segments = np.zeros((count, row_length), np.int32)
        positions = np.zeros((count, row_length), np.int32)
        slots: list[list[int]] = [[] for _ in range(count)]
        owners: list[list[int]] = [[] for _ in range(count)]
        for r, row in enumerate(rows):
            at = 0
            for number, i in enumerate(row):
                ids = [*texts[i].prompt, *texts[i].text]
                stop = at + len(ids)
                tokens[r, at:stop], segments[r, at:stop] = ids, number + 1
                positions[r, at:stop] = np.arange(len(ids))
                slots[r] += range(at + len(texts[i].prompt) - 1, stop - 1)
                owners[r] += [i] * len(texts[i].text)
                at = stop
        most = MIN_TARGETS
        while most < max(map(len, slots)):
            most *= 2
        padded = np.array([s + [0] * (most - len(s)) for s in slots], np.int32)
        nats = np.asarray(
            _losses(self._config, self._params, tokens, segments, positions, padded), np.float64
        )
        for r, row in enumerate(rows):
            of_row = np.array(owners[r])
            for i in row:
                mine = nats[r, : len(of_row)][of_row == i]
                results[i] = float(mine.mean()) if len(mine) else math.nan


def pack(lengths: Sequence[int], row_length: int) -> list[list[int]]:
    """Returns which texts share which row: the longest first, each into the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((r for r, free in enumerate(room) if free >= lengths[i]), None)
        if place is None:
            rows.append([])
            room.append(row_length)
            place = len(rows) - 1
        rows[place].append(i)
        room[place] -= lengths[i]
    return rows


@functools.cache
def _abstract_decoder(config: TextConfig) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))


def bind_decoder(config: TextConfig, params: Params) -> Decoder:
    """Returns the decoder with these parameters; only Python objects are created."""
    graph, state = _abstract_decoder(config)
    state = jax.tree.map(lambda x: x, state)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


@functools.partial(jax.jit, static_argnames="config")
def _losses(
    config: TextConfig,
    params: Params,
    tokens: jax.Array,
    segments: jax.Array,
    positions: jax.Array,
    slots: jax.Array,
) -> jax.Array:
    """Computes the loss of the token after each slot.

    Args:
        config: Sizes of the decoder.
        params: Its parameters.
        tokens: int32 [B, T + 1].
        segments: int32 [B, T]; 0 is padding.
        positions: int32 [B, T].
        slots: int32 [B, N].

    Returns:
        float32 [B, N], nats.
    """
    decoder = bind_decoder(config, params)
    x = decoder.embed[...][tokens[:, :-1]]
    axes = jnp.broadcast_to(positions[:, None], (positions.shape[0], 3, positions.shape[1]))
    hidden = decoder(x, axes, segments)
    return target_losses(decoder.logits, hidden, tokens, slots, HEAD_CHUNK)
