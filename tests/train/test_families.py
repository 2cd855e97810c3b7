"""Training of the newer families: packed equals unpacked, and frames stay among themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import bind, init_params
from livecc_jax.train.config import ComputeConfig
from livecc_jax.train.step import gradients
from tests.support.rows import SHAPE, VOCAB, pack, random_segment

COMPUTE = ComputeConfig(dtype="float32", remat="none", head_chunk=8, freeze=())


def segment(seed, values, **kw):
    made = random_segment(np.random.default_rng(seed), **kw)
    rng = np.random.default_rng(seed + 100)
    videos = [
        (rng.integers(0, 256, (*video.shape[:2], values), dtype=np.uint8), rows, cols)
        for video, rows, cols in made.videos
    ]
    return dataclasses.replace(made, videos=videos)


@pytest.mark.parametrize("name", ["qwen2.5-tiny", "qwen3-tiny"])
def test_packed_equals_unpacked(name):
    """Loss and gradients of two examples in a row are those of each alone, averaged."""
    config = preset(name)
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=VOCAB))
    params = jax.tree.map(lambda x: x * 3 if x.ndim > 1 else x, init_params(config, 0))
    values = config.vision.patch_values
    a, b = segment(0, values, pairs=2), segment(1, values, text=9)
    compute = jax.jit(gradients, static_argnums=(0, 1))

    def compute_gradients(segments):
        batch = {k: jnp.asarray(v)[None] for k, v in pack(segments, **SHAPE).items()}
        return compute(config, COMPUTE, params, batch)

    packed, metrics = compute_gradients([a, b])
    alone = [compute_gradients([s]) for s in (a, b)]
    n = np.array([int(s.supervised.sum()) for s in (a, b)])
    expected = jax.tree.map(lambda x, y: (n[0] * x + n[1] * y) / n.sum(), alone[0][0], alone[1][0])
    scale = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected))
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5 * scale)  # noqa: E731
    jax.tree.map(close, expected, packed)
    losses = [float(m["loss"]) for _, m in alone]
    np.testing.assert_allclose(metrics["loss"], n @ losses / n.sum(), rtol=1e-6)
    # Every parameter matters: the mergers of DeepStack, norms of queries and keys, positions.
    for path, leaf in jax.tree_util.tree_leaves_with_path(packed):
        assert np.abs(leaf).max() > 0, path

    row = pack([segment(0, values, pairs=2)], **SHAPE)
    encode = jax.jit(
        lambda patches: bind(config, params).encode_patches(
            patches, row["patch_pairs"], row["patch_rows"], row["patch_cols"]
        )
    )
    before = encode(row["patches"])
    changed = row["patches"].copy()
    changed[0, 0, 24:48] = 255 - changed[0, 0, 24:48]
    after = encode(changed)
    np.testing.assert_array_equal(before[0, :6], after[0, :6])
    assert np.abs(before[0, 6:12] - after[0, 6:12]).max() > 1e-3
