"""An example's timeline for a human: time, frames, words, what is supervised, what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from livecc_jax.data.examples.example import ExamplePlan
from livecc_jax.data.rows.row import PATCH_VALUES
from livecc_jax.errors import DataError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.positions import token_positions


def describe(plan: ExamplePlan, tokenizer: Tokenizer, budget: PixelBudget, mode: str) -> str:
    """The example turn by turn, as text of several lines.

    Args:
        plan: of the example.
        tokenizer: to show tokens as text.
        budget: it was planned with.
        mode: position mode shown.
    """
    encoded = plan.encoded
    positions, _ = token_positions(encoded.tokens, encoded.grids, tokenizer.special, mode)
    lines = []
    for media in plan.media:
        name = media.source if isinstance(media.source, str) else media.source.path
        span = ""
        if len(media.times_us):
            span = (
                f", {len(media.frames)} frames at {media.times_us[0] / 1e6:.3f}"
                f"-{media.times_us[-1] / 1e6:.3f} s"
            )
        lines.append(
            f"{name}: shown at {media.width}x{media.height}, "
            f"{media.pairs} x {media.patches_per_pair // 4} tokens{span}"
        )
    lines += ["", f"{'turn':>4}  {'role':<9} {'tokens':>6}  {'targets':>7}  {'position':<15}  content"]
    for turn in range(int(encoded.turns[-1]) + 1):
        here = np.flatnonzero(encoded.turns == turn)
        place = positions[:, here]
        lines.append(
            f"{turn:>4}  {_role(plan, turn, tokenizer):<9} {len(here):>6}  "
            f"{int(encoded.supervised[here].sum()):>7}  "
            f"{place.min():>6} - {place.max():<6}  {_content(plan, turn, here, tokenizer)}"
        )
    window = budget.max_pair_patches
    vision = sum(m.pairs * m.patches_per_pair // 4 for m in plan.media)
    lines += [
        "",
        f"{plan.tokens} tokens ({vision} vision), {plan.targets} supervised, "
        f"{plan.windows(window)} windows of {window} patches; "
        f"budget {budget}, positions {mode}",
    ]
    return "\n".join(lines)


def _role(plan: ExamplePlan, turn: int, tokenizer: Tokenizer) -> str:
    here = plan.encoded.tokens[plan.encoded.turns == turn]
    return tokenizer.decode(here[:6].tolist()).split("\n")[0]


def _content(plan: ExamplePlan, turn: int, here: np.ndarray, tokenizer: Tokenizer) -> str:
    """The turn's text, with its frames in place of vision tokens and targets in [brackets]."""
    tokens, special = plan.encoded.tokens[here], tokenizer.special
    supervised = plan.encoded.supervised[here]
    shown: list[str] = []
    if plan.turns and turn % 2 == 1:
        frames = plan.turns[turn // 2]
        times = plan.media[0].times_us[frames.first_frame : frames.first_frame + frames.num_frames]
        picture = f"<frames {' '.join(f'{t / 1e6:.2f}' for t in times)}>"
    else:
        picture = "<picture>"
    starts = np.flatnonzero(np.diff(np.concatenate([[-1], _kinds(tokens, supervised, special)])))
    for start, stop in zip(starts, [*starts[1:], len(tokens)]):
        piece = tokens[start:stop]
        if piece[0] in (special.video_pad, special.image_pad):
            shown.append(picture)
        elif supervised[start]:
            shown.append(f"[{tokenizer.decode(piece.tolist())}]")
        else:
            shown.append(tokenizer.decode(piece.tolist()))
    text = "".join(shown)
    head = _role(plan, turn, tokenizer)
    return text.removeprefix(head + "\n").rstrip("\n").replace("\n", " / ")


def _kinds(tokens: np.ndarray, supervised: np.ndarray, special: object) -> np.ndarray:
    vision = (tokens == special.video_pad) | (tokens == special.image_pad)
    return np.where(vision, 2, supervised.astype(int))


def save_npz(plan: ExamplePlan, tokenizer: Tokenizer, mode: str, path: str | Path) -> None:
    """Write the example's arrays (docs/formats.md): what the model gets, before packing.

    Raises MediaError when a file cannot be decoded, DataError when the npz cannot be written.
    """
    encoded = plan.encoded
    positions, _ = token_positions(encoded.tokens, encoded.grids, tokenizer.special, mode)
    patches = [m.load().reshape(-1, PATCH_VALUES) for m in plan.media]
    try:
        with open(path, "wb") as file:  # numpy would add a suffix to a name without one
            np.savez_compressed(
                file,
                tokens=encoded.tokens,
                supervised=encoded.supervised,
                positions=positions,
                patches=np.concatenate([np.zeros((0, PATCH_VALUES), np.uint8), *patches]),
                grid=encoded.grids,
                frame_times=plan.frame_times_us / 1e6,
            )
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
