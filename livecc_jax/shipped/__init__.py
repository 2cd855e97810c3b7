"""The small data and the configs that are installed with the package.

In a checkout `data` and `configs` here are links to the folders of the repository; in a wheel they are
copies of them.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

EXAMPLE_CLIP = "clips/bbb_espeak_narration_30s.mp4"
EXAMPLE_ANNOTATIONS = "annotations/narration.jsonl"


def shipped_data(name: str = "") -> Path:
    """Returns the path of a shipped file or folder.

    Args:
        name: Path within `data/`, such as `tokenizer`; "" is `data/` itself.
    """
    return _folder("data") / name


def example_clip() -> Path:
    """Returns the path of a video that is installed with the package.

    It is 30 s of Big Buck Bunny (c) Blender Foundation, CC-BY 3.0, with a spoken narration, whose words
    and times are in `data/annotations/narration.jsonl`.

    Example:
        >>> livecc_jax.example_clip().name
        'bbb_espeak_narration_30s.mp4'
    """
    return shipped_data(EXAMPLE_CLIP)


def shipped_configs() -> dict[str, Path]:
    """Returns the configs that are installed with the package, by name: `demo`, `pretrain_7b`, ..."""
    return {path.stem: path for path in sorted(_folder("configs").glob("*.py"))}


def _folder(name: str) -> Path:
    """Returns a folder of this package, with its link in a checkout resolved."""
    return Path(str(resources.files(__name__) / name)).resolve()
