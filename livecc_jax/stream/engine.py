"""Many conversations on one device: whoever has a full turn takes part in the next tick.

A conversation's commentary for a second is due a second after its last frame. A tick takes the most
urgent waiting turn and others that can share its compiled program, most urgent first, as many as fill
it. A conversation that falls behind loses its oldest waiting turns, and says how many; its time labels
go on telling the time.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from livecc_jax.decoding.engine_step import Places as TurnPlaces
from livecc_jax.decoding.engine_step import take_turns
from livecc_jax.decoding.generate import QUESTIONS
from livecc_jax.decoding.options import StreamOptions, stack_controls
from livecc_jax.decoding.paged_cache import Context, Pool, empty_pool
from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.kernels.kv_quantize import PRECISIONS
from livecc_jax.stream.conversation import Conversation, Waiting
from livecc_jax.stream.history import FULL, Piece, Remembered, Retention
from livecc_jax.stream.prompt import Prompt, make_prompt, stack_prompts
from livecc_jax.stream.scheduler import seated, taken
from livecc_jax.stream.session import (
    LATE_TURN,
    MAX_ANSWER,
    Answer,
    ContextFull,
    SpokenTurn,
    StreamModel,
)
from livecc_jax.stream.slot_allocator import Places, PoolFull
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, turn_label, turn_span

DUE = 1.0  # seconds after its last frame that a turn's words should be out
SMALLEST_CONTEXT = 512


class SlotsFull(LiveCCError):
    """Every slot has a conversation."""


@dataclass(frozen=True)
class EngineOptions:
    """What an engine has room for.

    slots: conversations at once; batch: turns a tick, at most; pool: tokens kept for all of them;
    retention: what each remembers; max_new_tokens: the most any may say in a turn; max_answer: to a
    question; waiting: turns a
    conversation may have waiting before the oldest is dropped; room: tokens of context that programs
    are compiled for, 0 for several sizes as contexts grow (a fixed room compiles once, a context that
    outgrows it once more); cache_precision: of keys and values in the pool, as
    `decoding.paged_cache.empty_pool` has it.
    """

    slots: int = 8
    batch: int = 8
    pool: int = 32768
    retention: Retention = FULL
    max_new_tokens: int = 16
    max_answer: int = MAX_ANSWER
    waiting: int = 2
    room: int = 0
    cache_precision: str = "weights"

    def __post_init__(self) -> None:
        if self.cache_precision not in PRECISIONS:
            raise ConfigError(
                f"cache-precision {self.cache_precision!r} is not one of {', '.join(PRECISIONS)}"
            )
        for name in ("slots", "batch", "pool", "max_new_tokens", "max_answer", "waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"an engine's {name} must be at least 1, not {getattr(self, name)}")


class Row(NamedTuple):
    """A turn that takes part in a tick, and where in the pool it and its answer go."""

    conversation: Conversation
    turn: Waiting
    prompt: Prompt
    places: np.ndarray

    @property
    def number(self) -> int:
        """Of the turn, or of a question among those answered: one that does not fit has none."""
        asked = self.turn.number is None
        return QUESTIONS + self.conversation._answered if asked else self.turn.number


class Engine:
    """Conversations over one pool of keys and values.

    Args:
        model: weights.
        options: what there is room for.
        clock: seconds, for lateness.

    Over a mesh each group of devices along `data` and `fsdp` has as many of a tick's turns, and as
    large a part of the pool. A conversation stays with the group it opens in, the one with the fewest.

    Raises ConfigError when `batch` or `pool` does not divide over these groups.
    """

    def __init__(
        self,
        model: StreamModel,
        options: EngineOptions | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model, self.options, self.clock = model, options or EngineOptions(), clock
        for name in ("batch", "pool"):
            if getattr(self.options, name) % model.shards:
                raise ConfigError(
                    f"an engine's {name} of {getattr(self.options, name)} does not divide over the "
                    f"{model.shards} groups of devices along mesh.data and mesh.fsdp"
                )
        # Of each group; places are numbered within its part of the pool.
        self._places = [Places(self.options.pool // model.shards) for _ in range(model.shards)]
        self._pool: Pool = empty_pool(
            model.config, self.options.pool, model.dtype, model.mesh, self.options.cache_precision
        )
        self._open: dict[int, Conversation] = {}
        self._serial = 0
        # Frames seen ahead of their tick, seat by seat, and what the tower made of them.
        self._foreseen: tuple[tuple[np.ndarray | jax.Array, ...], jax.Array | None] = ((), None)

    @property
    def free(self) -> int:
        """Tokens that the pool has room for."""
        return sum(places.free for places in self._places)

    def open(
        self, prompt: str = "", options: StreamOptions | None = None, offset_us: int = 0
    ) -> Conversation:
        """Begin a conversation.

        Args:
            prompt: the first turn's text.
            options: decoding; `max_new_tokens` at most the engine's.
            offset_us: microseconds of the source at which its clock starts.

        Raises:
            SlotsFull: there are as many conversations as slots.
            ConfigError: options that this engine or model cannot serve; or a query longer than the
                context.
        """
        options = options or StreamOptions(max_new_tokens=self.options.max_new_tokens)
        if options.max_new_tokens > self.options.max_new_tokens:
            raise ConfigError(
                f"max-new-tokens {options.max_new_tokens} is more than the engine's "
                f"{self.options.max_new_tokens}"
            )
        if options.silence_base is not None and self.model.stop.silence is None:
            raise ConfigError("silence control needs a tokenizer in which ' ...' is one token")
        asked = len(self.model.tokenizer.encode(prompt))
        if asked >= options.context:
            raise ConfigError(f"a query of {asked} tokens does not fit a context of {options.context}")
        return self._add(options, prompt, offset_us)

    def _add(
        self, options: StreamOptions, prompt: str, offset_us: int, shard: int | None = None
    ) -> Conversation:
        """A conversation in a slot of its own."""
        if len(self._open) >= self.options.slots:
            raise SlotsFull(f"all {self.options.slots} slots have a conversation")
        self._serial += 1
        if shard is None:
            held = collections.Counter(c._shard for c in self._open.values())
            shard = min(range(self.model.shards), key=lambda i: held[i])
        made = Conversation(self, options, prompt, offset_us, self._serial, shard)
        self._open[self._serial] = made
        return made

    def warm_up(
        self, size: tuple[int, int], prompt: str = "", options: StreamOptions | None = None
    ) -> None:
        """Compile, before there are any streams, what streams like this one will run.

        Made-up streams take turns and are closed again: openings, later turns with short and with long
        time labels, and a short question, in ticks of every number of rows. With a fixed `room` nothing
        is left to compile but longer questions (and, over several groups of devices, ticks of one that
        forks have filled beyond its share); without one, contexts that outgrow their bucket too.

        Args:
            size: height and width of frames as they are pushed, multiples of 28.
            prompt: the first turn's text.
            options: decoding; what counts is whether there is a temperature, and silence control.

        Raises:
            LiveCCError: there are conversations; or those made up do not fit pool or context.
        """
        if self._open:
            raise LiveCCError("an engine is warmed up before it has conversations")
        opening, pair = (np.zeros((n, *size, 3), np.uint8) for n in (OPENING_FRAMES, TURN_FRAMES))
        most = min(self.options.slots, self.options.batch)
        counts = {min(most, self.model.shards << i) for i in range(most.bit_length() + 1)}
        for count in sorted(counts):
            streams = [self.open(prompt, options) for _ in range(count)]
            for number, frames in ((0, opening), (1, pair), (LATE_TURN, pair), (None, None)):
                for stream in streams:
                    if frames is None:
                        stream.ask("?")
                        continue
                    # The shortest prompt there is, and the longest.
                    stream._pushed, stream._unkept = number, [0] * (number == LATE_TURN)
                    stream.push(frames)
                while self.waiting():
                    for _, result in self.tick():
                        if isinstance(result, LiveCCError):
                            raise result
            for stream in streams:
                stream.close()

    def waiting(self) -> int:
        """Turns that wait."""
        return sum(c.waiting for c in list(self._open.values()))

    def tick(
        self, following: np.ndarray | jax.Array | None = None
    ) -> list[tuple[Conversation, SpokenTurn | Answer | LiveCCError]]:
        """Take the most urgent turns together, one of each conversation, as many as `seats.taken` says.

        Args:
            following: frames that will be pushed next, the array itself, where no other turn can be in
                the next tick: they are seen while this one's words are awaited.

        Returns:
            What each of them said; or, for a conversation whose next turn does not fit its context or
            the pool, why. That conversation is closed, unless it was a question that does not fit.
        """
        began = self.clock()
        chosen = self._urgent(claim=True)
        if not chosen:
            return []
        seen = self._see(chosen)  # under way while prompts are made
        rows: list[Row] = []
        ended: list[tuple[Conversation, SpokenTurn | Answer | LiveCCError]] = []
        for conversation, turn in chosen:
            try:
                rows.append(Row(conversation, turn, *self._prepare(conversation, turn)))
            except (ContextFull, PoolFull) as error:
                ended.append((conversation, error))
                if turn.frames is not None:
                    conversation.close()
        if not rows:
            return ended
        if ended:
            seen = self._see([(row.conversation, row.turn) for row in rows])
        said, cut = self._run(rows, seen, following)
        now = self.clock()
        spoken = [
            (row.conversation, self._remember(row, said[i], bool(cut[i]), now - began, now))
            for i, row in enumerate(rows)
        ]
        return [*spoken, *ended]

    def _urgent(self, claim: bool = False) -> list[tuple[Conversation, Waiting]]:
        """The most urgent waiting turn and those that are in its tick, claimed or only looked up."""
        # Others may push meanwhile, and so drop what waits first.
        ready = sorted(
            ((c._waiting[0], c) for c in list(self._open.values()) if c._waiting),
            key=lambda x: (x[0].captured, x[1]._serial),
        )
        chosen: list[tuple[Conversation, Waiting]] = []
        held, limit = collections.Counter[int](), self._most  # turns, of each group of devices
        for turn, conversation in ready:
            # Turns share a program when their frames are as many, of one size.
            alike = not chosen or turn.shape == chosen[0][1].shape
            full = held[conversation._shard] == limit
            if not alike or full or (claim and not conversation._claim(turn)):
                continue
            chosen.append((conversation, turn))
            held[conversation._shard] += 1
            if len(chosen) == 1 and turn.frames is not None:  # questions all go: hardly a prompt
                waiting = collections.Counter(c._shard for t, c in ready if t.shape == turn.shape)
                limit = taken(max(waiting.values()), self._most, self._least)
        return chosen

    def _see(self, chosen: list[tuple[Conversation, Waiting]]) -> jax.Array | None:
        """What the tower makes of these turns' frames, each in its seat; None of questions."""
        if chosen[0][1].frames is None:
            return None
        seats, count = self._seated([conversation for conversation, _ in chosen])
        shown = [chosen[0][1].frames] * count
        for seat, (_, turn) in zip(seats, chosen):
            shown[seat] = turn.frames
        (foreseen, pictures), self._foreseen = self._foreseen, ((), None)
        same = len(foreseen) == count and all(a is b for a, b in zip(shown, foreseen))
        if pictures is not None and same:
            return pictures
        return self.model.look(shown)

    def _foresee(self, following: np.ndarray | jax.Array | None) -> None:
        """Have the device see the next tick's frames, if they are known, after all it has to do."""
        shown = () if following is None else (following,)
        chosen = [] if shown else self._urgent()
        # As many as can be, so that what comes later is less urgent; and the next push drops none.
        full = len(chosen) == self._most * self.model.shards
        if full and all(c.waiting < self.options.waiting for c, _ in chosen):
            seats, _ = self._seated([conversation for conversation, _ in chosen])
            by_seat = dict(zip(seats, chosen))
            shown = tuple(by_seat[seat][1].frames for seat in sorted(by_seat))
        if shown and shown[0] is not None:
            self._foreseen = shown, self.model.look_ahead(shown)

    def _seated(self, conversations: list[Conversation]) -> tuple[list[int], int]:
        shards = [conversation._shard for conversation in conversations]
        return seated(shards, self.model.shards, self._most, self._least)

    @property
    def _most(self) -> int:
        """Rows of a group of devices, at most."""
        return min(self.options.batch // self.model.shards, self.options.slots)

    @property
    def _least(self) -> int:
        """Rows of a group, at least."""
        # Alone, a token's input would not be rounded to eight bits, and in company it is.
        return 2 if self.model.precision == "fp8" else 1

    def _prepare(self, conversation: Conversation, turn: Waiting) -> tuple[Prompt, np.ndarray]:
        """A turn's prompt, and places for it and its answer."""
        memory, options = conversation._memory, conversation.options
        places = conversation._places
        places.release(memory.make_room())
        prompt = make_prompt(
            self.model.template,
            turn.frames,
            "" if turn.frames is None else turn_label(*turn_span(turn.number)),
            conversation.prompt if turn.frames is not None else turn.question,
            first=turn.number == 0,
            positions=options.positions,
            start=memory.next_position,
            unkept=conversation._unkept,
        )
        fresh = len(prompt.tokens) + self._limit(conversation, turn)
        if memory.length + fresh > options.context:
            seen = turn_span(conversation._taken)[0] / 1e6
            raise ContextFull(
                f"the context of {options.context} tokens is full after {seen:g} s of video"
            )
        if fresh > places.free:
            raise PoolFull(
                f"the pool of {places.total} tokens has room for {places.free} more, and "
                f"the turn takes {fresh}"
            )
        return prompt, places.take(fresh)

    def _limit(self, conversation: Conversation, turn: Waiting) -> int:
        """Most tokens of the answer."""
        if turn.frames is None:
            return self.options.max_answer
        return conversation.options.max_new_tokens

    def _run(
        self, rows: list[Row], seen: jax.Array | None, following: np.ndarray | jax.Array | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(said int32 [rows, M], cut bool [rows])."""
        seats, count = self._seated([row.conversation for row in rows])
        # Padding rows repeat the first one with no answer to give, and write where nobody reads.
        padded, gathered = [rows[0]] * count, [Remembered(FULL).gather()] * count
        for seat, row in zip(seats, rows):
            padded[seat], gathered[seat] = row, row.conversation._memory.gather()
        limit = self.options.max_answer
        if rows[0].turn.frames is not None:
            limit = self.options.max_new_tokens
        turn = stack_prompts([row.prompt for row in padded])
        bucket = turn.tokens.shape[1]
        # Beyond the pool, where nothing is kept; no place twice.
        nowhere = self.options.pool + np.arange(count * (bucket + limit), dtype=np.int32)
        prompts, answers = np.split(nowhere.reshape(count, -1), [bucket], axis=1)
        limits = np.zeros(count, np.int32)
        for seat, row in zip(seats, rows):
            size = len(row.prompt.tokens)
            prompts[seat, :size] = row.places[:size]
            answers[seat, : len(row.places) - size] = row.places[size:]
            limits[seat] = self._limit(row.conversation, row.turn)
        options = [row.conversation.options for row in padded]
        bases = [row.conversation.options.silence_base for row in rows if row.turn.frames is not None]
        place, config, weights = self.model.place, self.model.config, self.model.weights
        with self.model.devices():
            said, self._pool = take_turns(
                config,
                self.model.stop.watching(bases),
                limit,
                weights.for_saying(),
                self._pool,
                place(_stack_contexts(gathered, self.options.room)),
                place(turn)._replace(pictures=seen),
                place(TurnPlaces(prompts, answers)),
                place(stack_controls(options, [row.number for row in padded])),
                place(limits),
                any(row.conversation.options.temperature > 0 for row in rows),
            )
        said.copy_to_host_async()
        self._foresee(following)
        said = np.asarray(said)[seats]
        return said, np.sum(said >= 0, axis=1) == limits[seats]

    def _remember(
        self, row: Row, said: np.ndarray, cut: bool, latency: float, now: float
    ) -> SpokenTurn | Answer:
        """Add a turn that was taken to its conversation's memory."""
        conversation, turn, prompt, places = row
        tokens = said[said >= 0]
        size, kept = len(prompt.tokens), len(tokens) - cut
        start = conversation._memory.next_position
        piece = Piece(
            places[:size], prompt.tokens, prompt.positions - start, prompt.next_position - start
        )
        answer = Piece.words(places[size : size + kept], tokens[:kept])
        conversation._memory.add(piece, answer)
        conversation._places.release(places[size + kept :])
        # As in `Session.push`: `hybrid` is for being exactly the released decoder.
        forgets = conversation.options.positions == "hybrid"
        conversation._unkept = [] if forgets or not cut else tokens[-1:].tolist()
        if turn.frames is None:
            conversation._answered += 1
            at = (turn_span(conversation._taken - 1)[1] + conversation.offset_us) / 1e6
            text = self.model.tokenizer.decode(tokens.tolist())
            return Answer(at, turn.question, text, tuple(tokens.tolist()), cut, latency)
        conversation._taken, conversation._seen = turn.number + 1, turn.captured
        conversation.lateness.taken += 1
        conversation.lateness.last = now - turn.captured - DUE
        begin, stop = turn_span(turn.number)
        return SpokenTurn(
            (begin + conversation.offset_us) / 1e6,
            (stop + conversation.offset_us) / 1e6,
            self.model.tokenizer.decode(tokens.tolist()),
            tuple(tokens.tolist()),
            cut,
            latency,
        )

    def _check_open(self, conversation: Conversation) -> None:
        if conversation.closed:
            raise LiveCCError("this conversation is closed")

    def _close(self, conversation: Conversation) -> None:
        if self._open.pop(conversation._serial, None) is not None:
            conversation._places.release(conversation._memory.places())
            conversation._waiting.clear()


def _stack_contexts(gathered: list[tuple[np.ndarray, np.ndarray, np.ndarray]], room: int) -> Context:
    """Contexts as a batch, padded to the bucket of the longest."""
    count = len(gathered)
    longest = max(len(places) for places, _, _ in gathered)
    room = room if longest <= room else _context_bucket(longest)
    places, tokens = (np.zeros((count, room), np.int32) for _ in range(2))
    positions = np.zeros((count, 3, room), np.int32)
    lengths = np.zeros(count, np.int32)
    for i, (where, what, at) in enumerate(gathered):
        places[i, : len(where)], tokens[i, : len(where)] = where, what
        positions[i, :, : len(where)] = at
        lengths[i] = len(where)
    return Context(places, tokens, positions, lengths)


def _context_bucket(length: int) -> int:
    """Room for a context: 0, or four sizes an octave, so that few programs serve any length."""
    if length == 0:
        return 0
    step = max(SMALLEST_CONTEXT, 1 << (length - 1).bit_length() >> 3)
    return -(-length // step) * step
