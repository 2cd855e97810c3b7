"""The decoder's own forms: frames cut on the device, attention in parts, products in eight bits."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from livecc_jax.decoding import attention
from livecc_jax.decoding.attention import (
    attend_causal,
    attend_masked,
    attend_past,
    together,
)
from livecc_jax.decoding.kv_cache import append
from livecc_jax.decoding.linear import before, joined, product
from livecc_jax.decoding.network import cut, lay_out, logits, see, taken_apart
from livecc_jax.decoding.paged_cache import gather_plainly
from livecc_jax.decoding.quantize import head8, product8, products8, quantize, quantize_head
from livecc_jax.errors import ConfigError
from livecc_jax.kernels import (
    flash_decode,
    flash_prefill,
    flash_vision,
    fused_gemm,
    fused_norm,
    gemv,
    rope,
)
from livecc_jax.kernels.fused_norm import Sum
from livecc_jax.kernels.kv_quantize import narrow, widen
from livecc_jax.kernels.norms import LayerNorm, RmsNorm
from livecc_jax.kernels.paged_gather import gather_context
from livecc_jax.media.pixels import patchify
from livecc_jax.model import attention_splash
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.qwen2_vl import abstract_params, bind
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.mesh import make_mesh, parse_mesh


def test_frames_are_cut_as_on_the_host():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 56, 84, 3), np.uint8)
    wanted = np.stack([patchify(clip)[0].reshape(2, -1, 1176) for clip in frames])
    np.testing.assert_array_equal(cut(jnp.asarray(frames)), wanted)


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
        monkeypatch.setattr(attention, "fused", lambda q, k, by_cudnn=by_cudnn: by_cudnn)
        with jax.set_mesh(make_mesh(parse_mesh(over))) if over else contextlib.nullcontext():
            run = jax.jit(lambda: together([attend_past(q, *past, length), attend_causal(q, *own)]))
            np.testing.assert_allclose(run(), whole, atol=2e-6)


def test_blocks_of_a_past_are_the_whole():
    """As a TPU goes through it; the first row has none."""
    keys = jax.random.split(jax.random.key(2), 3)
    q = jax.random.normal(keys[0], (3, 130, 4, 128))
    k, v = (jax.random.normal(key, (3, 384, 2, 128)) for key in keys[1:])
    length = jnp.array([0, 200, 384])
    out, size = attention_splash.attend_past(q, k, v, length, interpret=True)
    whole = attend_masked(q, k, v, jnp.arange(384) < length[:, None, None])
    np.testing.assert_allclose(out[1:], whole.out[1:], atol=2e-6)
    np.testing.assert_allclose(size, whole.size, atol=2e-6)
    assert jnp.all(jnp.isfinite(out))  # it is to be multiplied by no weight


@pytest.mark.parametrize(
    ("queries", "heads", "lengths", "parts"),
    [(70, (1, 1), [100], 3), (10, (2, 1), [0, 128], 2), (3, (6, 2), [7], 1)],
)
def test_a_prompt_is_rotated_kept_and_attends(monkeypatch, queries, heads, lengths, parts):
    """In three kernels as step by step, in parts of which some have no keys for some queries."""
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    monkeypatch.setattr(flash_prefill, "parts_of", lambda *_: parts)
    monkeypatch.setattr(flash_prefill, "KEYS", 64)
    keys = jax.random.split(jax.random.key(queries), 4)
    rows, (h, kv) = len(lengths), heads
    qkv = jax.random.normal(keys[0], (rows, queries, kv, h // kv + 2, 64))
    angles = jax.random.uniform(keys[1], (rows, queries, 32), maxval=6.0)
    kept = tuple(jax.random.normal(key, (rows, 256, kv, 64)) for key in keys[2:])
    length = jnp.array(lengths)
    attend = functools.partial(flash_prefill.keep_and_attend, interpret=InterpretGPUParams())
    out, now = attend(qkv, angles, kept, length)
    q, k, v = taken_apart(qkv)
    q, k = rotate(q, angles), rotate(k, angles)
    for there, old, new in zip(now, kept, (k, v)):
        wanted = np.array(old)
        for row, begin in enumerate(lengths):
            wanted[row, begin : begin + queries] = new[row]
        np.testing.assert_allclose(there, wanted, atol=1e-6)
    wanted = together([attend_past(q, *kept, length), attend_causal(q, k, v)])
    np.testing.assert_allclose(out, wanted, atol=3e-6)


@pytest.mark.parametrize(("windows", "length"), [(2, 70), (1, 300)])
def test_windows_are_rotated_and_attend(windows, length):
    """In a kernel each, in whole blocks of queries, as step by step."""
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    qkv = jax.random.normal(jax.random.key(0), (windows, length, 3, 3, 80))
    angles = jax.random.uniform(jax.random.key(1), (1, length, 40), maxval=6.0)
    made = rope.rotated_windows(qkv, angles, interpret=True)
    q, k, v = (qkv[:, :, i] for i in range(3))
    q, k = rotate(q, angles), rotate(k, angles)
    np.testing.assert_allclose(made, jnp.stack([q, k, v], axis=2), atol=1e-6)
    out = flash_vision.attend(made, interpret=InterpretGPUParams())
    wanted = attend_masked(q, k, v, jnp.ones((windows, length, length), bool)).out
    np.testing.assert_allclose(out, wanted, atol=3e-6)


@pytest.mark.parametrize("eight", [False, True])
@pytest.mark.parametrize(("kv", "size"), [(4, 32), (3, 48)])
def test_a_context_is_found_and_rotated_in_one_kernel(kv, size, eight):
    """As step by step; of a row that remembers nothing too, and without what others have."""
    keys = jax.random.split(jax.random.key(size), 4)
    layer = tuple(jax.random.normal(key, (300, kv, size)).at[7].set(jnp.nan) for key in keys[:2])
    layer = tuple(map(narrow, layer)) if eight else layer
    places = jax.random.randint(keys[2], (3, 128), 8, 300)
    length = jnp.array([0, 70, 128])
    remembered = jnp.arange(128) < length[:, None]
    given = (
        jnp.where(remembered, places, 7),
        jax.random.uniform(keys[3], (3, 128, size // 2), maxval=6.0),
    )
    made = gather_context(layer, *given, length, jnp.float32, interpret=True)
    plain = gather_plainly(layer, *given, length, jnp.float32)
    for one, wanted in zip(made, plain):
        wanted = np.where(remembered[..., None, None], wanted, 0)
        np.testing.assert_allclose(one, wanted, atol=2e-6)


@pytest.mark.parametrize(("heads", "over"), [(4, None), (12, None), (12, "data=2,tensor=2")])
def test_a_token_is_rotated_kept_and_attends(monkeypatch, heads, over):
    """In two kernels as step by step, on any number of devices; what was kept before stays."""
    keys = jax.random.split(jax.random.key(heads), 6)
    qkv = jax.random.normal(keys[0], (2, 1, 4, heads // 4 + 2, 32))
    angles = jax.random.uniform(keys[3], (2, 1, 16), maxval=6.0)
    kept = tuple(jax.random.normal(key, (2, 192, 4, 32)) for key in keys[4:])
    length = jnp.array([0, 130])
    interpreted = functools.partial(flash_decode.keep_and_attend, interpret=True)
    monkeypatch.setattr(flash_decode, "keep_and_attend", interpreted)
    with jax.set_mesh(make_mesh(parse_mesh(over))) if over else contextlib.nullcontext():
        out, now = jax.jit(attention.keep_and_attend)(qkv, angles, kept, length)
    q, k, v = taken_apart(qkv)
    assert q.shape == (2, 1, heads, 32)
    for there, old, new in zip(now, kept, (rotate(k, angles), v)):
        wanted = np.array(old)
        wanted[0, 0], wanted[1, 130] = new[:, 0]
        np.testing.assert_allclose(there, wanted, atol=1e-6)
    seen = jnp.arange(192) <= length[:, None, None]
    wanted = attend_masked(rotate(q, angles), *map(jnp.asarray, now), seen).out
    np.testing.assert_allclose(out, wanted, atol=2e-6)


def test_eight_bits_are_as_near_as_they_can_be():
    """e4m3 keeps three bits of a mantissa: each factor is off by 1/16 at most."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(64, 4, 24)).astype(np.float32), np.arange(24.0) + np.zeros((4, 24))
    kernel *= 10.0 ** rng.uniform(-3, 3, size=(4, 24))  # outputs of all sizes
    x = rng.normal(size=(3, 5, 64)) * 10.0 ** rng.uniform(-3, 3, size=(3, 5, 1))
    weights = quantize({"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias, jnp.float32)})
    mine = product8(jnp.asarray(x, jnp.float32), weights)
    exact = np.tensordot(x, kernel, 1)
    worst = np.tensordot(abs(x), abs(kernel), 1) * ((1 + 1 / 16) ** 2 - 1)
    # What is smaller than the scale's last step is lost: 2**-10 of the largest, over 448.
    worst += 64 * 2 * abs(x).max(-1)[..., None, None] * abs(kernel).max(0) * 2.0**-10 / 448
    assert (abs(mine - bias - exact) <= worst + 1e-5 * abs(bias)).all()
    typical = abs(mine - bias - exact) / np.sqrt(np.tensordot(x**2, kernel**2, 1))
    assert np.median(typical) < 0.04


def linear_maps(rng):
    """A linear map of 384 inputs and [2, 4, 24] outputs, as decoding may have it."""
    kernel = jnp.asarray(rng.normal(size=(384, 2, 96)) / 20, jnp.float32)
    bias = jnp.asarray(rng.normal(size=(2, 96)), jnp.float32)
    yield {"rows": jnp.moveaxis(kernel, 0, -1), "bias": bias}
    yield {"rows": jnp.moveaxis(kernel, 0, -1)}
    yield quantize({"kernel": kernel, "bias": bias})
    yield quantize({"kernel": kernel})


@pytest.mark.parametrize("between", [None, "gate"])
@pytest.mark.parametrize("normed", [False, True])
def test_one_token_by_a_kernel_of_its_own(monkeypatch, between, normed):
    """Norm, product, bias, gate and residual in one are what they are one after the other."""
    rng = np.random.default_rng(1)
    norm = RmsNorm(jnp.asarray(rng.normal(size=384), jnp.float32), 1e-6) if normed else None
    x = jnp.asarray(rng.normal(size=(1, 1, 384)), jnp.float32)
    for weights in linear_maps(rng):
        for add in (None, jnp.asarray(rng.normal(size=(1, 1, 96) if between else (1, 1, 2, 96)))):
            run = functools.partial(product, x, weights, norm=norm, between=between, add=add)
            plain = run()
            with monkeypatch.context() as patch:
                patch.setattr(gemv, "usable", lambda *shape: True)
                interpreted = functools.partial(gemv.times, interpret=True)
                patch.setattr(gemv, "times", interpreted)
                one = run()
            assert one.shape == plain.shape
            np.testing.assert_allclose(one, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["weights", "fp8"])
def test_a_turn_is_made_for_a_gpu_of_these_kernels(monkeypatch, precision):
    """Lowered for one, which need not be there: the tower, a prompt, a token and the head."""
    text = TextConfig(512, 256, 2, 4, 2, 512, mrope_section=(8, 12, 12))
    config = ModelConfig(text, VisionConfig(depth=2, width=128, heads=2, mlp=256))
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), abstract_params(config)
    )
    weights = jax.eval_shape(functools.partial(lay_out, precision=precision), params)
    kept = [(jax.ShapeDtypeStruct((1, 256, 2, 64), jnp.bfloat16),) * 2] * 2

    def say(weights, cache, x, positions, start):
        model = bind(config, weights.rest)
        hidden, cache = append(model, weights.layers, cache, x, positions, start)
        return logits(model, weights, hidden[:, -1]), cache

    def made(function, *given):
        text = jax.jit(function).trace(*given).lower(lowering_platforms=("cuda",)).as_text()
        named = re.findall(r'name = "(\w+)"', text) + re.findall(
            r"private @(times|attend|_run)\(", text
        )
        return {*named}

    def of(queries):
        x = jax.ShapeDtypeStruct((1, queries, 256), jnp.bfloat16)
        return made(say, weights, kept, x, jnp.zeros((1, 3, queries), int), jnp.array([70]))

    monkeypatch.setattr(fused_gemm, "LEAST_ROWS", 256)
    one = AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=one)):
        tower = {"rotated_windows", "attend"}
        between = {"add_and_norm", "narrow_rows" if precision == "fp8" else "times"}
        head = {"product_one"} if precision == "fp8" else set()
        frames = jax.ShapeDtypeStruct((1, 16, 56, 112, 3), jnp.uint8)
        assert made(functools.partial(see, config), weights, frames) == tower | between
        assert of(256) == {"placed_prompt", "_run", "mixed_prompt"} | between | head
        assert of(1) == {"product_one", "attend_one", "keep_one"}


