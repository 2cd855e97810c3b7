"""The training state: trainable and frozen parameters, optimizer state, and their shardings."""

from __future__ import annotations

from collections.abc import Callable
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
)
from livecc_jax.model.qwen2_vl import Params, abstract_params, logical_axes
from livecc_jax.parallel.rules import sharding_tree
from livecc_jax.train.config import ComputeConfig

NO_LORA = LoraConfig()
State = dict[str, Any]  # {"params": nested dict, "opt_state": optax state of the trainable parameters}


def split_trainable(params: Params, freeze: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a nested tree of parameters into (trainable, frozen), each flat: {path: leaf}.

    A parameter is frozen when `freeze` lists its path or a prefix of its path.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    frozen = {k: v for k, v in flat.items() if any(k == f or k.startswith(f + "/") for f in freeze)}
    return {k: v for k, v in flat.items() if k not in frozen}, frozen


def join_params(trainable: dict[str, Any], frozen: dict[str, Any]) -> Params:
    """Returns the nested tree of two flat dicts of parameters; the inverse of `split_trainable`."""
    return traverse_util.unflatten_dict(trainable | frozen, sep="/")


def check_trainable(config: ModelConfig, compute: ComputeConfig) -> None:
    """Checks which parameters are trainable.

    Raises ConfigError when `compute.freeze` names no parameter or leaves none trainable, or when
    `compute.lora` is invalid.
    """
    compute.lora.check()
    shapes = abstract_params(config)
    for prefix in compute.freeze:
        if not split_trainable(shapes, (prefix,))[1]:
            raise ConfigError(f"compute.freeze names {prefix!r}, which is no parameter path")
    if not split_trainable(abstract_training_params(config, compute.lora), compute.frozen)[0]:
        raise ConfigError("compute.freeze leaves no trainable parameter")


def abstract_training_params(config: ModelConfig, lora: LoraConfig) -> Params:
    """Returns the shapes of all parameters in training: those of the model and of its adapters."""
    return _with_adapters(abstract_params(config), abstract_adapters(config, lora))


def check_tensor_axis(config: ModelConfig, tensor: int) -> None:
    """Raises ConfigError when attention heads do not divide over `tensor` devices of mesh.tensor."""
    for field, size in (
        ("text.heads", config.text.heads),
        ("text.kv_heads", config.text.kv_heads),
        ("vision.heads", config.vision.heads),
    ):
        if size % tensor:
            raise ConfigError(f"{field} is {size}, which does not divide over mesh.tensor = {tensor}")


def param_shardings(config: ModelConfig, mesh: Mesh, lora: LoraConfig = NO_LORA) -> Params:
    """Returns the sharding of every parameter, including adapters.

    Raises ConfigError, naming the parameter, when one does not divide over the mesh.
    """
    check_tensor_axis(config, mesh.shape["tensor"])
    axes = _with_adapters(logical_axes(config), adapter_axes(lora))
    return sharding_tree(mesh, axes, abstract_training_params(config, lora))


def _with_adapters(params: Params, adapters: Params) -> Params:
    return params | {LORA: adapters} if adapters else params


def abstract_state(
    params: Params, optimizer: optax.GradientTransformation, freeze: tuple[str, ...], mesh: Mesh
) -> State:
    """Returns shapes, dtypes and shardings of the training state.

    Args:
        params: `jax.ShapeDtypeStruct`s with shardings, in the dtypes that the parameters will have.
        optimizer: The optimizer. Its moments have the shardings of the parameters they belong to.
        freeze: Path prefixes of parameters that are frozen and so have no optimizer state.
        mesh: The device mesh; scalars of the optimizer state are replicated over it.
    """
    trainable, _ = split_trainable(params, freeze)
    replicated = NamedSharding(mesh, PartitionSpec())

    def with_sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
        sharding = trainable[keys[-1]].sharding if keys else replicated
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    opt_state = jax.eval_shape(optimizer.init, trainable)
    opt_state = jax.tree_util.tree_map_with_path(with_sharding, opt_state)
    return {"params": params, "opt_state": opt_state}


def init_opt_state(
    optimizer: optax.GradientTransformation, state: State, freeze: tuple[str, ...]
) -> Callable[[Params], Any]:
    """Returns a function from parameters to a new optimizer state.

    Args:
        optimizer: The optimizer.
        state: The result of `abstract_state`, for the shardings of the optimizer state.
        freeze: Path prefixes of frozen parameters.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state["opt_state"])
    init = jax.jit(optimizer.init, out_shardings=shardings)
    return lambda params: init(split_trainable(params, freeze)[0])


def master_dtypes(params: Params, freeze: tuple[str, ...]) -> Params:
    """Returns the dtype in which training holds each parameter.

    Trainable parameters have float32 masters; frozen ones keep the dtype of the checkpoint.
    """
    trainable, frozen = split_trainable(params, freeze)
    return join_params({k: jnp.float32 for k in trainable}, {k: v.dtype for k, v in frozen.items()})
