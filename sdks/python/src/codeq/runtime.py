"""The thread that carries the streams of sync producers and of workers: one event loop, on which no user code runs.

It starts at the first use and lives as long as the process; a forked child gets its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Final

_guard = threading.RLock()  # a signal may interrupt its holder
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None

_of_parents: Final[list[object]] = []
"""Loops that came over a fork. They are kept: taking one down would change what the parent waits for in the kernel."""


def loop() -> asyncio.AbstractEventLoop:
    """The running event loop of the shared thread."""
    global _loop, _thread
    with _guard:
        if _loop is None:
            started = asyncio.new_event_loop()
            thread = threading.Thread(target=started.run_forever, name="codeq-transport", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                started.close()
                raise
            _loop, _thread = started, thread
        return _loop


def may_wait() -> bool:
    """Whether this thread may wait for the shared one: not itself, and not when the interpreter has stopped threads."""
    return not sys.is_finalizing() and threading.current_thread() is not _thread


def _forget() -> None:
    """Drop the parent's loop: its thread does not exist in a forked child."""
    global _loop, _thread, _guard  # noqa: PLW0603 - see above
    if _loop is not None:
        _of_parents.append(_loop)
    _loop = _thread = None
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_forget)
