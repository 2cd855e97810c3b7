"""Tests that conversions are exact bit for bit, and that each damage is reported in one sentence."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.checkpoints import hf_config
from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock, read_config
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.hf_load import load_hf
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.safetensors import read_directory
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.commands import convert as command
from livecc_jax.errors import CheckpointError
from livecc_jax.model.presets import preset
from tests.support.checkpoints import assert_bits_equal, random_params, tiny_config

BFLOAT16 = np.dtype(jnp.bfloat16)


def tensors_of(directory):
    return {name: (str(t.dtype), t.shape, t.read().tobytes()) for name, t in read_directory(directory)}


@pytest.fixture
def exported(tmp_path):
    """An untied float32 checkpoint in one file: (directory, config, parameters)."""
    config = tiny_config()
    params = random_params(config)
    export_hf(tmp_path / "model", config, LiveCCBlock(), params)
    return tmp_path / "model", config, params


@pytest.mark.parametrize("layout", ["flat", "nested"])
@pytest.mark.parametrize(("tied", "dtype"), [(True, BFLOAT16), (False, np.dtype("float32"))])
def test_round_trip_is_bit_exact(tmp_path, tokenizer, tied, dtype, layout):
    config, livecc = tiny_config(tied), LiveCCBlock("hybrid", "reference")
    params = random_params(config, dtype)
    export_hf(tmp_path / "a", config, livecc, params, tokenizer, layout=layout, max_shard_bytes=100_000)
    assert len(list((tmp_path / "a").glob("*.safetensors"))) > 2
    assert ("lm_head.weight" in tensors_of(tmp_path / "a")) == (not tied)

    convert(tmp_path / "a", tmp_path / "b", "orbax")
    result = convert(tmp_path / "b", tmp_path / "c", "hf", layout=layout)
    assert tensors_of(tmp_path / "c") == tensors_of(tmp_path / "a")
    assert (tmp_path / "c/config.json").read_text() == (tmp_path / "a/config.json").read_text()
    assert json.loads((tmp_path / "c/config.json").read_bytes())["torch_dtype"] == str(dtype)
    assert result.dtype == str(dtype)
    for name in "abc":
        checkpoint = open_checkpoint(tmp_path / name)
        assert (checkpoint.config, checkpoint.livecc) == (config, livecc)
        assert checkpoint.open_tokenizer().special == tokenizer.special
        assert_bits_equal(checkpoint.load_params(), params)
        abstract = jax.tree.map(lambda x: (x.shape, np.dtype(x.dtype)), checkpoint.abstract_params())
        assert abstract == jax.tree.map(lambda x: (x.shape, x.dtype), params)


def test_names_and_layout_are_those_of_torch(exported):
    """Compares with the safetensors library and a layout written by hand."""
    directory, config, params = exported
    theirs = safetensors.numpy.load_file(directory / "model.safetensors")
    layer = {k: v for k, v in params["text"]["layers"].items()}
    q = layer["attn"]["q"]["kernel"][1]  # [D, H, Dh]
    np.testing.assert_array_equal(
        theirs["model.layers.1.self_attn.q_proj.weight"], q.reshape(q.shape[0], -1).T
    )
    o = layer["attn"]["o"]["kernel"][0]  # [H, Dh, D]
    np.testing.assert_array_equal(
        theirs["model.layers.0.self_attn.o_proj.weight"], o.reshape(-1, o.shape[-1]).T
    )
    qkv = params["vision"]["blocks"]["attn"]["qkv"]
    for i, part in enumerate(np.split(theirs["visual.blocks.0.attn.qkv.bias"], 3)):
        np.testing.assert_array_equal(part, qkv["bias"][0, i].ravel())
    patch = params["vision"]["patch_embed"]
    np.testing.assert_array_equal(
        theirs["visual.patch_embed.proj.weight"].transpose(1, 2, 3, 4, 0).reshape(patch.shape), patch
    )
    assert len(theirs) == 4 + 1 + 6 + 12 * config.vision.depth + 12 * config.text.layers - 1


def test_later_names_and_a_stored_tied_head_are_accepted(tmp_path):
    config = tiny_config(tied=True)
    params = random_params(config)
    export_hf(tmp_path, config, LiveCCBlock(), params, overwrite=True)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    later = {
        k.replace("model.", "model.language_model.", 1) if k[0] == "m" else f"model.{k}": v
        for k, v in tensors.items()
    }
    later["lm_head.weight"] = params["text"]["embed"]
    later["model.language_model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    safetensors.numpy.save_file(later, file)
    assert_bits_equal(load_hf(tmp_path, config), params)
    later["lm_head.weight"] = params["text"]["embed"] + 1
    safetensors.numpy.save_file(later, file)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens"):
        load_hf(tmp_path, config)


def test_loading_casts_each_leaf_and_shards(exported):
    directory, _, params = exported
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("fsdp", "tensor"))
    dtypes = jax.tree.map(lambda _: np.dtype("float32"), params)
    dtypes["vision"] = jax.tree.map(lambda _: BFLOAT16, dtypes["vision"])
    shardings = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), params)
    split = NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor"))
    shardings["text"]["layers"]["mlp"]["up"]["kernel"] = split
    shardings["text"]["layers"]["attn"]["q"]["kernel"] = split
    loaded = open_checkpoint(directory).load_params(dtypes, shardings)
    assert_bits_equal(loaded, jax.tree.map(lambda x, d: x.astype(d), params, dtypes))
    assert loaded["text"]["layers"]["mlp"]["up"]["kernel"].sharding == split
    # Devices get no weight that is not a number; here, because the programs are compiled by now.
    rewrite(directory, lambda t: t["model.layers.0.mlp.up_proj.weight"].__setitem__((3, 4), np.nan))
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj\.weight holds NaN"):
        open_checkpoint(directory).load_params(dtypes, shardings)


def rewrite(directory, change):
    file = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file)


def make_incompatible(tensors):
    del tensors["model.norm.weight"]
    tensors["model.layers.7.oddity"] = np.ones(1, np.float32)
    tensors["visual.merger.ln_q.bias"] = np.ones(3, np.float32)
    tensors["model.visual.merger.ln_q.weight"] = tensors["visual.merger.ln_q.weight"]
    tensors["visual.merger.mlp.2.bias"] = tensors["visual.merger.mlp.2.bias"].astype(np.int32)
    name = "visual.blocks.1.norm1.bias"
    tensors[name] = tensors[name].astype(np.float16)


def test_all_mismatches_are_reported_at_once(exported):
    directory, config, _ = exported
    rewrite(directory, make_incompatible)
    with pytest.raises(CheckpointError) as caught:
        load_hf(directory, config)
    message = str(caught.value)
    assert message.startswith(str(directory))
    for part in (
        "missing model.norm.weight",
        "extra model.layers.7.oddity",
        "visual.merger.ln_q.bias has shape (3,), not (32,)",
        "duplicated visual.merger.ln_q.weight",
        "visual.merger.mlp.2.bias has dtype int32",
        "visual.blocks.0.norm1.bias and its other layers have different dtypes (float16, float32)",
    ):
        assert part in message
    # Layers are grouped, so that the message about a missing shard is complete and readable.
    rewrite(directory, lambda t: [t.pop(k) for k in list(t) if k.startswith("model.layers.")])
    with pytest.raises(CheckpointError) as caught:
        load_hf(directory, config)
    kinds = {
        n for e in weight_name_table(config) if e.path.startswith("text/layers") for n in e.names[:1]
    }
    for name in kinds:
        assert f"missing {name.replace('.0.', '.{0-1}.')}" in str(caught.value)


def write_header(file, text, data=b""):
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


ENTRY = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
DAMAGE = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "is truncated"),
    "short header": (
        lambda f: f.write_bytes(f.read_bytes()[:100]),
        "truncated inside its header",
    ),
    "zero bytes": (lambda f: f.write_bytes(b""), "is empty"),
    "broken JSON": (lambda f: write_header(f, b'{"a":'), "not valid JSON"),
    "not UTF-8": (lambda f: write_header(f, b"\xff\xff"), "not valid JSON"),
    "not safetensors": (lambda f: f.write_bytes(b"PK" * 50), "not a safetensors file"),
    "name twice": (lambda f: write_header(f, b'{"a":1,"a":2}'), "'a' is there twice"),
    "no dtype": (lambda f: write_header(f, b'{"a":{"shape":[]}}'), "entry for a is malformed"),
    "odd dtype": (lambda f: write_header(f, ENTRY.replace(b"F32", b"F8_E4M3"), bytes(8)), "F8_E4M3"),
    "wrong size": (lambda f: write_header(f, ENTRY.replace(b"[2]", b"[3]"), bytes(8)), "takes 12"),
    "negative": (lambda f: write_header(f, ENTRY.replace(b"[2]", b"[-2]"), bytes(8)), "malformed"),
    "gap": (lambda f: write_header(f, ENTRY.replace(b"[0,8]", b"[4,12]"), bytes(12)), "gap"),
    "rest": (lambda f: write_header(f, ENTRY, bytes(12)), "4 bytes after its last tensor"),
    "no weights": (
        lambda f: f.rename(f.with_name("pytorch_model.bin")),
        "write safetensors with transformers",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_file_is_named(exported, kind):
    directory, _, _ = exported
    damage, words = DAMAGE[kind]
    damage(directory / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(directory).load_params()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert message.startswith(str(directory))


def test_shards_missing_broken_or_overlapping(tmp_path):
    config = tiny_config()
    directory = tmp_path / "m"
    export_hf(directory, config, LiveCCBlock(), random_params(config), max_shard_bytes=200_000)
    shards = sorted(directory.glob("model-*.safetensors"))
    index = directory / "model.safetensors.index.json"

    def load_error():
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(directory).load_params()
        return str(caught.value)

    first = safetensors.numpy.load_file(shards[0])
    second = safetensors.numpy.load_file(shards[1])
    name = next(iter(first))
    safetensors.numpy.save_file(second | {name: first[name]}, shards[1])
    assert f"duplicated {name} (in {shards[0].name} and {shards[1].name})" in load_error()
    safetensors.numpy.save_file({k: v for k, v in first.items() if k != name}, shards[0])
    assert f"says that {shards[0].name} holds {name}" in load_error()
    shards[0].unlink()
    assert load_error() == f"{directory}: shard {shards[0].name} is missing"
    index.write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    assert str(index) in load_error()
    index.write_text("{")
    assert f"{index}: is not a valid index" in load_error()


CONFIGS = {
    "model_type": (lambda c: c.update(model_type="llama"), "model_type is 'llama'"),
    "missing": (lambda c: c.pop("hidden_size"), "hidden_size is missing"),
    "wrong type": (lambda c: c.update(num_hidden_layers="2"), "num_hidden_layers is '2'"),
    "zero": (lambda c: c.update(num_hidden_layers=0), "must be at least 1"),
    "sliding": (lambda c: c.update(use_sliding_window=True), "use_sliding_window is True"),
    "activation": (lambda c: c.update(hidden_act="gelu"), "hidden_act is 'gelu'"),
    "vision": (lambda c: c["vision_config"].update(hidden_act="silu"), "vision_config.hidden_act"),
    "widths": (lambda c: c["vision_config"].update(hidden_size=9), "the decoder's is 64"),
    "no vision": (lambda c: c.pop("vision_config"), "vision_config is missing"),
    "rope": (lambda c: c["rope_scaling"].update(type="yarn"), "rope_scaling.type is 'yarn'"),
    "no rope": (lambda c: c.pop("rope_scaling"), "rope_scaling is missing"),
    "section": (lambda c: c["rope_scaling"].update(mrope_section=[1, 2]), "three whole numbers"),
    "sum": (lambda c: c["rope_scaling"].update(mrope_section=[1, 2, 3]), "half the head dimension"),
    "heads": (lambda c: c.update(num_key_value_heads=3), "not a multiple of text.kv_heads"),
    "quantised": (lambda c: c.update(quantization_config={"bits": 4}), "quantization_config"),
    "livecc": (lambda c: c.update(livecc={"positions": 3}), "livecc.positions is 3"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_unusable_config_names_file_and_field(tmp_path, kind):
    data = hf_config.to_config_json(tiny_config(), LiveCCBlock(), "float32")
    change, words = CONFIGS[kind]
    change(data)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError) as caught:
        read_config(tmp_path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")
    file.write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_config(tmp_path)


def test_configs_of_other_writers(tmp_path):
    """transformers 4.50 leaves out defaults; 5.x writes rope_parameters and lists."""
    config = preset("7b")
    flat = hf_config.to_config_json(config, LiveCCBlock())
    del flat["livecc"]
    flat["vision_config"] = {"model_type": "qwen2_vl", "in_chans": 3, "spatial_patch_size": 14}
    flat["rope_scaling"] = {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]}
    assert hf_config.parse_config(flat, tmp_path) == (config, LiveCCBlock("mrope", "384"))
    nested = hf_config.to_config_json(config, LiveCCBlock(), layout="nested")
    text = nested["text_config"]
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    text |= {"eos_token_id": [151645, 151643], "layer_types": ["full_attention"] * 28}
    assert hf_config.parse_config(nested, tmp_path)[0] == config
    text["layer_types"] = ["sliding_attention"] * 28
    with pytest.raises(CheckpointError, match=r"text_config\.layer_types"):
        hf_config.parse_config(nested, tmp_path)


def test_destination_is_never_half_written_or_lost(tmp_path, exported):
    directory, config, params = exported
    before = tensors_of(directory)
    with pytest.raises(CheckpointError, match="already exists"):
        export_hf(directory, config, LiveCCBlock(), params)

    class Broken:
        def save(self, directory):
            raise CheckpointError("the disk is full")

    with pytest.raises(CheckpointError, match="the disk is full"):
        export_hf(directory, config, LiveCCBlock(), params, Broken(), overwrite=True)
    assert tensors_of(directory) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    with pytest.raises(CheckpointError, match="holds the checkpoint"):
        convert(directory, directory, "orbax", overwrite=True)
    other = tmp_path / "home"
    other.mkdir()
    (other / "thesis").touch()
    with pytest.raises(CheckpointError, match="is not a checkpoint, so it is not overwritten"):
        convert(directory, other, "hf", overwrite=True)
    convert(directory, tmp_path / "copy", "hf", dtype="float16")
    convert(directory, tmp_path / "copy", "hf", dtype="bfloat16", overwrite=True)
    assert {dtype for dtype, _, _ in tensors_of(tmp_path / "copy").values()} == {"bfloat16"}


def test_the_command_prints_what_it_wrote(tmp_path, exported, capsys):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(
        ["convert", str(exported[0]), str(tmp_path / "o"), "--to", "hf", "--dtype", "bfloat16"]
    )
    assert args.run(args) == 0
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert "bfloat16, hf" in output
