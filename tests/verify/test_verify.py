"""Tests that `livecc verify` accepts equal checkpoints, and names the tensor and layer that differ."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import HealthCheck, given, settings

from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.cli import main
from livecc_jax.data.inspect.conversation_row import conversation_row, noise_turn_frames
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.text.open import open_tokenizer
from livecc_jax.verify.layers import layer_names, trace_layers
from livecc_jax.verify.traces import compare_traces
from tests.support.checkpoints import architectures, random_params

CLIP = Path(__file__).parents[2] / "data/clips/bikes.mp4"
BLOCK = LiveCCBlock(pixel_budget="16")
TENSORS = 58  # of two decoder layers and two vision blocks, with a head


@pytest.fixture(scope="module")
def model(tmp_path_factory, small_tokenizer):
    """(directory, config, parameters, tokenizer); every weight of the model affects the logits."""
    tokenizer = open_tokenizer(small_tokenizer)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied=False))
    rng = np.random.default_rng(0)
    flat = {
        e.path: (
            np.ones(e.full_shape)
            if "norm" in e.path
            else 2 * rng.standard_normal(e.full_shape) / np.sqrt(e.inputs or 4)
        ).astype(np.float32)
        for e in weight_name_table(config)
    }
    params = traverse_util.unflatten_dict(flat, sep="/")
    home = tmp_path_factory.mktemp("verify") / "model"
    export_hf(home, config, BLOCK, params, tokenizer, max_shard_bytes=300_000)
    return home, config, params, tokenizer


@pytest.fixture
def verify(capfd):
    """Runs the command and returns (exit code, output)."""

    def run(*argv):
        code = main(["verify", *map(str, argv)])
        out = capfd.readouterr()
        assert "Traceback" not in out.err
        return code, out.err if code == 2 else out.out

    return run


def changed(params, path, value):
    """Returns a copy in which one parameter is replaced."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict(flat | {path: value(flat[path].copy())}, sep="/")


def first_difference(out):
    """Returns the layer that the output names."""
    return out.split("they part at ")[1].split()[0]


def test_a_trace_is_the_forward_pass(model):
    _, config, params, tokenizer = model
    probe = conversation_row(noise_turn_frames(PixelBudget(16), 3), tokenizer, "mrope")
    row = probe.row
    assert (row["segment_ids"] == 1).all()
    values = dict(trace_layers(config, params, row))
    assert list(values) == layer_names(config)
    assert values["vision/blocks/1"].shape == (len(probe.patches), config.vision.width)
    batch = {k: v[None] for k, v in row.items()}
    logits = jax.jit(lambda p, r: bind(config, p)(r))(params, batch)[0]
    np.testing.assert_allclose(values["logits"], logits, atol=1e-4)
    # A trace has no padding.
    row = dict(row, segment_ids=np.where(np.arange(probe.row["tokens"].size) < 40, 1, 0))
    unpadded = dict(trace_layers(config, params, row))["logits"]
    np.testing.assert_allclose(unpadded, logits[:40], atol=1e-4)


def test_two_layouts_are_equal(tmp_path, verify, model):
    home, config, params, tokenizer = model
    convert(home, tmp_path / "run", "orbax")
    code, out = verify(home, tmp_path / "run", "--clip", CLIP, "--turns", 2, "--tolerance", 0)
    assert code == 0, out
    assert f"{TENSORS} of {TENSORS} are equal bit for bit" in out
    assert all(name in out for name in layer_names(config))
    assert "100.00%" in out

    # The head may be stored, or only be the embedding.
    twice = changed(params, "text/head", lambda _: params["text"]["embed"].T.copy())
    tied = dataclasses.replace(config, text=dataclasses.replace(config.text, tied=True))
    export_hf(tmp_path / "twice", config, BLOCK, twice, tokenizer)
    once = traverse_util.flatten_dict(twice, sep="/")
    del once["text/head"]
    export_hf(tmp_path / "once", tied, BLOCK, traverse_util.unflatten_dict(once, sep="/"))
    code, out = verify(tmp_path / "once", tmp_path / "twice")
    assert code == 0, out
    assert f"{TENSORS} of {TENSORS} are equal" in out
    assert "text.tied is True in A, False in B (changes no value)" in out


def test_rounded_weights_are_equal_within_their_precision(tmp_path, verify, model):
    home = model[0]
    convert(home, tmp_path / "rounded", "hf", dtype="bfloat16")
    code, out = verify(home, tmp_path / "rounded", "--turns", 1)
    assert code == 1
    assert "float32 in A and bfloat16 in B" in out
    assert first_difference(out) == "vision/patch_embed"
    code, out = verify(home, tmp_path / "rounded", "--turns", 1, "--dtype", "bfloat16")
    assert code == 0, out


@pytest.mark.parametrize(
    ("path", "index", "tensor", "layer"),
    [
        (
            "text/layers/mlp/up/kernel",
            (1, 3, 5),
            "model.layers.1.mlp.up_proj.weight",
            "text/layers/1",
        ),
        (
            "vision/blocks/attn/qkv/bias",
            (1, 2, 0, 1),
            "visual.blocks.1.attn.qkv.bias",
            "vision/blocks/1",
        ),
        ("text/head", (2, 7), "lm_head.weight", "logits"),
    ],
)
def test_one_changed_weight_is_reported(tmp_path, verify, model, path, index, tensor, layer):
    home, config, params, tokenizer = model

    def edit(array):
        array[index] += 0.25
        return array

    export_hf(tmp_path / "other", config, BLOCK, changed(params, path, edit), tokenizer)
    code, out = verify(home, tmp_path / "other", "--turns", 1)
    assert code == 1
    assert f"{TENSORS - 1} of {TENSORS} are equal bit for bit" in out
    assert f"{tensor}        0.25" in out
    assert first_difference(out) == layer


