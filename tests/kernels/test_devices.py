"""Facts about the device in scope, which need not be there."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from livecc_jax.kernels import interpreted
from livecc_jax.kernels.devices import (
    converts_e4m3,
    gpu_capability,
    has_wgmma,
    hopper_or_newer,
    multiprocessors,
    single_gpu,
)
from tests.support.kernels import ON_GPU


def facts():
    return [single_gpu(), converts_e4m3(), hopper_or_newer(), has_wgmma()]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", [True, False, False, False]),
        ("NVIDIA L40", [True, True, False, False]),
        ("NVIDIA H100 80GB HBM3", [True, True, True, True]),
        ("NVIDIA H200", [True, True, True, True]),
        ("NVIDIA B200", [True, True, True, False]),
    ],
)
def test_a_gpus_facts_follow_from_its_kind(kind, expected):
    device = AbstractDevice(kind, None, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        assert facts() == expected
    with jax.sharding.use_abstract_mesh(AbstractMesh((2,), ("x",), abstract_device=device)):
        assert facts() == [False, *expected[1:]]


@pytest.mark.parametrize(
    ("kind", "capability"),
    [
        ("NVIDIA A100-SXM4-80GB", 8.0),
        ("NVIDIA A100-PCIE-40GB", 8.0),
        ("NVIDIA A100 80GB PCIe", 8.0),
        ("NVIDIA L4", 8.9),
        ("NVIDIA L40S", 8.9),
        ("NVIDIA H100 PCIe", 9.0),
        ("NVIDIA H200 NVL", 9.0),
        ("NVIDIA GH200 480GB", 9.0),
        ("NVIDIA B200", 10.0),
    ],
)
def test_a_gpus_capability_follows_from_its_kind(kind, capability):
    """Also where words of the kind are joined by hyphens, on a machine without such a GPU."""
    device = AbstractDevice(kind, None, "gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        assert gpu_capability() == capability


def test_interpret_mode_stands_for_a_gpu_that_can_do_everything():
    assert single_gpu() == ON_GPU
    with interpreted():
        assert facts() == [True] * 4
        assert multiprocessors() < 4
