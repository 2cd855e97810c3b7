"""One conversation: frames in, the second's words out.

What the model sees here is, token for token and position for position, what a training row holds:
both are built by `livecc_jax.timeline`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.generate import QUESTIONS, StopIds
from livecc_jax.decoding.kv_cache import Cache, empty_cache, grow_cache
from livecc_jax.decoding.network import lay_out
from livecc_jax.decoding.options import StreamOptions, stack_controls
from livecc_jax.decoding.session_step import SlotState, TurnInput, look, run_turn
from livecc_jax.errors import ConfigError, LiveCCError, MediaError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.parallel.batch import parts
from livecc_jax.parallel.rules import partition_spec
from livecc_jax.stream.prompt import Prompt, make_prompt, stack_prompts
from livecc_jax.text.tokenizer import SILENCE, Tokenizer
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, turn_label, turn_span


class ContextFull(LiveCCError):
    """The next turn does not fit in the context."""


@dataclass(frozen=True)
class SpokenTurn:
    """What was said in one turn; times in seconds of the source."""

    start: float
    stop: float
    text: str  # as decoded, with its closing ` ...`
    tokens: tuple[int, ...]  # as shown, without end-of-sequence ids
    cut: bool  # the token limit ended it
    latency: float  # seconds from `push` to words: of frames seen ahead, without the tower

    @property
    def words(self) -> str:
        """The text without the silence marks: empty when nothing was said."""
        return " ".join(self.text.replace(SILENCE, " ").split())


@dataclass(frozen=True)
class Answer:
    """What was answered to a question in the middle of a stream."""

    at: float  # seconds of the source that had been seen
    question: str
    text: str
    tokens: tuple[int, ...]
    cut: bool  # the token limit ended it
    latency: float  # seconds from question to answer


log = logging.getLogger(__name__)

MAX_ANSWER = 128  # tokens
LATE_TURN = 1_000_000  # after eleven days: a time label as long as they get


class StreamModel:
    """Weights laid out for decoding, with their tokenizer; shared by any number of sessions.

    Args:
        config: the architecture.
        params: the parameter tree.
        tokenizer: the model's.
        precision: as in `decoding.network.lay_out`.
        mesh: devices to split over, by the rules of training: weights and key heads over `tensor`, an
            engine's conversations over `data` and `fsdp` (and weights over `fsdp`); without one, the
            default device has everything.

    Raises ConfigError for another precision, or a model that does not divide over the mesh.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        precision: str = "weights",
        mesh: Mesh | None = None,
    ) -> None:
        if mesh is not None and parts(mesh, "length") > 1:
            raise ConfigError("mesh.context splits rows of training; here it must be 1")
        self.config, self.mesh, self.precision = config, mesh, precision
        self.shards = parts(mesh, "batch") if mesh else 1  # groups of devices with streams of their own
        self.weights = lay_out(params, precision=precision, spread=(config, mesh) if mesh else None)
        self.dtype = params["text"]["embed"].dtype
        self.tokenizer = tokenizer
        self.template = ChatTemplate(tokenizer)
        special = tokenizer.special
        self.stop = StopIds((special.im_end, special.endoftext), tokenizer.silence_id)

    def devices(self) -> contextlib.AbstractContextManager[Any]:
        """The scope in which programs run where the weights are."""
        return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()

    def place(self, rows: Any) -> Any:
        """Arrays [B, ...] of the host, each row where its devices are."""
        if self.mesh is None:
            return rows  # the call that takes them moves them all at once
        return jax.device_put(rows, NamedSharding(self.mesh, partition_spec(("batch",))))

    def look(self, shown: Sequence[np.ndarray | jax.Array]) -> jax.Array:
        """What the tower makes of each row's frames, uint8 [F, H, W, 3]: [B, P, D]; not awaited."""
        # Frames first: they are moved while the call is prepared.
        if self.mesh is None:
            moved = tuple(x if isinstance(x, jax.Array) else jax.device_put(x) for x in shown)
        else:
            moved = self.place(np.stack(shown))
        with self.devices():
            return look(self.config, self.weights.for_seeing(), moved)

    def look_ahead(self, shown: Sequence[np.ndarray | jax.Array]) -> jax.Array | None:
        """As `look`; None if it fails, which the turn that needs it will say itself."""
        try:
            return self.look(shown)
        except jax.errors.JaxRuntimeError as error:
            log.warning("the next frames could not be seen ahead: %s", error)
            return None


