"""Damaged headers, indexes, configs and metadata of checkpoints are refused by name and in time."""

import json
import shutil
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest

from livecc_jax.checkpoints.hf_config import parse_config
from livecc_jax.checkpoints.hf_tensors import find_tensors, group_layers
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.checkpoints.safetensors import INDEX, read_directory, read_header
from livecc_jax.errors import CheckpointError
from livecc_jax.model.presets import preset

EARLIER = Path(__file__).parents[1] / "goldens/earlier"
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(file, header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def test_a_good_header_is_read(tmp_path):
    tensor = read_header(write(tmp_path / "a.safetensors", {"a": ENTRY}))["a"]
    assert (tensor.shape, tensor.read().tolist()) == ((2,), [0.0, 0.0])


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"[" * 100_000, "more than 64 deep"),
        (b'{"a":' * 5000, "more than 64 deep"),
        ({"a": ENTRY | {"dtype": ["F32"]}}, "entry for a is malformed"),
        ({"a": ENTRY | {"dtype": {}}}, "entry for a is malformed"),
        ({"a": ENTRY | {"shape": {}}}, "entry for a is malformed"),
        ({"a": ENTRY | {"shape": [1] * 999}}, "entry for a is malformed"),
        ({"a": ENTRY | {"shape": [10**80, 0]}}, "entry for a is malformed"),
        ({"a": ENTRY | {"data_offsets": [0, 10**30]}}, "entry for a is malformed"),
        (b'{"a": {"shape": [' + b"9" * 5000 + b"]}}", "digits"),
        ({"\ud800": ENTRY}, "half a character"),
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        ({"a": [1]}, "entry for a is malformed"),
        ([], "not an object"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header, reason):
    file = write(tmp_path / "model.safetensors", header)
    with pytest.raises(CheckpointError, match=reason) as error:
        read_header(file)
    assert str(file) in str(error.value)


def test_too_many_tensors_are_refused_before_memory_is_taken(tmp_path):
    entry = json.dumps(ENTRY).encode()
    text = b"{" + b",".join(b'"%d":%s' % (i, entry) for i in range(300_000)) + b"}"
    file = write(tmp_path / "model.safetensors", text)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="300000 tensors, more than the 100000"):
            read_header(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * len(text)
    file.unlink()
    index = tmp_path / INDEX
    for weight_map in (
        {"a": ["x"]},
        {"a": "x\0y"},
        {"a": "x" * 300},
        {"a": "../x"},
        {"a": ""},
        [],
        None,
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match="weight_map"):
            list(read_directory(tmp_path))


@pytest.mark.parametrize("layout", ["flat", "nested"])
@pytest.mark.parametrize(
    ("place", "name", "value", "reason"),
    [
        ("text", "hidden_size", 10**9, "more than the 1000000"),
        ("text", "num_hidden_layers", 10**9, "more than the 1000"),
        ("text", "vocab_size", 10**12, "more than the 10000000"),
        ("text", "num_attention_heads", 10**30, "more than the 10000"),
        ("vision", "depth", 10**9, "more than the 1000"),
        ("vision", "embed_dim", 10**9, "more than the 1000000"),
        ("vision", "mlp_ratio", 1e308, "no feed-forward layer"),
        ("vision", "mlp_ratio", float("nan"), "not a finite number"),
        ("vision", "mlp_ratio", -4, "no feed-forward layer"),
        ("top", "image_token_id", 10**30, "no token id"),
        ("top", "video_token_id", -1, "no token id"),
        ("text", "eos_token_id", [10**30], "no token id"),
    ],
)
def test_sizes_that_no_model_has_are_refused(layout, place, name, value, reason):
    data = json.loads((EARLIER / "export_flat/config.json").read_text())
    if layout == "nested":
        data["text_config"] = dict(data)
    parse_config(data, Path("config.json"))
    text = data["text_config"] if layout == "nested" else data
    {"text": text, "vision": data["vision_config"], "top": data}[place][name] = value
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{name} is .*{reason}"):
        parse_config(data, Path("config.json"))


def test_a_message_about_many_tensors_is_short(tmp_path):
    names = [f"model.layers.{'9' * 6000}.x", "a\nb", *(f"other{i}" for i in range(500))]
    entries = {name: ENTRY | {"shape": [0], "data_offsets": [0, 0]} for name in names}
    write(tmp_path / "model.safetensors", entries, b"")
    assert len(group_layers([f"extra {name}" for name in names])) == len(names)
    with pytest.raises(CheckpointError, match=r"and [0-9]+ more$") as error:
        find_tensors(tmp_path, preset("tiny"))
    assert len(str(error.value)) < 20_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("2/params/_sharding", b"[" * 100_000),
        ("2/params/_sharding", b'{"dGV4dC5lbWJlZA==": 7}'),
        ("2/params/_METADATA", b'{"tree_metadata": []}'),
        ("2/meta/metadata", b'{"a":' * 5000),
        ("2/meta/metadata", b"[1]"),
    ],
)
def test_damaged_orbax_files_are_refused_or_do_not_matter(tmp_path, file, content):
    run = shutil.copytree(EARLIER / "run", tmp_path / "run")
    (run / file).write_bytes(content)
    reader = RunDirectory(run)
    if "meta/" in file:
        with pytest.raises(CheckpointError, match="its meta cannot be read"):
            reader.restore_meta(2)
        return
    expected = json.loads((EARLIER / "expected.json").read_text())["params"]
    try:
        params = open_checkpoint(run).load_params()
    except CheckpointError as error:
        message = str(error)
    else:
        flat = jax.tree_util.tree_flatten_with_path(params)[0]
        found = {jax.tree_util.keystr(path): list(np.shape(leaf)) for path, leaf in flat}
        assert found == {name: shape for name, (shape, _, _) in expected.items()}
        message = f"{run}: its params cannot be read"
    assert str(run) in message
    assert "cannot be read" in message
