"""Tests sizes, pixels and patches against those of the released pipeline."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import (
    STRIP_BYTES,
    Resizer,
    bicubic_weights,
    patch_coordinates,
    patchify,
    resize,
    smart_resize,
)
from livecc_jax.media.video import probe, read_frames
from tests.support.rows import patch_coordinates as reference_coordinates

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests/goldens/media.npz")
RESIZES = [
    ("bbb_espeak_narration_30s.mp4", 100, 84, 168),
    ("bikes.mp4", 130, 196, 448),
    ("bbb_oddsize_317x179_derived.mp4", 60, 308, 532),
    ("bikes.mp4", 240, 140, 1120),
]


def crop(picture):
    h, w = picture.shape[:2]
    return np.concatenate(
        [picture[:48, :48], picture[h // 2 - 24 : h // 2 + 24, w // 2 - 24 : w // 2 + 24]]
    )


@pytest.mark.parametrize("i", range(len(RESIZES)))
def test_pixels_are_the_released_ones(i):
    """The decoded frame is the same, and resizing is within 1/255 of torch's antialiased bicubic."""
    clip, frame, height, width = RESIZES[i]
    picture = read_frames(probe(ROOT / "data/clips" / clip), [frame])
    np.testing.assert_array_equal(crop(picture[0]), GOLDEN[f"frame_{i}"])
    ours = crop(resize(picture, (height, width))[0]).astype(int)
    error = np.abs(ours - GOLDEN[f"resized_{i}"])
    assert error.max() <= 1
    assert np.mean(error > 0) < 0.001  # only exact halves are rounded differently


@settings(max_examples=25, deadline=None)
@given(
    *[st.integers(28, 300)] * 2,
    *[st.integers(1, 8)] * 2,
    st.sampled_from([1 << 14, 1 << 17, STRIP_BYTES]),
    st.randoms(use_true_random=False),
)
def test_resizing_in_strips_equals_one_matrix_product(height, width, new_h, new_w, strip, random):
    """For noise of any size, and for patches of planar and of interleaved memory."""
    size = (28 * new_h, 28 * new_w)
    rng = np.random.default_rng(random.getrandbits(32))
    frames = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    vertical, horizontal = bicubic_weights(height, size[0]), bicubic_weights(width, size[1])
    exact = np.einsum(
        "ih,fhwc,jw->fijc", vertical, frames.astype(np.float64), horizontal, optimize=True
    )
    planes = np.empty((2, 3, *size), np.uint8)
    resizer = Resizer((height, width), size, strip)
    for frame, out in zip(frames, planes, strict=True):
        resizer(frame, out)
    ours = planes.transpose(0, 2, 3, 1)
    # Products over other strips add up in another order, so that exact halves may round differently.
    for resized in (ours, resize(frames, size)):
        assert np.abs(resized - np.clip(exact, 0, 255)).max() < 0.501
    patches, grid = patchify(ours)
    np.testing.assert_array_equal(patches, patchify(np.ascontiguousarray(ours))[0])
    expected = ours.reshape(2, new_h, 2, 14, new_w, 2, 14, 3).transpose(1, 4, 2, 5, 7, 0, 3, 6)
    np.testing.assert_array_equal(patches, expected.reshape(-1, 1176))
    assert grid == (1, 2 * new_h, 2 * new_w)


def test_sizes_are_the_released_ones():
    for height, width, low, high, *expected in GOLDEN["sizes"].tolist():
        assert list(smart_resize(height, width, low, high)) == expected, (height, width, low, high)
    with pytest.raises(MediaError, match="aspect ratio is above 200"):
        smart_resize(28, 28 * 201, 784, 10**6)


def test_patches_are_in_qwen2_vl_order():
    patches, grid = patchify(GOLDEN["patch_frames"])
    assert grid == tuple(GOLDEN["patch_grid"])
    np.testing.assert_array_equal(patches, GOLDEN["patch_values"])
    for shape in ((4, 6), (2, 2), (10, 4)):
        np.testing.assert_array_equal(patch_coordinates(*shape), reference_coordinates(*shape))


@settings(max_examples=200, deadline=None)
@given(st.integers(20, 3000), st.integers(20, 3000), st.integers(2, 480), st.integers(1, 800))
def test_budgets_hold(height, width, frames, tokens):
    """A fixed budget bounds the tokens of a frame pair, the reference budget those of a clip."""
    reference, fixed = PixelBudget.parse("reference"), PixelBudget.parse(str(tokens))
    assert PixelBudget.parse(str(reference)) == reference
    assert PixelBudget.parse(str(fixed)) == fixed
    for budget in (reference, fixed):
        low, high = budget.pixel_limits(frames)
        assert low <= high
        h, w = budget.size(height, width, frames)
        assert h % 28 == 0
        assert w % 28 == 0
        # A size that rounding makes too small is enlarged and rounded up, and a side is at least 28:
        # only then may the area exceed the maximum.
        nearest = round(height / 28) * round(width / 28) * 784
        if min(h, w) > 28 and min(height * width, nearest) >= low:
            assert h * w <= high
            assert h * w // 196 <= budget.max_pair_patches
    expected = max(min(768, 24576 / frames * 2), 105)
    assert abs(reference.pixel_limits(frames)[1] / 784 - expected) < 0.01


@pytest.mark.parametrize("text", ["", "0", "-3", "large", "1.5", 0, 1.5, True, None, 384.0])
def test_an_invalid_budget(text):
    with pytest.raises(ConfigError, match="pixel budget"):
        PixelBudget.parse(text)