class Dialogue:
    """A conversation's keys and values on the device, and taking its next turn.

    Args:
        model: shared weights.
        options: decoding.

    Raises ConfigError when the model is split over devices that serve several streams.
    """

    def __init__(self, model: StreamModel, options: StreamOptions) -> None:
        if model.shards > 1:
            raise ConfigError(
                "one stream is split over mesh.tensor alone: mesh.data and mesh.fsdp split an engine's "
                "streams"
            )
        self.model, self.options = model, options
        self.next_position = 0
        self.length = 0  # tokens in the cache
        self._unkept: list[int] = []  # a token shown but not yet in the cache, after a turn cut short
        self._cache: Cache | None = None
        vocab = model.config.text.vocab_size
        self._state = SlotState(jnp.zeros(1, jnp.int32), jnp.zeros((1, vocab), bool))
        self._asked = 0  # questions

    def fork(self, seed: int | None = None) -> Self:
        """Another conversation with the same past, which then goes its own way.

        Nothing is computed again. It has a copy of the cache: memory for another conversation.

        Args:
            seed: of its randomness from here on; by default it goes on as this one's does.
        """
        other = copy.copy(self)
        # Turns donate both.
        other._cache, other._state = jax.tree.map(jnp.copy, (self._cache, self._state))
        if seed is not None:
            other.options = dataclasses.replace(self.options, seed=seed)
        return other

    def _so_far(self) -> str:
        """What has filled the context, for an error."""
        return ""

    def _take(
        self,
        turn: TurnInput,
        number: int,
        limit: int,
        silence_base: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[list[int], bool]:
        """Run turn `number`, and `meanwhile` while it runs: (what was said, whether it was cut)."""
        self._make_room(turn.tokens.shape[1], int(turn.count[0]), limit)
        with self.model.devices():
            said, self._cache, self._state = run_turn(
                self.model.config,
                self.model.stop.watching([silence_base]),
                limit,
                self.model.weights.for_saying(),
                self._cache,
                self._state,
                turn,
                stack_controls([self.options], [number]),
                self.options.temperature > 0,
            )
        said.copy_to_host_async()
        if meanwhile:
            meanwhile()
        tokens = [int(t) for t in np.asarray(said)[0] if t >= 0]
        cut = len(tokens) == limit
        kept = len(tokens) - cut
        self.length += int(turn.count[0]) + kept
        self.next_position = int(turn.next_position[0]) + kept
        # The released decoder shows a cut turn's last token but forgets it, and `hybrid` is for being
        # exactly that; otherwise it opens the next prompt.
        self._unkept = tokens[-1:] if cut and self.options.positions != "hybrid" else []
        return tokens, cut

    def _answer(self, question: str, prompt: Prompt, limit: int, at: float, began: float) -> Answer:
        """Run a question's turn."""
        if limit < 1:
            raise ConfigError(f"max-new-tokens must be at least 1, not {limit}")
        tokens, cut = self._take(stack_prompts([prompt]), QUESTIONS + self._asked, limit)
        self._asked += 1
        text = self.model.tokenizer.decode(tokens)
        return Answer(at, question, text, tuple(tokens), cut, time.perf_counter() - began)

    def _make_room(self, bucket: int, count: int, limit: int) -> None:
        """Have a cache with room for the bucket and the answer, doubling it as needed."""
        if self.length + count + limit > self.options.context:
            raise ContextFull(f"the context of {self.options.context} tokens is full{self._so_far()}")
        need = self.length + bucket + limit
        held = self._cache[0][0].shape[1] if self._cache else 0
        if held >= need:
            return
        # Doubling keeps the number of compiled programs logarithmic in the stream's length.
        capacity = max(self.options.reserve, 1 << (need - 1).bit_length())
        if self._cache is None:
            model = self.model
            self._cache = empty_cache(model.config, 1, capacity, model.dtype, model.mesh)
        else:
            self._cache = grow_cache(self._cache, capacity)


def can_follow(frames: np.ndarray | None, before: np.ndarray) -> bool:
    """Whether frames can be a turn after others; what cannot says so when it is pushed."""
    return (
        frames is not None
        and frames.shape[1:] == before.shape[1:]
        and len(frames) > 0
        and len(frames) % 2 == 0
    )


class Session(Dialogue):
    """One stream through the `full` cache: everything said and seen stays in the context.

    Args:
        model: shared weights.
        options: decoding.
        prompt: the first turn's text (query, title, previous commentary).
        offset_us: microseconds of the source at which this session's clock starts.
    """

    def __init__(
        self, model: StreamModel, options: StreamOptions, prompt: str = "", offset_us: int = 0
    ) -> None:
        if options.silence_base is not None and model.stop.silence is None:
            raise ConfigError("silence control needs a tokenizer in which ' ...' is one token")
        super().__init__(model, options)
        self.prompt, self.offset_us = prompt, offset_us
        self.turns = 0
        self._frame_shape: tuple[int, ...] | None = None
        # The next turn's frames, and what the tower made of them.
        self._seen_ahead: tuple[np.ndarray | None, jax.Array | None] = (None, None)

    def push(self, frames: np.ndarray, following: np.ndarray | None = None) -> SpokenTurn:
        """Take a turn.

        Args:
            frames: uint8 [F, H, W, 3] RGB at the size the budget gives (sides multiples of 28), F even:
                6 to open, 2 for each later second.
            following: the next turn's frames if they are there already, the very array that will be
                pushed next, and not written to until then: the device sees them as soon as it has
                nothing else to do, so that turns as fast as possible follow each other without a pause.

        Raises:
            MediaError: frames of another size than before, or an odd number of them.
            ContextFull: the turn does not fit; the session is as it was before.
        """
        began = time.perf_counter()
        start, stop = turn_span(self.turns)
        turn = self._turn_input(frames, turn_label(start, stop))
        tokens, cut = self._take(
            turn,
            self.turns,
            self.options.max_new_tokens,
            self.options.silence_base,
            functools.partial(self._look_ahead, following) if can_follow(following, frames) else None,
        )
        self.turns += 1
        self._frame_shape = frames.shape[1:]
        return SpokenTurn(
            (start + self.offset_us) / 1e6,
            (stop + self.offset_us) / 1e6,
            self.model.tokenizer.decode(tokens),
            tuple(tokens),
            cut,
            time.perf_counter() - began,
        )

    def warm_up(self, size: tuple[int, int]) -> None:
        """Compile what the first turns run, by turns of a made-up stream; this one stays as it is.

        A cache that outgrows `options.reserve` still compiles, once each time it doubles.

        Args:
            size: height and width of frames as they are pushed, multiples of 28.
        """
        other = Session(self.model, self.options, self.prompt)
        for number, count in ((0, OPENING_FRAMES), (1, TURN_FRAMES), (LATE_TURN, TURN_FRAMES)):
            # The shortest prompt there is, and the longest.
            other.turns, other._unkept = number, [0] * (number == LATE_TURN)
            other.push(np.zeros((count, *size, 3), np.uint8))

    def ask(self, question: str, max_new_tokens: int = MAX_ANSWER) -> Answer:
        """Put a question between two turns, as one more turn of the conversation; it goes on after it.

        Args:
            question: what the user says.
            max_new_tokens: most tokens of the answer.

        Raises:
            LiveCCError: nothing has been seen yet.
            ContextFull: it does not fit; the session is as it was before.
        """
        began = time.perf_counter()
        if not self.turns:
            raise LiveCCError("nothing has been seen yet that a question could be about")
        at = (turn_span(self.turns - 1)[1] + self.offset_us) / 1e6
        return self._answer(question, self._prompt(None, "", question), max_new_tokens, at, began)

    def _turn_input(self, frames: np.ndarray, label: str) -> TurnInput:
        if self._frame_shape not in (None, frames.shape[1:]):
            raise MediaError(
                f"frames changed size within a stream, from {self._frame_shape} to {frames.shape[1:]}"
            )
        if len(frames) == 0 or len(frames) % 2:
            raise MediaError(f"a turn takes an even number of frames, not {len(frames)}")
        # Under way before the prompt is made.
        (known, pictures), self._seen_ahead = self._seen_ahead, (None, None)
        if pictures is None or known is not frames:
            pictures = self.model.look((frames,))
        prompt = self._prompt(frames, label, self.prompt)
        return stack_prompts([prompt])._replace(pictures=pictures)

    def _look_ahead(self, frames: np.ndarray) -> None:
        self._seen_ahead = frames, self.model.look_ahead((frames,))

    def _prompt(self, frames: np.ndarray | None, label: str, text: str) -> Prompt:
        return make_prompt(
            self.model.template,
            frames,
            label,
            text,
            first=self.turns == 0,
            positions=self.options.positions,
            start=self.next_position,
            unkept=self._unkept,
        )

    def _so_far(self) -> str:
        return f" after {turn_span(self.turns)[0] / 1e6:g} s of video and {self.turns} turns"
