"""Ends child processes together with the process that started them."""

from __future__ import annotations

import os
import threading
import time

POLL_S = 0.5


def exit_with_parent(parent: int) -> None:
    """Ends this process soon after its parent has ended, however that happened.

    Args:
        parent: Process id of the parent. The parent may have ended before the call.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)
