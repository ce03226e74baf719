"""SIGTERM and SIGINT for the workers of the process: the first signal drains all of them, the second one stops them.

The handlers are set through Python's signal module, not on an event loop, so handlers set on a loop still run beside
them. The previous handlers are restored once the last worker in the main thread has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

Stop = Callable[[float | None, str], None]
"""Stops a worker within a number of seconds (None: its own drain time); the text names the signal received."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_workers: Final[list[Stop]] = []
_former: Final[dict[int, Any]] = {}
_in_main_thread: Final[list[Stop]] = []
_count = 0


@contextlib.contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Lets the signals stop a worker within the block.

    Python runs and sets signal handlers only in the main thread. A worker on another thread is therefore stopped only
    while another worker is running in the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    _workers.append(stop)
    if is_main:
        _in_main_thread.append(stop)
        _install()
    if _count:  # the process is already draining
        stop(None, "")
    try:
        yield
    finally:
        _workers.remove(stop)
        if is_main:
            _in_main_thread.remove(stop)
            if not _in_main_thread:
                _restore()


def _on_signal(number: int, _: FrameType | None) -> None:
    global _count  # noqa: PLW0603 - signals are the process's
    _count += 1
    for stop in tuple(_workers):
        stop(None if _count == 1 else 0.0, "Ctrl-C" if number == signal.SIGINT else "SIGTERM")


def _install() -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is not _on_signal:
            _former[number] = signal.signal(number, _on_signal)


def _restore() -> None:
    global _count  # noqa: PLW0603 - see above
    _count = 0
    for number, action in _former.items():
        # A handler that the program set in the meantime stays; a handler not set from Python (None) cannot be restored.
        if signal.getsignal(number) is _on_signal and action is not None:
            signal.signal(number, action)
    _former.clear()


def _leave_to_the_parent() -> None:
    """Restores the previous signal handlers in a forked child, which has none of the parent's workers."""
    _workers.clear()
    _in_main_thread.clear()
    _restore()


os.register_at_fork(after_in_child=_leave_to_the_parent)