@pytest.mark.parametrize("between", ["gate", "gelu"])
def test_a_product_of_many_rows_and_what_follows_it(monkeypatch, between):
    """In one kernel as step by step, by blocks that go on from tile to tile, and in shapes as given."""
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    monkeypatch.setattr(fused_gemm, "MULTIPROCESSORS", 2)
    monkeypatch.setattr(fused_gemm, "NEAR", 2)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 128, 320))
    if between == "gate":
        weights = {"rows": jax.random.normal(keys[1], (2, 384, 320)) / 18}
    else:
        weights = {
            "kernel": jax.random.normal(keys[1], (320, 512)) / 18,
            "bias": jax.random.normal(keys[2], (512,)),
        }
    norm = RmsNorm(jnp.linspace(0.5, 1.5, 320), 1e-6)
    plain = product(x, weights, norm=norm, between=between)
    monkeypatch.setattr(fused_gemm, "usable", lambda *of: True)
    interpreted = functools.partial(fused_gemm.times, interpret=InterpretGPUParams())
    monkeypatch.setattr(fused_gemm, "times", interpreted)
    np.testing.assert_allclose(product(x, weights, norm=norm, between=between), plain, atol=1e-5)


def test_one_token_meets_weights_of_eight_bits_as_they_are_stored():
    """No rounding beyond theirs."""
    rng = np.random.default_rng(1)
    weights = quantize({"kernel": jnp.asarray(rng.normal(size=(384, 4, 24)), jnp.float32)})
    x = jnp.asarray(rng.normal(size=(1, 1, 384)), jnp.float32)
    wide = np.asarray(weights["kernel8"], np.float64)
    wanted = wide @ np.asarray(x, np.float64)[0, 0] * np.asarray(weights["scale"])
    np.testing.assert_allclose(product8(x, weights)[0, 0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [384, 4736])
def test_what_a_product_of_eight_bits_is_given_is_made_in_one_kernel(monkeypatch, size):
    """Normed, or gated, or through gelu, and rounded, as step by step; a row of zeros stays one."""
    rng = np.random.default_rng(3)

    def numbers(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    x = numbers(2, 3, 48) * 10.0 ** rng.uniform(-3, 3, size=(2, 3, 1))
    x = x.at[1, 1].set(0)
    first = {
        "gate": quantize({"kernel": numbers(48, 2, size) / 7}),
        "gelu": quantize({"kernel": numbers(48, size) / 7, "bias": numbers(size)}),
    }
    second = quantize({"kernel": numbers(size, 48) / 20})
    norm, other = RmsNorm(numbers(48), 1e-6), LayerNorm(numbers(48), numbers(48))

    def both(kind, norm=None):
        return products8(x, first[kind], kind, second, norm).scaled().reshape(x.shape)

    calls = [functools.partial(product8, x, first["gelu"], norm=n) for n in (norm, other, None)]
    calls += [functools.partial(both, *of) for of in (("gate",), ("gelu",), ("gate", norm))]
    plain = [run() for run in calls]
    monkeypatch.setattr(fused_norm, "usable", lambda eight: True)
    interpreted = functools.partial(fused_norm.narrow_rows, interpret=True)
    monkeypatch.setattr(fused_norm, "narrow_rows", interpreted)
    for run, wanted in zip(calls, plain):
        # One that lies between two of e4m3's values may go to the other for the last bit's sake.
        size = jnp.std(wanted, axis=-1, keepdims=True) + 1e-6
        np.testing.assert_allclose(run() / size, wanted / size, atol=0.02)
    assert jnp.all(calls[-1]()[1, 1] == 0)


@pytest.mark.parametrize("eight", [False, True])
@pytest.mark.parametrize("kind", [RmsNorm, LayerNorm])
def test_a_sum_is_added_and_normed_in_one_kernel(monkeypatch, kind, eight):
    """As step by step, and in the end what the product after it makes of it."""
    rng = np.random.default_rng(4)

    def numbers(*shape):  # step by step, bfloat16 would be rounded once more before eight bits are
        return jnp.asarray(rng.normal(size=shape), jnp.float32 if eight else jnp.bfloat16)

    norm = RmsNorm(numbers(80), 1e-6)
    if kind is LayerNorm:
        norm = LayerNorm(numbers(3, 80), numbers(3, 80), layer=1)
    x, out = numbers(2, 8, 80) * 4, numbers(2, 8, 2, 24)
    first, second = ({"kernel": numbers(*shape) / 7} for shape in ((48, 80), (80, 3, 16)))
    first = {"kernel": first["kernel"].reshape(2, 24, 80), "bias": numbers(80)}
    if eight:
        first, second = quantize(first, 2), quantize(second)
    assert not isinstance(joined(x, out, first, 2), Sum)
    wanted = joined(x, out, first, 2)
    then = product(wanted, second, norm=norm)
    monkeypatch.setattr(fused_norm, "usable", lambda eight: True)
    for name in ("narrow_rows", "add_and_norm"):
        interpreted = functools.partial(getattr(fused_norm, name), interpret=True)
        monkeypatch.setattr(fused_norm, name, interpreted)
    waiting = joined(x, out, first, 2)
    assert isinstance(waiting, Sum)
    made, given, left = before(waiting, norm, second)
    assert left is None
    for found, plain in ((made, wanted), (product(given, second, dtype=x.dtype), then)):
        assert found.dtype == plain.dtype
        assert found.shape == plain.shape
        off = found.astype(jnp.float32) - plain.astype(jnp.float32)
        assert jnp.std(off) < 4e-3 * jnp.std(plain.astype(jnp.float32))


def test_a_head_in_eight_bits_is_off_by_half_a_step(monkeypatch):
    """Of its rows and nothing else, for one token by its kernel as for several."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(48, 384)) * 10.0 ** rng.uniform(-3, 3, size=(48, 1))
    weights = quantize_head(jnp.asarray(rows, jnp.float32))
    assert weights["rows8"].dtype == jnp.int8
    x = rng.normal(size=(1, 384)).astype(np.float32)
    exact = x @ rows.T
    worst = abs(x).sum() * abs(rows).max(1) / 127 * 0.5
    alone = head8(jnp.asarray(x), weights)
    assert (abs(alone - exact) <= worst * 1.001).all()
    assert np.median(abs(alone - exact) / worst) < 0.1
    both = head8(jnp.asarray(x).repeat(2, 0).reshape(2, 1, 384), weights)
    np.testing.assert_allclose(both[1], alone, rtol=1e-5, atol=1e-4)
    monkeypatch.setattr(gemv, "usable", lambda *shape, **_: True)
    interpreted = functools.partial(gemv.times, interpret=True)
    monkeypatch.setattr(gemv, "times", interpreted)
    by_kernel = head8(jnp.asarray(x, jnp.bfloat16), weights)
    assert by_kernel.dtype == jnp.float32
    wanted = head8(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32), weights)
    np.testing.assert_allclose(by_kernel, wanted, rtol=1e-4, atol=1e-4)


def test_a_vector_in_eight_bits_is_off_by_half_a_step():
    x = np.random.default_rng(0).normal(size=(5, 3, 16)).astype(np.float32)
    x *= 10.0 ** np.arange(-7, 8).reshape(5, 3, 1)  # of all sizes
    x[2, 1] = 0
    kept = narrow(jnp.asarray(x))
    assert kept.values.dtype == jnp.int8
    step = abs(x).max(-1, keepdims=True) / 127
    assert (abs(np.asarray(widen(kept, jnp.float32)) - x) <= step * (0.5 + 1e-5)).all()


def test_another_precision_is_refused():
    with pytest.raises(ConfigError, match=r"precision 'fp4' is not one of weights, fp8"):
        lay_out({}, precision="fp4")
