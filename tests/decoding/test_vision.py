"""The vision tower of decoding: frames become patches on the device, windows keep their shape."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice, AbstractMesh

from livecc_jax.decoding.vision import encode_padded_windows, patchify_frames
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.media.pixels import patchify
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import abstract_params


def test_frames_become_the_patches_of_the_host():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 56, 84, 3), np.uint8)
    expected = np.stack([patchify(clip)[0].reshape(2, -1, 1176) for clip in frames])
    np.testing.assert_array_equal(patchify_frames(jnp.asarray(frames), 14), expected)


def test_windows_have_one_shape_on_every_device():
    """Also on a GPU, where the sum of the residual stream is deferred to the merger's norm."""
    config = preset("tiny")
    weights = jax.eval_shape(prepare_weights, abstract_params(config))
    arrays = (
        jax.ShapeDtypeStruct((3, 32, 1176), jnp.uint8),
        jax.ShapeDtypeStruct((2, 3, 32), jnp.int32),
        jax.ShapeDtypeStruct((3,), jnp.int32),
    )

    def shape():
        return jax.eval_shape(
            lambda weights, *arrays: encode_padded_windows(config, weights, *arrays), weights, *arrays
        ).shape

    assert shape() == (3, 8, config.text.width)
    h100 = AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=h100)):
        assert shape() == (3, 8, config.text.width)
