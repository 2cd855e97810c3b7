"""Which parameters learn, and the state of training, made where it belongs on the mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.lora import (
    LORA,
    LoraConfig,
    abstract_adapters,
    adapter_axes,
    check_lora,
)
from livecc_jax.model.qwen2_vl import Params, abstract_params, logical_axes
from livecc_jax.parallel.rules import sharding_tree
from livecc_jax.train.config import ComputeConfig

NO_LORA = LoraConfig()
State = dict[str, Any]  # {"params": nested dict, "opt_state": optax state of the learning ones}


def split(params: Params, freeze: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(learning, frozen), each {path: leaf}; a path is frozen when a prefix of it is listed."""
    flat = traverse_util.flatten_dict(params, sep="/")
    frozen = {k: v for k, v in flat.items() if any(k == f or k.startswith(f + "/") for f in freeze)}
    return {k: v for k, v in flat.items() if k not in frozen}, frozen


def join(learning: dict[str, Any], frozen: dict[str, Any]) -> Params:
    """The nested tree again."""
    return traverse_util.unflatten_dict(learning | frozen, sep="/")


def check_learning(config: ModelConfig, compute: ComputeConfig) -> None:
    """Raise ConfigError when compute.freeze names nothing or leaves nothing, or lora cannot be."""
    check_lora(compute.lora)
    shapes = abstract_params(config)
    for prefix in compute.freeze:
        if not split(shapes, (prefix,))[1]:
            raise ConfigError(f"compute.freeze names {prefix!r}, which is no parameter path")
    if not split(abstract_state_params(config, compute.lora), compute.frozen)[0]:
        raise ConfigError("compute.freeze leaves no parameter to learn")


def abstract_state_params(config: ModelConfig, lora: LoraConfig) -> Params:
    """The tree that training holds: the model's parameters, and its adapters if there are any."""
    return _with_adapters(abstract_params(config), abstract_adapters(config, lora))


def check_heads(config: ModelConfig, tensor: int) -> None:
    """Raise ConfigError when heads do not divide over so many devices along mesh.tensor."""
    for field, size in (
        ("text.heads", config.text.heads),
        ("text.kv_heads", config.text.kv_heads),
        ("vision.heads", config.vision.heads),
    ):
        if size % tensor:
            raise ConfigError(f"{field} is {size}, which does not divide over mesh.tensor = {tensor}")


def param_shardings(config: ModelConfig, mesh: Mesh, lora: LoraConfig = NO_LORA) -> Params:
    """Sharding of every parameter, adapters included.

    Raises ConfigError, naming it, for what does not divide over the mesh.
    """
    check_heads(config, mesh.shape["tensor"])
    axes = _with_adapters(logical_axes(config), adapter_axes(lora))
    return sharding_tree(mesh, axes, abstract_state_params(config, lora))


def _with_adapters(params: Params, adapters: Params) -> Params:
    return params | {LORA: adapters} if adapters else params


def abstract_state(
    params: Params, optimizer: optax.GradientTransformation, freeze: tuple[str, ...], mesh: Mesh
) -> State:
    """Shapes, dtypes and shardings of the whole state.

    Args:
        params: `jax.ShapeDtypeStruct`s with shardings, in the dtypes they will have.
        optimizer: its slots are sharded as the parameters they belong to.
        freeze: prefixes of parameters that do not learn and so have no slots.
        mesh: for the scalars, which are replicated.
    """
    learning, _ = split(params, freeze)
    replicated = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        sharding = learning[keys[-1]].sharding if keys else replicated
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    opt_state = jax.tree_util.tree_map_with_path(place, jax.eval_shape(optimizer.init, learning))
    return {"params": params, "opt_state": opt_state}


def init_opt_state(
    optimizer: optax.GradientTransformation, state: State, freeze: tuple[str, ...]
) -> Any:
    """Fresh optimiser state for real parameters, given `abstract_state` for its shardings."""
    shardings = jax.tree.map(lambda x: x.sharding, state["opt_state"])
    return lambda params: jax.jit(optimizer.init, out_shardings=shardings)(split(params, freeze)[0])


def master_dtypes(params: Params, freeze: tuple[str, ...]) -> Params:
    """float32 for what learns; what is frozen keeps the dtype it is stored in, bit for bit."""
    learning, frozen = split(params, freeze)
    return join({k: jnp.float32 for k in learning}, {k: v.dtype for k, v in frozen.items()})
