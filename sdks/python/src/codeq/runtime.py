"""The thread that runs the streams of sync producers and of workers: one event loop, free of user code.

It starts on first use and lives as long as the process; a forked child gets its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Final

_guard = threading.RLock()  # reentrant: a signal may interrupt its holder
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None

_of_parents: Final[list[object]] = []
"""Loops inherited through a fork. They are kept, because closing one would change the parent's epoll set in the
kernel."""


def loop() -> asyncio.AbstractEventLoop:
    """Returns the event loop of the shared thread; starts both on first use."""
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
    """Returns whether this thread may wait for the shared one: not on that thread, or during interpreter shutdown."""
    return not sys.is_finalizing() and threading.current_thread() is not _thread


def _forget() -> None:
    """Drops the parent's loop in a forked child, where its thread does not exist."""
    global _loop, _thread, _guard  # noqa: PLW0603 - see above
    if _loop is not None:
        _of_parents.append(_loop)
    _loop = _thread = None
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_forget)
