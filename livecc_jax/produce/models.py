"""What the stages of one worker share and load once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any


class Models:
    """Models by what they do, each loaded when it is first used.

    Args:
        folder: Folder of the run in which stages keep what costs money or time to get again; None where
            there is no run.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._loaded: dict[str, Any] = {}

    def get(self, name: str, load: Callable[[], Any]) -> Any:
        """Returns what was loaded under a name, and loads it if that is the first time."""
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]

    @cached_property
    def language(self) -> Any:
        """Language identifier; its `rank(text)` gives (code, probability), the most probable first."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
