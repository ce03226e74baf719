"""The thread that carries the streams of sync producers and of workers: one event loop, on which no user code runs.

It starts at the first use and lives as long as the process; a forked child gets its own.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import Final

_STOP_SECONDS: Final = 2.0

_guard = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The running event loop of the shared thread."""
    global _loop  # noqa: PLW0603 - one thread for each process is the purpose of this module
    with _guard:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_loop.run_forever, name="codeq-transport", daemon=True)
            thread.start()
            # A loop that still runs while the interpreter is taken down can crash in the libraries below it.
            atexit.register(_stop, _loop, thread)
        return _loop


def _stop(running: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if not thread.is_alive():
        return
    running.call_soon_threadsafe(running.stop)
    thread.join(_STOP_SECONDS)


def _forget() -> None:
    """Drop the parent's loop: its thread does not exist in a forked child."""
    global _loop, _guard  # noqa: PLW0603 - see above
    _loop = None
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_forget)