def test_different_configurations_are_reported(tmp_path, verify, model):
    home, config, params, tokenizer = model
    faster = dataclasses.replace(config, text=dataclasses.replace(config.text, rope_theta=1e4))
    export_hf(tmp_path / "faster", faster, BLOCK, params, tokenizer)
    code, out = verify(home, tmp_path / "faster", "--turns", 1)
    assert code == 1
    assert "text.rope_theta is 1000000.0 in A, 10000.0 in B\n" in out
    assert first_difference(out) == "text/layers/0"
    # Positions are a difference that no layer shows.
    hybrid = dataclasses.replace(BLOCK, positions="hybrid")
    export_hf(tmp_path / "hybrid", config, hybrid, params, tokenizer)
    code, out = verify(home, tmp_path / "hybrid", "--turns", 1)
    assert code == 1
    assert "livecc.positions is mrope in A, hybrid in B\n" in out
    assert "no layer does here" in out
    # With fewer layers, the layers are not compared.
    fewer = dataclasses.replace(config, text=dataclasses.replace(config.text, layers=1))
    less = changed(params, "text/norm", lambda x: x)
    less["text"]["layers"] = jax.tree.map(lambda x: x[:1], params["text"]["layers"])
    export_hf(tmp_path / "fewer", fewer, BLOCK, less, tokenizer)
    code, out = verify(home, tmp_path / "fewer")
    assert code == 1
    assert "model.layers.1.input_layernorm.weight is (64,) in A, absent in B" in out
    assert "layers are not compared" in out


def test_user_errors_are_one_sentence(tmp_path, verify, model, monkeypatch):
    home, config, params, _ = model
    bare = tmp_path / "bare"
    export_hf(bare, config, BLOCK, params)
    monkeypatch.setitem(sys.modules, "torch", None)
    for argv, message in (
        ((home,), "a second checkpoint or --against"),
        ((home, home, "--against", "transformers"), "a second checkpoint or --against"),
        ((home, "--against", "transformers"), "torch"),
        ((home, tmp_path / "none"), "none"),
        ((home, home, "--turns", 0), "--turns"),
        ((home, home, "--tolerance", "nan"), "--tolerance"),
        ((home, home, "--clip", tmp_path / "none.mp4"), "none.mp4"),
        ((home, home, "--pixel-budget", "few"), "few"),
        ((bare, bare), "holds none of tokenizer.json"),
    ):
        code, err = verify(*argv)
        assert code == 2, argv
        assert message in err
        assert err.strip().count("\n") == 0


@pytest.mark.parametrize("layout", ["hf", "orbax"])
def test_transformers_computes_the_same(tmp_path, verify, model, layout):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    home = model[0]
    if layout == "orbax":
        convert(home, tmp_path / "run", "orbax")
        home = tmp_path / "run"
    code, out = verify(home, "--against", "transformers", "--clip", CLIP, "--turns", 2)
    assert code == 0, out
    assert f"{TENSORS} of {TENSORS} are equal bit for bit" in out
    code, out = verify(home, "--against", "transformers", "--dtype", "bfloat16")
    assert code == 0, out
    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    if layout == "hf" and version < (4, 52):
        convert(home, tmp_path / "nested", "hf", layout="nested")
        code, err = verify(tmp_path / "nested", "--against", "transformers")
        assert code == 2
        assert "nested" in err


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=architectures())
def test_transformers_computes_the_same_for_any_architecture(tmp_path, model, shape):
    """Architectures have heads, groups, depths and widths of every kind, tied or not."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from livecc_jax.model.vision import normalize
    from livecc_jax.verify.transformers import TransformersModel

    tokenizer = model[3]
    config = fit_vocabulary(shape, tokenizer)
    params = jax.tree.map(lambda x: 0.2 * x, random_params(config))
    export_hf(tmp_path / "any", config, BLOCK, params, overwrite=True)
    probe = conversation_row(noise_turn_frames(PixelBudget.parse(8), 2), tokenizer, "mrope")
    pixels = np.array(normalize(probe.patches, config.vision))
    theirs = TransformersModel(tmp_path / "any", config, "float32").trace(
        probe.row["tokens"], probe.row["positions"], pixels, probe.grids
    )
    report = compare_traces(theirs, trace_layers(config, params, probe.row))
    assert report.first_beyond(1e-4) is None


def test_their_positions(verify, model):
    """4.57 places text after a long video as we do, 5 does not; both agree on streaming turns."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    home = model[0]
    code, out = verify(home, "--against", "transformers", "--their-positions", "--clip", CLIP)
    lines = [line for line in out.splitlines() if line.startswith(("  streaming", "  question"))]
    assert len(lines) == 3
    assert "the same at all" in lines[0]
    if int(transformers.__version__.split(".")[0]) < 5:
        assert code == 0
        assert "the same at all" in lines[1]
    else:
        assert code == 1
        assert "by up to 10; the next token is at" in lines[1]  # 12 frame pairs, 2 merged patches
        assert "its logits at those tokens" in out
    # Positions of another mode are others in every version.
    code, out = verify(
        home, "--against", "transformers", "--their-positions", "--positions", "sequential"
    )
    assert code == 1
    assert "tokens differ" in out.split("streaming conversation: ")[1].splitlines()[0]


def test_their_positions_need_transformers(verify, model):
    code, error = verify(model[0], model[0], "--their-positions")
    assert code == 2
    assert "--their-positions needs --against transformers" in error
