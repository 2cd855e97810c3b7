"""A checkpoint in transformers: its weights as transformers loads them, and its layers' values.

Only this file needs torch and transformers, which are imported when it is used.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from livecc_jax.checkpoints.hf_config import CONFIG
from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.json_fields import read_json
from livecc_jax.checkpoints.open import Checkpoint
from livecc_jax.checkpoints.weight_names import HEAD, canonical_name, embed_name, tensor_shapes
from livecc_jax.checkpoints.weight_source import CheckpointWeights
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.verify.layers import layer_names

NESTED_FROM = (4, 52)  # the first version of transformers that reads a nested config.json


def import_optional(name: str) -> ModuleType:
    """Import a package. Raises ConfigError, naming it, when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(
            f"--against transformers needs the package {e.name or name}, which cannot be imported: "
            "pip install 'livecc_jax[hf]'"
        ) from e


@contextlib.contextmanager
def hf_directory(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yields the checkpoint in HuggingFace layout: its own directory, or a temporary exact copy."""
    if checkpoint.kind == "hf":
        yield checkpoint.path
        return
    with tempfile.TemporaryDirectory(prefix="livecc-verify-") as folder:
        directory = Path(folder) / "model"
        export_hf(directory, checkpoint.config, checkpoint.livecc, CheckpointWeights(checkpoint))
        yield directory


class TransformersModel:
    """The transformers model of a HuggingFace directory; also a weight source.

    Args:
        directory: Directory in HuggingFace layout.
        config: Its architecture.
        dtype: Dtype to compute in, "float32" (in full precision, also on a GPU) or "bfloat16".
        device: Name of the torch device.
        attention: Name of transformers' attention implementation.

    Raises:
        ConfigError: torch or transformers is not installed.
        CheckpointError: transformers cannot load the directory, or reports missing or unknown tensors.
    """

    def __init__(
        self,
        directory: Path,
        config: ModelConfig,
        dtype: str,
        device: str = "cpu",
        attention: str = "eager",
    ) -> None:
        self._torch, transformers = import_optional("torch"), import_optional("transformers")
        self.version: str = transformers.__version__
        self._config = config
        self._device = device
        if dtype == "float32":
            self._torch.backends.cudnn.allow_tf32 = False
            self._torch.backends.cuda.matmul.allow_tf32 = False
        version = tuple(map(int, self.version.split(".")[:2]))
        if version < NESTED_FROM and "text_config" in read_json(directory / CONFIG):
            raise CheckpointError(
                f"{directory / CONFIG}: has the nested layout, which transformers {self.version} "
                f"cannot read; `livecc convert --to hf` writes the flat one"
            )
        transformers.utils.logging.disable_progress_bar()
        # The argument was renamed in version 5.
        keyword = "dtype" if version >= (5, 0) else "torch_dtype"
        try:
            self._model, report = getattr(transformers, config.family.architecture).from_pretrained(
                directory,
                output_loading_info=True,
                attn_implementation=attention,
                local_files_only=True,
                **({} if device == "cpu" else {"device_map": device}),
                **{keyword: getattr(self._torch, dtype)},
            )
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as e:
            reason = " ".join(str(e).split())[:300] or type(e).__name__
            raise CheckpointError(
                f"{directory}: transformers {self.version} cannot load it ({reason})"
            ) from e
        problems = [f"{kind} {sorted(map(str, names))[:3]}" for kind, names in report.items() if names]
        if problems:
            raise CheckpointError(
                f"{directory}: transformers {self.version} reports {'; '.join(problems)}"
            )
        self._model.eval()
        self._tensors = {
            canonical_name(k, config.family): v for k, v in self._model.state_dict().items()
        }
        self.shapes = tensor_shapes(config)

    def read(self, name: str) -> np.ndarray:
        """Returns a weight as transformers loaded it."""
        if name == HEAD and name not in self._tensors:
            name = embed_name(self._tensors)
        tensor = self._tensors[name]
        return _numpy(tensor).astype(str(tensor.dtype).removeprefix("torch."), copy=False)

    def positions(self, tokens: np.ndarray, grids: np.ndarray) -> np.ndarray:
        """Returns the positions that transformers itself gives one conversation.

        Args:
            tokens: int32 [T], token ids.
            grids: int32 [n, 3], frame pairs, patch rows and patch columns of each video.

        Returns:
            int32 [3, T], temporal, height and width positions.
        """
        torch = self._torch
        # A method of the inner model from 4.52 on.
        owner = self._model if hasattr(self._model, "get_rope_index") else self._model.model
        ids = torch.from_numpy(tokens).long()[None]
        arguments = {"input_ids": ids, "video_grid_thw": torch.from_numpy(grids).long()}
        if "mm_token_type_ids" in inspect.signature(owner.get_rope_index).parameters:  # from 5.0 on
            video = 2 * (ids == self._config.ids.video_pad).int()
            arguments["mm_token_type_ids"] = video
        positions, _ = owner.get_rope_index(**arguments)
        return positions[:, 0].numpy().astype(np.int32)

    def logits(
        self, tokens: np.ndarray, positions: np.ndarray, pixels: np.ndarray, grids: np.ndarray
    ) -> np.ndarray:
        """Run one conversation.

        Args:
            tokens: int32 [T], token ids.
            positions: int32 [3, T], used instead of transformers' own positions.
            pixels: float32 [P, V], normalised patches of the videos, V values each.
            grids: int32 [n, 3], frame pairs, patch rows and patch columns of each video.

        Returns:
            float32 [T, V] logits.
        """
        torch = self._torch
        with torch.no_grad():
            out = self._model(
                input_ids=torch.from_numpy(tokens).long()[None].to(self._device),
                # Without it, 4.57 takes equal temporal positions of Qwen3-VL for packed sequences.
                attention_mask=torch.ones(1, len(tokens), dtype=torch.long, device=self._device),
                position_ids=torch.from_numpy(positions).long()[:, None].to(self._device),
                pixel_values_videos=torch.from_numpy(pixels).to(self._device),
                video_grid_thw=torch.from_numpy(grids).long().to(self._device),
                use_cache=False,
            )
        return _numpy(out.logits[0])

    def trace(
        self, tokens: np.ndarray, positions: np.ndarray, pixels: np.ndarray, grids: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Run one conversation; the arguments are those of `logits`.

        Yields:
            The names and values that `livecc_jax.verify.layers.trace_layers` yields.
        """
        names = layer_names(self._config)
        values: dict[str, np.ndarray] = {}
        hooks = self._register_hooks(values)
        try:
            values[names[-1]] = self.logits(tokens, positions, pixels, grids)
        finally:
            for hook in hooks:
                hook.remove()
        for name in names:
            yield name, values.pop(name)

    def _register_hooks(self, values: dict[str, np.ndarray]) -> list[Any]:
        """Register hooks that store each layer's output, without a batch axis, in `values`."""
        visual = getattr(self._model, "visual", None)
        if visual is None:  # from 4.52 on
            visual = self._model.model.visual
        text = getattr(self._model.model, "language_model", self._model.model)

        def store_output(name: str, batched: bool) -> Any:
            def hook(_module: Any, _args: Any, out: Any) -> None:
                out = out[0] if isinstance(out, tuple) else out
                values[name] = _numpy(out[0] if batched else out)

            return hook

        def store_embeddings(_module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            values["text/embed"] = _numpy((args[0] if args else kwargs["hidden_states"])[0])

        hooks = [
            text.layers[0].register_forward_pre_hook(store_embeddings, with_kwargs=True),
            text.norm.register_forward_hook(store_output("text/norm", True)),
        ]
        if "vision/merger" in layer_names(self._config):
            modules = {"patch_embed": visual.patch_embed, "merger": visual.merger}
            modules |= {f"blocks/{i}": block for i, block in enumerate(visual.blocks)}
            for name, module in modules.items():
                hooks.append(module.register_forward_hook(store_output(f"vision/{name}", False)))
        for i, layer in enumerate(text.layers):
            hooks.append(layer.register_forward_hook(store_output(f"text/layers/{i}", True)))
        return hooks


def _numpy(tensor: Any) -> np.ndarray:
    # A copy: torch may reuse the memory of a hidden state once it has been passed on.
    return tensor.detach().float().cpu().numpy().copy()
