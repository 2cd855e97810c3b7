"""Orbax's handlers of the items of a step, which also write the checksums of the item's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from livecc_jax.checkpoints.checksums import write_checksums, write_part


class _Written:
    """A future of Orbax: done when this process's files are written and have checksums.

    Args:
        futures: Orbax's own futures of the files.
        directory: The item's folder, which may not exist yet when this is made.
    """

    def __init__(self, futures: list[Any], directory: Any) -> None:
        self._futures, self._directory = futures, directory

    def result(self, timeout: float | None = None) -> None:
        """Wait for the files, then write their checksums."""
        for future in self._futures:
            future.result(timeout=timeout)
        # A folder that Orbax makes later is an object with a path.
        folder = Path(getattr(self._directory, "path", self._directory))
        write_part(folder, f"ocdbt.process_{jax.process_index()}")

    def cancel(self) -> None:
        """Orbax asks for this when a save ends early."""
        for future in self._futures:
            future.cancel()


class TreeHandler(ocp.StandardCheckpointHandler):
    """Saves a tree of arrays; every process computes the checksums of what it has written itself."""

    async def async_save(self, directory: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Start to save, as the base class does, and return what waits for files and checksums."""
        futures = await super().async_save(directory, *args, **kwargs) or []
        return [_Written(futures, directory)]

    def finalize(self, directory: Any) -> None:
        """Merge the processes' files, and write the checksums of all files."""
        super().finalize(directory)
        write_checksums(Path(directory))


class JsonHandler(ocp.JsonCheckpointHandler):
    """Saves JSON values, with a checksum."""

    def finalize(self, directory: Any) -> None:
        """Write the checksum."""
        super().finalize(directory)
        write_checksums(Path(directory))


# Orbax looks handlers up by the type of what is saved.
@ocp.args.register_with_handler(TreeHandler, for_save=True, for_restore=True)
class TreeSave(ocp.args.StandardSave):
    """A tree of arrays to be saved."""


@ocp.args.register_with_handler(JsonHandler, for_save=True, for_restore=True)
class JsonSave(ocp.args.JsonSave):
    """JSON values to be saved."""


def item_handlers(asynchronous: bool) -> dict[str, Any]:
    """Returns the handlers of a step's items.

    Args:
        asynchronous: Copy all arrays first and write them later, instead of a gigabyte at a time.
    """
    bound = {} if asynchronous else {"save_concurrent_gb": 1}
    return {"params": TreeHandler(**bound), "opt_state": TreeHandler(**bound), "meta": JsonHandler()}
