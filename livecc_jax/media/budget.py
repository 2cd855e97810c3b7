"""Pixel budgets: how many pixels a frame may have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from livecc_jax.errors import ConfigError
from livecc_jax.families.qwen2_vl import IMAGE_FACTOR, MERGED_PATCHES
from livecc_jax.media.pixels import smart_resize

TOKEN_PIXELS = IMAGE_FACTOR * IMAGE_FACTOR  # pixels of one token
MIN_TOKENS = 100  # of a frame pair
MAX_REFERENCE_TOKENS = 768  # of a frame pair
TOTAL_REFERENCE_TOKENS = 24_576  # of a clip
MAX_TOKENS = 65_536  # of a frame pair: 51 megapixels, whose window takes 0.3 GB


@dataclass(frozen=True)
class PixelBudget:
    """The number of pixels of a frame: fixed, or `reference`, the released rule.

    With `reference`, a longer clip has smaller frames. Only a fixed budget can be shared by training
    and live streaming, because a live stream has no known length.

    Attributes:
        tokens: Maximum number of tokens of a frame pair; None is `reference`.
    """

    tokens: int | None

    @staticmethod
    def parse(text: str | int) -> PixelBudget:
        """Parse `reference` or a number of tokens. Raises ConfigError for anything else."""
        if text == "reference":
            return PixelBudget(None)
        # int() alone would accept 1.5 and True.
        number = type(text) is int or (isinstance(text, str) and re.fullmatch("[0-9]{1,9}", text))
        if not number or not 1 <= int(text) <= MAX_TOKENS:
            raise ConfigError(
                f"pixel budget {text!a:.60} is neither `reference` nor a number of tokens "
                f"from 1 to {MAX_TOKENS}"
            )
        return PixelBudget(int(text))

    def __str__(self) -> str:
        return "reference" if self.tokens is None else str(self.tokens)

    def pixel_limits(self, num_frames: int) -> tuple[int, int]:
        """Returns the minimum and maximum pixels of a frame, for a clip with so many sampled frames."""
        if self.tokens is not None:
            return min(MIN_TOKENS, self.tokens // 2) * TOKEN_PIXELS, self.tokens * TOKEN_PIXELS
        min_pixels = MIN_TOKENS * TOKEN_PIXELS
        share = TOTAL_REFERENCE_TOKENS * TOKEN_PIXELS / num_frames * 2
        max_pixels = min(MAX_REFERENCE_TOKENS * TOKEN_PIXELS, share)
        return min_pixels, int(max(max_pixels, int(1.05 * min_pixels)))

    def size(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        """Returns height and width of a frame after resizing. Raises MediaError for extreme shapes."""
        return smart_resize(height, width, *self.pixel_limits(num_frames))

    @property
    def max_pair_patches(self) -> int:
        """Number of patches of the largest frame pair, which is the size of a vision window."""
        return MERGED_PATCHES * (MAX_REFERENCE_TOKENS if self.tokens is None else self.tokens)
