"""The decoder's own forms: frames cut on the device, attention in parts, products in eight bits."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.decoding import attention
from livecc_jax.decoding.attention import (
    attend_cache,
    attend_causal,
    attend_masked,
    merge_attention,
)
from livecc_jax.decoding.quantize import (
    quantize,
    quantize_head,
    quantized_head_logits,
    quantized_linear,
)
from livecc_jax.decoding.vision import patchify_frames
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.errors import ConfigError
from livecc_jax.media.pixels import patchify
from livecc_jax.model import attention_splash
from livecc_jax.parallel.mesh import make_mesh, parse_mesh


def test_frames_are_cut_as_on_the_host():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 56, 84, 3), np.uint8)
    wanted = np.stack([patchify(clip)[0].reshape(2, -1, 1176) for clip in frames])
    np.testing.assert_array_equal(patchify_frames(jnp.asarray(frames)), wanted)


def plain_cudnn(q, k, v, query_seq_lengths=None, key_value_seq_lengths=None, is_causal=False):
    """What cuDNN computes, by definition; undefined (not a number) for a sequence of no keys."""
    slots, own = jnp.arange(k.shape[1]), jnp.arange(q.shape[1])
    if is_causal:
        seen = (slots <= own[:, None])[None]
    else:
        seen = slots < key_value_seq_lengths[:, None, None]
        seen &= (own < query_seq_lengths[:, None])[..., None]
    heads = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, heads, axis=2) for x in (k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(seen[:, None], scores, -jnp.inf)
    out = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    return out, jax.nn.logsumexp(scores, axis=-1).swapaxes(1, 2)


@pytest.mark.parametrize(
    ("rows", "queries", "capacity"),
    [(1, 1, 1536), (4, 1, 1536), (3, 1, 96), (1, 6, 96), (4, 6, 96), (3, 6, 1024), (1, 6, 1024)],
)
def test_parts_together_are_the_whole(monkeypatch, rows, queries, capacity):
    """However many rows, queries and devices there are, and whether or not cuDNN computes the parts."""
    keys = jax.random.split(jax.random.key(rows), 5)
    q = jax.random.normal(keys[0], (rows, queries, 12, 16))
    past = [jax.random.normal(key, (rows, capacity, 4, 16)) for key in keys[1:3]]
    own = [jax.random.normal(key, (rows, queries, 4, 16)) for key in keys[3:]]
    length = jnp.array([capacity // 2 + 1, 0, capacity, 1])[:rows]
    filled = jnp.arange(capacity) < length[:, None, None]
    seen = [
        jnp.broadcast_to(filled, (rows, queries, capacity)),
        jnp.broadcast_to(jnp.tril(jnp.ones((queries, queries), bool)), (rows, queries, queries)),
    ]
    both = (jnp.concatenate(x, axis=1) for x in zip(past, own))
    whole = attend_masked(q, *both, jnp.concatenate(seen, axis=2)).out
    monkeypatch.setattr(attention, "_cudnn", plain_cudnn)
    splits = {1: "tensor=4", 3: None, 4: "data=4,tensor=2"}
    for by_cudnn, over in ((False, None), (True, None), (True, splits[rows])):
        monkeypatch.setattr(attention, "cudnn_is_supported", lambda q, k, by_cudnn=by_cudnn: by_cudnn)
        with jax.set_mesh(make_mesh(parse_mesh(over))) if over else contextlib.nullcontext():
            run = jax.jit(
                lambda: merge_attention([attend_cache(q, *past, length), attend_causal(q, *own)])
            )
            np.testing.assert_allclose(run(), whole, atol=2e-6)


def test_blocks_of_a_past_are_the_whole():
    """As a TPU goes through it; the first row has none."""
    keys = jax.random.split(jax.random.key(2), 3)
    q = jax.random.normal(keys[0], (3, 130, 4, 128))
    k, v = (jax.random.normal(key, (3, 384, 2, 128)) for key in keys[1:])
    length = jnp.array([0, 200, 384])
    out, size = attention_splash.attend_cache(q, k, v, length, interpret=True)
    whole = attend_masked(q, k, v, jnp.arange(384) < length[:, None, None])
    np.testing.assert_allclose(out[1:], whole.out[1:], atol=2e-6)
    np.testing.assert_allclose(size, whole.size, atol=2e-6)
    assert jnp.all(jnp.isfinite(out))  # it is to be multiplied by no weight


def test_eight_bits_are_as_near_as_they_can_be():
    """e4m3 keeps three bits of a mantissa: each factor is off by 1/16 at most."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(64, 4, 24)).astype(np.float32), np.arange(24.0) + np.zeros((4, 24))
    kernel *= 10.0 ** rng.uniform(-3, 3, size=(4, 24))  # outputs of all sizes
    x = rng.normal(size=(3, 5, 64)) * 10.0 ** rng.uniform(-3, 3, size=(3, 5, 1))
    weights = quantize({"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias, jnp.float32)})
    mine = quantized_linear(jnp.asarray(x, jnp.float32), weights)
    exact = np.tensordot(x, kernel, 1)
    worst = np.tensordot(abs(x), abs(kernel), 1) * ((1 + 1 / 16) ** 2 - 1)
    # What is smaller than the scale's last step is lost: 2**-10 of the largest, over 448.
    worst += 64 * 2 * abs(x).max(-1)[..., None, None] * abs(kernel).max(0) * 2.0**-10 / 448
    assert (abs(mine - bias - exact) <= worst + 1e-5 * abs(bias)).all()
    typical = abs(mine - bias - exact) / np.sqrt(np.tensordot(x**2, kernel**2, 1))
    assert np.median(typical) < 0.04


def test_one_token_meets_weights_of_eight_bits_as_they_are_stored():
    """No rounding beyond theirs."""
    rng = np.random.default_rng(1)
    weights = quantize({"kernel": jnp.asarray(rng.normal(size=(384, 4, 24)), jnp.float32)})
    x = jnp.asarray(rng.normal(size=(1, 1, 384)), jnp.float32)
    wide = np.asarray(weights["kernel_fp8"], np.float64)
    wanted = wide @ np.asarray(x, np.float64)[0, 0] * np.asarray(weights["scale"])
    np.testing.assert_allclose(quantized_linear(x, weights)[0, 0], wanted, rtol=1e-5, atol=1e-5)


def test_a_head_in_eight_bits_is_off_by_half_a_step():
    """Of its rows and nothing else, for one token as for several."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(48, 384)) * 10.0 ** rng.uniform(-3, 3, size=(48, 1))
    weights = quantize_head(jnp.asarray(rows, jnp.float32))
    assert weights["kernel_int8"].dtype == jnp.int8
    x = rng.normal(size=(1, 384)).astype(np.float32)
    exact = x @ rows.T
    worst = abs(x).sum() * abs(rows).max(1) / 127 * 0.5
    alone = quantized_head_logits(jnp.asarray(x), weights)
    assert (abs(alone - exact) <= worst * 1.001).all()
    assert np.median(abs(alone - exact) / worst) < 0.1
    both = quantized_head_logits(jnp.asarray(x).repeat(2, 0).reshape(2, 1, 384), weights)
    np.testing.assert_allclose(both[1], alone, rtol=1e-5, atol=1e-4)


def test_another_precision_is_refused():
    with pytest.raises(ConfigError, match=r"precision 'fp4' is not one of weights, fp8"):
        prepare_weights({}, precision="fp4")
