"""The readers that are fuzzed, by name."""

from importlib import import_module

from tests.fuzz.reader import Reader

_FILES = (
    "json_texts", "annotations", "index_files", "quarantine_lists", "settings", "model_configs",
    "safetensors_files", "orbax_steps", "tokenizer_files", "result_files", "image_files", "containers",
    "caption_files", "source_lists",
)  # fmt: skip


def _all() -> dict[str, Reader]:
    modules = [import_module(f"tests.fuzz.readers.{name}") for name in _FILES]
    readers = [getattr(m, n) for m in modules for n in ("READER", "OFFSETS") if hasattr(m, n)]
    return {reader.name: reader for reader in readers}


READERS = _all()
