"""The same checkpoint in transformers: its weights as it loaded them, its values layer by layer.

torch and transformers are needed for nothing else, and are imported when this is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from livecc_jax.checkpoints.hf_config import CONFIG
from livecc_jax.checkpoints.json_fields import read_json
from livecc_jax.checkpoints.weight_names import EMBED, HEAD, canonical_name
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.families.qwen2_vl import ARCHITECTURE
from livecc_jax.model.config import ModelConfig
from livecc_jax.verify.layers import layer_names
from livecc_jax.verify.verify import tensor_shapes

NESTED_FROM = (4, 52)  # the first transformers that reads a nested config.json


def import_optional(name: str) -> ModuleType:
    """Import a package. Raises ConfigError, naming it, when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(
            f"--against transformers needs the package {e.name or name}, which cannot be imported: "
            "pip install 'livecc_jax[hf]'"
        ) from e


class TransformersModel:
    """transformers' model of a HuggingFace directory.

    Args:
        directory: in HuggingFace layout.
        config: its architecture.
        dtype: to compute in, "float32" (all of its bits, also on a GPU) or "bfloat16".
        device: torch's name of it.
        attention: transformers' name of the implementation.

    Raises:
        ConfigError: torch or transformers is not installed.
        CheckpointError: transformers cannot load the directory, or finds tensors missing or unknown.
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
            self._model, report = getattr(transformers, ARCHITECTURE).from_pretrained(
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
        complaints = [f"{kind} {sorted(map(str, what))[:3]}" for kind, what in report.items() if what]
        if complaints:
            raise CheckpointError(
                f"{directory}: transformers {self.version} reports {'; '.join(complaints)}"
            )
        self._model.eval()
        self._tensors = {canonical_name(k): v for k, v in self._model.state_dict().items()}
        self.shapes = tensor_shapes(config)

    def read(self, name: str) -> np.ndarray:
        """A weight as loaded."""
        tensor = self._tensors[EMBED if name == HEAD and name not in self._tensors else name]
        return _numpy(tensor).astype(str(tensor.dtype).removeprefix("torch."), copy=False)

    def logits(
        self, tokens: np.ndarray, positions: np.ndarray, pixels: np.ndarray, grids: np.ndarray
    ) -> np.ndarray:
        """Run one conversation.

        Args:
            tokens: int32 [T].
            positions: int32 [3, T], given to the model in place of its own rule.
            pixels: float32 [P, 1176] normalised patches of its videos.
            grids: int32 [n, 3] of the videos, in patches.

        Returns:
            float32 [T, V].
        """
        torch = self._torch
        with torch.no_grad():
            out = self._model(
                input_ids=torch.from_numpy(tokens).long()[None].to(self._device),
                position_ids=torch.from_numpy(positions).long()[:, None].to(self._device),
                pixel_values_videos=torch.from_numpy(pixels).to(self._device),
                video_grid_thw=torch.from_numpy(grids).long().to(self._device),
                use_cache=False,
            )
        return _numpy(out.logits[0])

    def trace(
        self, tokens: np.ndarray, positions: np.ndarray, pixels: np.ndarray, grids: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Run one conversation, given as to `logits`.

        Yields:
            What `livecc_jax.verify.layers.trace_layers` does.
        """
        names = layer_names(self._config)
        seen: dict[str, np.ndarray] = {}
        hooks = self._hooks(seen)
        try:
            seen[names[-1]] = self.logits(tokens, positions, pixels, grids)
        finally:
            for hook in hooks:
                hook.remove()
        for name in names:
            yield name, seen.pop(name)

    def _hooks(self, seen: dict[str, np.ndarray]) -> list[Any]:
        """Hooks that put each layer's output, without a batch axis, into `seen`."""
        visual = getattr(self._model, "visual", None)
        if visual is None:  # from 4.52 on
            visual = self._model.model.visual
        text = getattr(self._model.model, "language_model", self._model.model)

        def output(name: str, batched: bool) -> Any:
            def hook(_module: Any, _given: Any, out: Any) -> None:
                out = out[0] if isinstance(out, tuple) else out
                seen[name] = _numpy(out[0] if batched else out)

            return hook

        def entering(_module: Any, given: tuple, named: dict[str, Any]) -> None:
            seen["text/embed"] = _numpy((given[0] if given else named["hidden_states"])[0])

        hooks = [
            visual.patch_embed.register_forward_hook(output("vision/patch_embed", False)),
            visual.merger.register_forward_hook(output("vision/merger", False)),
            text.layers[0].register_forward_pre_hook(entering, with_kwargs=True),
            text.norm.register_forward_hook(output("text/norm", True)),
        ]
        for i, block in enumerate(visual.blocks):
            hooks.append(block.register_forward_hook(output(f"vision/blocks/{i}", False)))
        for i, layer in enumerate(text.layers):
            hooks.append(layer.register_forward_hook(output(f"text/layers/{i}", True)))
        return hooks


def _numpy(tensor: Any) -> np.ndarray:
    # A copy: torch may reuse the memory of a hidden state once it has been passed on.
    return tensor.detach().float().cpu().numpy().copy()
