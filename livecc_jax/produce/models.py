"""What the stages of one worker share and load once."""

from __future__ import annotations

from functools import cached_property
from typing import Any


class Models:
    """Models by what they do, each loaded when it is first used."""

    @cached_property
    def language(self) -> Any:
        """Language identifier; its `rank(text)` gives (code, probability), the most probable first."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
