"""SIGTERM and SIGINT for the workers of the process: the first one has all of them drain, the second one stop.

The handlers are those of Python's signal module and not of an event loop: a loop's handlers, which asyncio calls beside
them, stay as they are, and those that were there before come back when the last worker has ended.
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
"""Stops a worker within seconds (None: its own time to drain); the text names the signal that came."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_workers: Final[list[Stop]] = []
_former: Final[dict[int, Any]] = {}
_in_main_thread: Final[list[Stop]] = []
_count = 0


@contextlib.contextmanager
def stopping(stop: Stop) -> Iterator[None]:
    """Have the signals stop a worker for the length of a block.

    Python runs handlers of signals in the main thread only, and lets only that one set them: a worker of another thread
    is stopped as long as one of the main thread runs beside it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    _workers.append(stop)
    if is_main:
        _in_main_thread.append(stop)
        _install()
    if _count:  # the process is draining already
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
        # One that the program set meanwhile stays; one that was not set from Python (None) cannot be set again.
        if signal.getsignal(number) is _on_signal and action is not None:
            signal.signal(number, action)
    _former.clear()


def _leave_to_the_parent() -> None:
    """In a forked child signals do what they did before the parent's workers ran: those are not here."""
    _workers.clear()
    _in_main_thread.clear()
    _restore()


os.register_at_fork(after_in_child=_leave_to_the_parent)
