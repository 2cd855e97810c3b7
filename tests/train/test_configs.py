"""Every shipped config loads, has the values of its recipe, and can be sharded over its slices."""

from pathlib import Path

import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.model.presets import preset
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.training import resolve_training_mesh
from livecc_jax.train.config import flatten, load_config
from livecc_jax.train.overrides import override

CONFIGS = Path(__file__).parents[2] / "configs"
# Published: 512 examples a step. Average number of examples of a packed row: benchmarks/packing.py.
EXAMPLES_A_ROW = {"pretrain": 1.27, "sft": 2.48}


@pytest.mark.parametrize("size", ["2b", "7b"])
@pytest.mark.parametrize(("stage", "rate"), [("pretrain", 2e-5), ("sft", 1e-5)])
def test_recipes(stage, rate, size):
    config = load_config(CONFIGS / f"{stage}_{size}.py")
    flat = flatten(config)
    assert flat["optim.learning_rate"] == rate
    assert (flat["optim.warmup_ratio"], flat["data.epochs"], flat["data.tokens"]) == (0.03, 1, 32768)
    assert (flat["data.weighting"], flat["compute.freeze"]) == ("example", ["vision"])
    examples = flat["data.rows_per_step"] * EXAMPLES_A_ROW[stage]
    assert examples == pytest.approx(512, rel=0.08)
    for topology in ("v5p:4x4x4", "v6e:8x8"):
        shards = resolve_training_mesh(config, preset(size), Topology.parse(topology)).fsdp
        assert flat["data.rows_per_step"] % shards == 0


def test_every_config_file_is_listed():
    names = {path.stem for path in CONFIGS.glob("*.py")}
    assert names == {"demo", "pretrain_2b", "pretrain_7b", "sft_2b", "sft_7b"}
    assert load_config(CONFIGS / "demo.py").mesh == MeshConfig(devices=1)


def test_overrides_of_booleans_and_tuples():
    config = load_config(CONFIGS / "pretrain_2b.py")
    assert override(config, [("compute.unroll", "true")]).compute.unroll is True
    assert override(config, [("compute.unroll", "False")]).compute.unroll is False
    changed = override(config, [("compute.lora.rank", "8"), ("compute.lora.targets", "q,v")]).compute
    assert (changed.lora.rank, changed.lora.targets) == (8, ("q", "v"))
    assert changed.frozen == ("vision", "text")
    with pytest.raises(ConfigError, match=r"'compute\.unroll' takes bool, not 'maybe'"):
        override(config, [("compute.unroll", "maybe")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("run", "")], "the config sets no run"),
        ([("data.index", "")], r"the config sets no data\.index"),
        ([("init", "")], "must set one of init .* and preset"),
        ([("init", ""), ("preset", "2b")], "the config sets no tokenizer"),
        ([("positions", "none")], "positions 'none' is not one of"),
        ([("data.weighting", "none")], r"data\.weighting 'none' is not one of"),
        ([("compute.remat", "none,")], r"compute\.remat 'none,' is not one of"),
        ([("compute.dtype", "float16")], r"compute\.dtype 'float16' is not one of"),
        ([("guard.nan", "none")], r"guard\.nan 'none' is not one of ignore, skip, stop"),
        ([("compute.lora.rank", "-1")], r"compute\.lora\.rank must not be negative"),
        ([("optim.accumulate", "0")], r"optim\.accumulate must be at least 1, not 0"),
        ([("log_every", "0")], "log_every must be at least 1, not 0"),
        ([("checkpoint.keep", "0")], r"checkpoint\.keep must be at least 1"),
        ([("evaluate.rows", "0")], r"evaluate\.rows must be at least 1"),
        ([("watch.late", "nan")], r"watch\.late must not be negative, not nan"),
        ([("seed", "-1")], "seed must not be negative, not -1"),
        ([("optim.accumulate", "5")], r"data\.rows_per_step is 384, .* optim\.accumulate = 5"),
    ],
)
def test_invalid_values_are_named_by_field(changes, message):
    """Fields are checked once all overrides are applied: two of them may be valid only together."""
    valid = [("run", "run"), ("data.index", "index"), ("init", "model")]
    config = override(load_config(CONFIGS / "pretrain_2b.py"), valid)
    config.check()
    with pytest.raises(ConfigError, match=message):
        override(config, changes).check()
    together = [("optim.accumulate", "5"), ("data.rows_per_step", "10")]
    override(config, together).check()
