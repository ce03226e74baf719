"""The thread that settles the futures of creates, so that their callbacks cannot delay the SDK's own thread.

It starts on first use and lives as long as the process; a forked child gets its own.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from codeq.logs import log

_guard = threading.RLock()  # reentrant: a signal may interrupt its holder
_jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_thread: threading.Thread | None = None


def settle(job: Callable[[], None]) -> None:
    """Runs a function on the thread, after those given earlier. If no thread can start any more, it runs here."""
    if not _has_thread():
        job()
    else:
        _jobs.put(job)


def flush(seconds: float) -> None:
    """Waits until the functions given so far have run, at most a number of seconds; not on the thread itself."""
    if _thread is None or threading.current_thread() is _thread:
        return
    done = threading.Event()
    _jobs.put(done.set)
    done.wait(seconds)


def _has_thread() -> bool:
    global _thread  # noqa: PLW0603 - the thread is the process's
    if _thread is None:
        with _guard:
            if _thread is None:
                thread = threading.Thread(target=_work, args=(_jobs,), name="codeq-futures", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down
                    return False
                _thread = thread
    return True


def _work(jobs: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        try:
            jobs.get()()
        except BaseException:  # noqa: BLE001 - callbacks of futures are the program's; the others must run, too
            log.exception("a callback of a future failed")


def _forget() -> None:
    """Drops the parent's thread in a forked child, where it does not exist."""
    global _jobs, _thread, _guard
    _guard, _jobs, _thread = threading.RLock(), queue.SimpleQueue(), None


os.register_at_fork(after_in_child=_forget)
