"""Tests that training runs are restored bit for bit, and exported in their base model's dtype."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.checkpoints.convert import convert
from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.errors import CheckpointError
from tests.support.checkpoints import assert_bits_equal, random_params, tiny_config


def test_a_run_is_restored_bit_for_bit_and_exported_in_its_base_dtype(tmp_path, tokenizer):
    config = tiny_config(tied=True)
    mesh = Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    replicated = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(random_params(config), replicated)
    params["vision"] = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["vision"])  # frozen
    trainable = traverse_util.flatten_dict({"text": params["text"]}, sep="/")
    optimizer = optax.adamw(optax.linear_schedule(0, 1e-3, 10))
    opt_state = jax.jit(optimizer.update)(trainable, optimizer.init(trainable), trainable)[1]

    run = RunDirectory(tmp_path / "run", keep=2)
    run.create(config, LiveCCBlock("mrope", "256", "bfloat16"), tokenizer, {"run": "x", "seed": 3})
    assert run.latest_step() is None
    with pytest.raises(CheckpointError, match="neither safetensors nor a complete step"):
        open_checkpoint(tmp_path / "run")
    for step in (1, 2, 3):
        run.save(step, params, opt_state, {"row": step, "quarantined": ["a.mp4"]})
    run.wait()
    assert run.latest_step() == 3
    with pytest.raises(CheckpointError, match=r"has no step 1 \(complete steps: 2, 3\)"):
        run.restore_params(1)
    with pytest.raises(CheckpointError, match="step 3 is already there"):
        run.save(3, params, opt_state)
    run.close()

    reopened = RunDirectory(tmp_path / "run")
    assert reopened.train_config() == {"run": "x", "seed": 3}
    split = NamedSharding(mesh, PartitionSpec("fsdp"))

    def abstract(tree):
        def struct(x):
            sharding = split if x.ndim else replicated
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

        return jax.tree.map(struct, tree)

    restored = reopened.restore(3, abstract(params), abstract(opt_state))
    assert_bits_equal(restored[:2], (params, opt_state))
    assert restored[2] == {"row": 3, "quarantined": ["a.mp4"]}
    assert restored[0]["text"]["embed"].sharding == split
    wrong = abstract(params)
    wrong["text"]["norm"] = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=replicated)
    with pytest.raises(CheckpointError, match=r"run/3: params text/norm has shape \(64,\), not \(3,\)"):
        reopened.restore(3, wrong, abstract(opt_state))

    # Parameters are read without the optimiser, even when there is none.
    shutil.rmtree(tmp_path / "run/3/opt_state")
    assert_bits_equal(reopened.restore_params(3), params)
    with pytest.raises(CheckpointError, match="run/3: has no opt_state"):
        reopened.restore(3, abstract(params), abstract(opt_state))
    checkpoint = open_checkpoint(tmp_path / "run")
    assert (checkpoint.kind, checkpoint.step) == ("orbax", 3)
    assert open_checkpoint(tmp_path / "run/2").step == 2
    convert(tmp_path / "run", tmp_path / "export", "hf")
    exported = open_checkpoint(tmp_path / "export")
    assert exported.livecc == LiveCCBlock("mrope", "256")
    assert_bits_equal(exported.load_params(), jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
    assert exported.open_tokenizer().vocab_size == tokenizer.vocab_size

    # The partly written files of a killed run are not a step; a damaged step raises an error.
    (tmp_path / "run/9.orbax-checkpoint-tmp/params").mkdir(parents=True)
    (tmp_path / "run/8").mkdir()
    assert reopened.latest_step() == 3
    for name in (tmp_path / "run/2/params").rglob("*"):
        if name.is_file() and "d" in name.parts:
            name.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="run/2"):
        reopened.restore_params(2)


def test_config_that_does_not_match_the_step(tmp_path):
    run = RunDirectory(tmp_path / "r", asynchronous=False)
    run.create(tiny_config(), LiveCCBlock(), None, {})
    run.save(0, random_params(tiny_config(tied=True)))
    run.close()
    with pytest.raises(CheckpointError, match=r"r/0: parameter text/head has shape None"):
        open_checkpoint(tmp_path / "r").load_params()
    with pytest.raises(CheckpointError, match="there is no such checkpoint directory"):
        open_checkpoint(Path("nowhere"))
