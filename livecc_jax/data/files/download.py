"""Downloads one file from a bucket, and gives up when the store stops sending."""

from __future__ import annotations

import contextlib
import queue
import threading

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.remote import open_store

CHUNK_BYTES = 1 << 20


def download(
    address: str,
    target: str,
    size: int,
    stall_timeout_s: float,
    media_root: MediaRoot | None = None,
) -> None:
    """Copies a remote file into an existing local one.

    The store is read in another thread, so that an attempt can be given up when the store stops
    sending; it would otherwise block training.

    Args:
        address: Address of the remote file.
        target: Path of the local file.
        size: Size that the file should have, in bytes.
        stall_timeout_s: Seconds without a byte after which the attempt is given up.
        media_root: Confines the hosts that are connected to; see `open_store`.

    Raises:
        TimeoutError: The store sent nothing for that long.
        ConnectionError: The store sent another number of bytes.
        Exception: Any error of the store or of the local disk.
    """
    store, name = open_store(address, media_root)
    chunks: queue.Queue[bytes | Exception | None] = queue.Queue(4)
    cancelled = threading.Event()

    def put(item: bytes | Exception | None) -> None:
        while not cancelled.is_set():
            with contextlib.suppress(queue.Full):
                return chunks.put(item, timeout=1.0)

    def read() -> None:
        try:
            with store.open(name, "rb") as source:
                while not cancelled.is_set() and (chunk := source.read(CHUNK_BYTES)):
                    put(chunk)
            put(None)
        except Exception as error:  # raised again below
            put(error)

    threading.Thread(target=read, name="fetch", daemon=True).start()
    received = 0
    try:
        with open(target, "r+b") as file:
            while True:
                try:
                    chunk = chunks.get(timeout=stall_timeout_s)
                except queue.Empty:
                    raise TimeoutError(f"received nothing for {stall_timeout_s:g} s") from None
                if isinstance(chunk, Exception):
                    raise chunk
                if chunk is None:
                    break
                file.write(chunk)
                received += len(chunk)
    finally:
        cancelled.set()
    if received != size:
        raise ConnectionError(f"received {received} of {size} bytes")
