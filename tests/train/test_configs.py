"""Every shipped config loads, says what the recipe says, and can be split over the slices it is for."""

from pathlib import Path

import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.model.presets import preset
from livecc_jax.parallel.mesh import MeshConfig
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.training import resolve_training_mesh
from livecc_jax.train.config import flatten, load_config, override

CONFIGS = Path(__file__).parents[2] / "configs"
# Published: 512 examples a step. Examples a packed row holds on average: benchmarks/packing.py --rows.
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


def test_every_config_file_is_known():
    names = {path.stem for path in CONFIGS.glob("*.py")}
    assert names == {"demo", "pretrain_2b", "pretrain_7b", "sft_2b", "sft_7b"}
    assert load_config(CONFIGS / "demo.py").mesh == MeshConfig(devices=1)


def test_true_and_false_can_be_said():
    config = load_config(CONFIGS / "pretrain_2b.py")
    assert override(config, [("compute.unroll", "true")]).compute.unroll is True
    assert override(config, [("compute.unroll", "False")]).compute.unroll is False
    changed = override(config, [("compute.lora.rank", "8"), ("compute.lora.targets", "q,v")]).compute
    assert (changed.lora.rank, changed.lora.targets) == (8, ("q", "v"))
    assert changed.frozen == ("vision", "text")
    with pytest.raises(ConfigError, match=r"'compute\.unroll' takes bool, not 'maybe'"):
        override(config, [("compute.unroll", "maybe")])
