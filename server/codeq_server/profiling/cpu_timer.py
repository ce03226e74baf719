"""A timer of the CPU time of one thread, which the standard library lacks: `setitimer` counts that of all threads.

The signals of `setitimer` may also reach threads of RocksDB and gRPC, and wake the server while only those work. This
timer stands still while its thread waits, and its signals reach no other thread.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Final

_SIGEV_THREAD_ID: Final = 4


class _Event(ctypes.Structure):
    """Linux's `struct sigevent`, of 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("unused", ctypes.c_char * 44),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`: the interval, and the time until the first signal."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


@contextmanager
def cpu_timer(thread: Thread, signal: int, interval_ns: int) -> Iterator[bool]:
    """Sends a signal to a thread each time it has used some CPU time, until the context ends.

    Args:
        thread: The thread, which runs until then.
        signal: Number of the signal.
        interval_ns: CPU time between two signals, below one second.

    Yields:
        Whether the system has such timers: Linux with a C library of glibc 2.34 or later, or musl.
    """
    library = ctypes.CDLL(None)
    if sys.platform != "linux" or thread.ident is None or not hasattr(library, "timer_create"):
        yield False
        return
    event = _Event(signal=signal, notify=_SIGEV_THREAD_ID, thread=thread.native_id)
    timer = ctypes.c_void_p()
    clock = time.pthread_getcpuclockid(thread.ident)
    if library.timer_create(clock, ctypes.byref(event), ctypes.byref(timer)) != 0:
        yield False
        return
    try:
        times = _Times(interval_ns=interval_ns, first_ns=interval_ns)
        yield library.timer_settime(timer, 0, ctypes.byref(times), None) == 0
    finally:
        library.timer_delete(timer)
