"""Checks which features a dataset names before tensorflow-datasets loads them.

tensorflow-datasets imports the module of every feature that a dataset's features.json names, whatever
it is, and so runs its code. Only the features of which this project's own datasets consist are allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import parse_json, read_bounded
from livecc_jax.errors import DataError

FILE = "features.json"
MAX_BYTES = 16 << 20
_PACKAGE = "tensorflow_datasets.core.features"
FEATURES = {
    f"{_PACKAGE}.features_dict.FeaturesDict",
    f"{_PACKAGE}.image_feature.Image",
    f"{_PACKAGE}.scalar.Scalar",
    f"{_PACKAGE}.sequence_feature.Sequence",
    f"{_PACKAGE}.tensor_feature.Tensor",
    f"{_PACKAGE}.text_feature.Text",
}
# The keys under which a class may stand: the field of the protocol buffer in both of its spellings, and
# that of the earlier layout.
CLASS_KEYS = {"pythonClassName", "python_class_name", "type"}


def check_features(folder: str) -> None:
    """Checks that a dataset consists of features that this project's datasets consist of.

    Args:
        folder: Folder of the dataset.

    Raises:
        DataError: It names another feature, or its features cannot be read.
    """
    path = Path(folder, FILE)
    try:
        features = parse_json(
            read_bounded(path, MAX_BYTES), max_bytes=MAX_BYTES, encoding="utf-8", unique_keys=True
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a dataset ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as a dataset ({error})") from error
    for name in _class_names(features):
        if not isinstance(name, str) or name not in FEATURES:
            raise DataError(
                f"{path}: cannot be read as a dataset (it names the feature {name!a:.120}, and only "
                "those that `livecc dataset` writes are loaded)"
            )


def _class_names(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _class_names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            # A feature of the dataset may itself have such a name; then its value is an object. In the
            # earlier layout the text of a protocol buffer may stand under `content`.
            if key in (*CLASS_KEYS, "content") and not isinstance(item, dict):
                yield item
            yield from _class_names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            # A feature of the dataset may itself be called `type`; then its value is an object.
            # The earlier layout may hold a protocol buffer as text, with more classes in it.
            if (key in CLASS_KEYS and not isinstance(item, dict)) or (
                key == "content" and item is not None
            ):
                yield from [item] if not isinstance(item, dict) else []
            yield from _class_names(item)
