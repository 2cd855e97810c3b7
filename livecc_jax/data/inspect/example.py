"""An example's timeline as text: times, frames, words, supervised tokens and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.examples.media_slice import load_patches
from livecc_jax.families import DEFAULT
from livecc_jax.families.family import Family
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.tokenizer import SpecialTokens, Tokenizer
from livecc_jax.timeline.positions import token_positions
from livecc_jax.writing import write_npz


def describe_example(
    example: EncodedExample,
    tokenizer: Tokenizer,
    budget: PixelBudget,
    mode: str,
    family: Family = DEFAULT,
    pair_positions: int | None = None,
) -> str:
    """Returns the example turn by turn as text of several lines.

    Args:
        example: The encoded example.
        tokenizer: Decodes tokens to text.
        budget: Pixel budget that the example was encoded with.
        mode: Position mode to show.
        family: The model's family.
        pair_positions: Temporal positions from a frame pair to the next; None is the family's.
    """
    encoded = example.encoded
    positions, _ = token_positions(
        encoded.tokens,
        encoded.grids,
        tokenizer.special,
        mode,
        family=family,
        pair_positions=pair_positions,
    )
    lines = []
    for media in example.media:
        name = media.source if isinstance(media.source, str) else media.source.path
        span = ""
        if len(media.times_us):
            span = (
                f", {len(media.indices)} frames at {media.times_us[0] / 1e6:.3f}"
                f"-{media.times_us[-1] / 1e6:.3f} s"
            )
        lines.append(
            f"{name}: shown at {media.width}x{media.height}, "
            f"{media.pairs} x {media.tokens_per_pair} tokens{span}"
        )
    lines += ["", f"{'turn':>4}  {'role':<9} {'tokens':>6}  {'targets':>7}  {'position':<15}  content"]
    for turn in range(int(encoded.turns[-1]) + 1):
        in_turn = np.flatnonzero(encoded.turns == turn)
        turn_positions = positions[:, in_turn]
        lines.append(
            f"{turn:>4}  {_role(example, turn, tokenizer):<9} {len(in_turn):>6}  "
            f"{int(encoded.supervised[in_turn].sum()):>7}  "
            f"{turn_positions.min():>6} - {turn_positions.max():<6}  "
            f"{_content(example, turn, in_turn, tokenizer)}"
        )
    window = budget.max_pair_patches
    vision_tokens = sum(m.pairs * m.tokens_per_pair for m in example.media)
    lines += [
        "",
        f"{example.tokens} tokens ({vision_tokens} vision), {example.targets} supervised, "
        f"{example.windows(window)} windows of {window} patches; "
        f"budget {budget}, positions {mode}",
    ]
    return "\n".join(lines)


def _role(example: EncodedExample, turn: int, tokenizer: Tokenizer) -> str:
    turn_tokens = example.encoded.tokens[example.encoded.turns == turn]
    return tokenizer.decode(turn_tokens[:6].tolist()).split("\n")[0]


def _content(example: EncodedExample, turn: int, in_turn: np.ndarray, tokenizer: Tokenizer) -> str:
    """Returns a turn's text, with frame times in place of vision tokens and targets in [brackets]."""
    tokens, special = example.encoded.tokens[in_turn], tokenizer.special
    supervised = example.encoded.supervised[in_turn]
    if example.turns and turn % 2 == 1:
        frames = example.turns[turn // 2]
        first, stop = frames.first_frame, frames.first_frame + frames.num_frames
        times_us = example.media[0].times_us[first:stop]
    else:
        times_us = None
    parts: list[str] = []
    kinds = _token_kinds(tokens, supervised, special)
    starts = np.flatnonzero(np.diff(np.concatenate([[-1], kinds])))
    visuals = max(1, int(np.count_nonzero(kinds[starts] == 2)))  # several with timestamps between
    shown = iter([] if times_us is None else np.split(times_us, visuals))
    for start, stop in zip(starts, [*starts[1:], len(tokens)]):
        run = tokens[start:stop]
        if run[0] in (special.video_pad, special.image_pad):
            times = " ".join(f"{t / 1e6:.2f}" for t in next(shown, []))
            parts.append(f"<frames {times}>" if times else "<picture>")
        elif supervised[start]:
            parts.append(f"[{tokenizer.decode(run.tolist())}]")
        else:
            parts.append(tokenizer.decode(run.tolist()))
    text = "".join(parts).removeprefix(_role(example, turn, tokenizer) + "\n")
    return text.rstrip("\n").replace("\n", " / ")


def _token_kinds(tokens: np.ndarray, supervised: np.ndarray, special: SpecialTokens) -> np.ndarray:
    """Returns 2 for vision tokens, 1 for supervised tokens and 0 for others."""
    is_vision = (tokens == special.video_pad) | (tokens == special.image_pad)
    return np.where(is_vision, 2, supervised.astype(int))


def save_example(
    example: EncodedExample,
    tokenizer: Tokenizer,
    mode: str,
    path: str | Path,
    family: Family = DEFAULT,
    pair_positions: int | None = None,
) -> None:
    """Writes the example's arrays (docs/formats.md): the model's inputs before packing.

    Args:
        example: The encoded example.
        tokenizer: The model's tokenizer.
        mode: Position mode.
        path: The npz file to write.
        family: The model's family.
        pair_positions: Temporal positions from a frame pair to the next; None is the family's.

    Raises:
        MediaError: A file cannot be decoded.
        OutputError: The npz file cannot be written.
    """
    encoded = example.encoded
    positions, _ = token_positions(
        encoded.tokens,
        encoded.grids,
        tokenizer.special,
        mode,
        family=family,
        pair_positions=pair_positions,
    )
    values = family.patches.values
    patches = [load_patches(m).reshape(-1, values) for m in example.media]
    arrays = {
        "tokens": encoded.tokens,
        "supervised": encoded.supervised,
        "positions": positions,
        "patches": np.concatenate([np.zeros((0, values), np.uint8), *patches]),
        "grid": encoded.grids,
        "frame_times": example.frame_times_us / 1e6,
    }
    write_npz(path, arrays)
