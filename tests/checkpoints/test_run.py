"""Training runs come back bit for bit, and export in their base model's dtype."""

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
from tests.support.checkpoints import assert_same, config_of, random_params


def test_run_comes_back_bitwise_and_exports_in_its_base_dtype(tmp_path, tokenizer):
    config = config_of(tied=True)
    mesh = Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    place = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(random_params(config), place)
    params["vision"] = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["vision"])  # frozen
    learning = traverse_util.flatten_dict({"text": params["text"]}, sep="/")
    optimizer = optax.adamw(optax.linear_schedule(0, 1e-3, 10))
    opt_state = jax.jit(optimizer.update)(learning, optimizer.init(learning), learning)[1]

    run = RunDirectory(tmp_path / "run", keep=2)
    run.create(config, LiveCCBlock("mrope", "256", "bfloat16"), tokenizer, {"run": "x", "seed": 3})
    assert run.latest_step() is None
    with pytest.raises(CheckpointError, match="neither safetensors nor a complete step"):
        open_checkpoint(tmp_path / "run")
    for step in (1, 2, 3):
        run.save(step, params, opt_state, {"row": step, "bad": ["a.mp4"]})
    run.wait()
    assert run.latest_step() == 3
    with pytest.raises(CheckpointError, match=r"has no step 1 \(complete steps: 2, 3\)"):
        run.restore_params(1)
    with pytest.raises(CheckpointError, match="step 3 is already there"):
        run.save(3, params, opt_state)
    run.close()

    later = RunDirectory(tmp_path / "run")
    assert later.train_config() == {"run": "x", "seed": 3}
    split = NamedSharding(mesh, PartitionSpec("fsdp"))

    def abstract(tree):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split if x.ndim else place), tree
        )

    back = later.restore(3, abstract(params), abstract(opt_state))
    assert_same(back[:2], (params, opt_state))
    assert back[2] == {"row": 3, "bad": ["a.mp4"]}
    assert back[0]["text"]["embed"].sharding == split
    wrong = abstract(params)
    wrong["text"]["norm"] = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)
    with pytest.raises(CheckpointError, match=r"run/3: params text/norm has shape \(64,\), not \(3,\)"):
        later.restore(3, wrong, abstract(opt_state))

    # Parameters are read without the optimiser, even when there is none.
    shutil.rmtree(tmp_path / "run/3/opt_state")
    assert_same(later.restore_params(3), params)
    with pytest.raises(CheckpointError, match="run/3: has no opt_state"):
        later.restore(3, abstract(params), abstract(opt_state))
    checkpoint = open_checkpoint(tmp_path / "run")
    assert (checkpoint.kind, checkpoint.step) == ("orbax", 3)
    assert open_checkpoint(tmp_path / "run/2").step == 2
    convert(tmp_path / "run", tmp_path / "export", "hf")
    exported = open_checkpoint(tmp_path / "export")
    assert exported.livecc == LiveCCBlock("mrope", "256")
    assert_same(exported.load_params(), jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
    assert exported.open_tokenizer().vocab_size == tokenizer.vocab_size

    # A killed writer's leavings are not a step; a damaged step says so.
    (tmp_path / "run/9.orbax-checkpoint-tmp/params").mkdir(parents=True)
    (tmp_path / "run/8").mkdir()
    assert later.latest_step() == 3
    for name in (tmp_path / "run/2/params").rglob("*"):
        if name.is_file() and "d" in name.parts:
            name.write_bytes(b"x")
    with pytest.raises(CheckpointError, match="run/2"):
        later.restore_params(2)


def test_config_that_does_not_match_the_step(tmp_path):
    run = RunDirectory(tmp_path / "r", asynchronous=False)
    run.create(config_of(), LiveCCBlock(), None, {})
    run.save(0, random_params(config_of(tied=True)))
    run.close()
    with pytest.raises(CheckpointError, match=r"r/0: parameter text/head has shape None"):
        open_checkpoint(tmp_path / "r").load_params()
    with pytest.raises(CheckpointError, match="there is no such checkpoint directory"):
        open_checkpoint(Path("nowhere"))
