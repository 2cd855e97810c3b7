"""Plans of streaming: an engine on a slice that is not present."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from livecc_jax.cli import main
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.model.presets import preset
from livecc_jax.parallel.mesh import MeshConfig, make_mesh, parse_mesh
from livecc_jax.planning.abstract_decoding import abstract_weights
from livecc_jax.planning.streaming import default_mesh
from tests.support.streaming import CONFIG, params


def test_planned_weights_equal_prepared_weights():
    """The weights of a plan have the shapes and shardings of those that are prepared for decoding."""
    mesh = make_mesh(parse_mesh("data=2,fsdp=2,tensor=2"))
    real = prepare_weights(params(), shard_over=(CONFIG, mesh))
    planned = abstract_weights(CONFIG, mesh, jnp.float32)
    assert jax.tree.structure(planned) == jax.tree.structure(real)
    for one, other in zip(jax.tree.leaves(planned), jax.tree.leaves(real)):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def test_a_model_uses_as_many_chips_as_its_heads_allow():
    assert default_mesh(preset("72b"), 16) == MeshConfig(2, 1, 1, 8)
    assert default_mesh(preset("2b"), 4) == MeshConfig(2, 1, 1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--topology is needed"),
        (["--topology", "v5e:2x2", "--mesh", "tensor=3"], "does not multiply to the 4 devices"),
        (["--topology", "v5e:2x2", "--mesh", "context=4"], "here it must be 1"),
        (["--topology", "v5e:2x2", "--batch", "3"], "batch of 3 turns does not divide over the 2"),
        (["--topology", "v5e:2x2", "--sessions", "0"], "sessions must be at least 1"),
        (["--topology", "v5e:2x2", "--pixel-budget", "reference"], "fixed --pixel-budget"),
        (["--topology", "v5e:2x2", "--what", "1"], "--what is not an option"),
    ],
)
def test_invalid_options_are_refused(options, message, capsys):
    assert main(["plan", "tiny", "--stream", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_an_engine_is_compiled_for_a_slice(tmp_path, capsys):
    out = tmp_path / "plan.json"
    argv = ["plan", "tiny", "--stream", "--topology", "v5e:2x2", "--pixel-budget", "16"]
    assert main([*argv, "--batch", "2", "--sessions", "3", "--json", str(out)]) == 0
    (plan,) = json.loads(out.read_text())
    assert plan["mesh"] == {"data": 2, "fsdp": 1, "context": 1, "tensor": 2}
    text = preset("tiny").text
    # Twice two sessions' rolling caches over four chips, keys and values of bfloat16.
    tokens = plan["memory"]["keys and values"] / (2 * 2 * text.layers * text.head_dim)
    assert tokens > 2 * plan["context"]
    head = 2.0 * 2 * text.width * text.vocab_size
    assert head < plan["token"]["flops"] < plan["prompt"]["flops"]
    assert min(plan[x]["memory_bytes"] for x in ("vision", "prompt", "token")) > 0
    assert plan["fits"]
    assert "an engine step of 6 tokens" in capsys.readouterr().out
