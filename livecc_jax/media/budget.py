"""How many pixels a frame may have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from livecc_jax.errors import ConfigError
from livecc_jax.families.qwen2_vl import IMAGE_FACTOR, MERGED_PATCHES
from livecc_jax.media.pixels import smart_resize

AREA = IMAGE_FACTOR * IMAGE_FACTOR  # pixels of one merged token
MIN_TOKENS = 100
REFERENCE_MAX = 768  # merged tokens of a frame pair, at most
REFERENCE_TOTAL = 24_576  # merged tokens of a whole clip


@dataclass(frozen=True)
class PixelBudget:
    """`reference`: the published rule, in which a longer clip has smaller frames; or fixed.

    tokens: most merged tokens a frame pair, or None for the reference rule. Only a fixed budget can be
    shared by training and live streaming, which cannot know how long it will last.
    """

    tokens: int | None

    @staticmethod
    def parse(text: str | int) -> PixelBudget:
        """`reference` or a number of tokens. Raises ConfigError for anything else."""
        if text == "reference":
            return PixelBudget(None)
        # int() alone would take 1.5 for 1 and True for 1.
        number = type(text) is int or (isinstance(text, str) and re.fullmatch("[0-9]{1,9}", text))
        if not number or int(text) < 1:
            raise ConfigError(f"pixel budget {text!r} is neither `reference` nor a number of tokens")
        return PixelBudget(int(text))

    def __str__(self) -> str:
        return "reference" if self.tokens is None else str(self.tokens)

    def limits(self, num_frames: int) -> tuple[int, int]:
        """Fewest and most pixels of a frame, in a clip of so many sampled frames."""
        if self.tokens is not None:
            return min(MIN_TOKENS, self.tokens // 2) * AREA, self.tokens * AREA
        least = MIN_TOKENS * AREA
        share = REFERENCE_TOTAL * AREA / num_frames * 2
        return least, int(max(min(REFERENCE_MAX * AREA, share), int(1.05 * least)))

    def size(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        """Height and width of a frame after resizing. Raises MediaError for extreme shapes."""
        return smart_resize(height, width, *self.limits(num_frames))

    @property
    def max_pair_patches(self) -> int:
        """Patches of the largest frame pair: the size of a vision window."""
        return MERGED_PATCHES * (REFERENCE_MAX if self.tokens is None else self.tokens)
