"""Pixel budgets: how many pixels a frame may have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from livecc_jax.errors import ConfigError
from livecc_jax.families.qwen2_vl import MERGE, MERGED_PATCHES, PATCH
from livecc_jax.media.pixels import smart_resize

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
        patch: Pixels along one side of a patch, which the model's family decides; the pixels of a token
            grow with its square.
    """

    tokens: int | None
    patch: int = PATCH

    @staticmethod
    def parse(text: str | int, patch: int = PATCH) -> PixelBudget:
        """Parse `reference` or a number of tokens. Raises ConfigError for anything else.

        Args:
            text: The budget as users write it.
            patch: Pixels along one side of a patch.
        """
        if text == "reference":
            return PixelBudget(None, patch)
        # int() alone would accept 1.5 and True.
        number = type(text) is int or (isinstance(text, str) and re.fullmatch("[0-9]{1,9}", text))
        if not number or not 1 <= int(text) <= MAX_TOKENS:
            raise ConfigError(
                f"pixel budget {text!a:.60} is neither `reference` nor a number of tokens "
                f"from 1 to {MAX_TOKENS}"
            )
        return PixelBudget(int(text), patch)

    def __str__(self) -> str:
        return "reference" if self.tokens is None else str(self.tokens)

    @property
    def factor(self) -> int:
        """Both sides of a resized frame are multiples of this many pixels."""
        return self.patch * MERGE

    def pixel_limits(self, num_frames: int) -> tuple[int, int]:
        """Returns the minimum and maximum pixels of a frame, for a clip with so many sampled frames."""
        token_pixels = self.factor**2
        if self.tokens is not None:
            return min(MIN_TOKENS, self.tokens // 2) * token_pixels, self.tokens * token_pixels
        min_pixels = MIN_TOKENS * token_pixels
        share = TOTAL_REFERENCE_TOKENS * token_pixels / num_frames * 2
        max_pixels = min(MAX_REFERENCE_TOKENS * token_pixels, share)
        return min_pixels, int(max(max_pixels, int(1.05 * min_pixels)))

    def size(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        """Returns height and width of a frame after resizing. Raises MediaError for extreme shapes."""
        return smart_resize(height, width, *self.pixel_limits(num_frames), self.factor)

    @property
    def max_pair_patches(self) -> int:
        """Number of patches of the largest frame pair, which is the size of a vision window."""
        return MERGED_PATCHES * (MAX_REFERENCE_TOKENS if self.tokens is None else self.tokens)
