"""A thread that writes lines, so that nobody else waits for whoever reads them, and nobody fails because of them.

What cannot be written is counted, and told by one line as soon as writing works again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

QUEUE_BYTES_MAX: Final = 4 << 20
"""Bytes of lines that may wait to be written; further lines are lost."""

LAST_LINES_SECONDS: Final = 1.0
"""Time that the last lines of a process have at its end."""


class LineWriter:
    """Writes lines to a file descriptor, from a thread that does not keep the process from ending.

    Args:
        fd: The file descriptor; may be closed, broken, full, not read by anybody, or non-blocking.
        notice: Returns the line that tells of a number of lost lines.

    Attributes:
        lost: Lines that nobody will read: those that found the queue full, and those that could not be written.
    """

    def __init__(self, fd: int, notice: Callable[[int], bytes]) -> None:
        self.lost = 0
        self._fd = fd
        self._notice = notice
        # Reentrant: a collection of garbage in the middle of `put` may log something.
        self._changed = threading.Condition(threading.RLock())
        self._queue: list[bytes] = []
        self._bytes = 0
        """Bytes in the queue and on their way."""
        self._missed = 0
        """Lines that found the queue full since it was taken last."""
        self._unwritten = 0
        """Lines that could not be written since something could."""
        self._is_torn = False
        """Whether the last line was written in part."""
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    def put(self, lines: bytes) -> None:
        """Has whole lines written soon. Does not block, and does not raise.

        Args:
            lines: Lines, each with its end.
        """
        with self._changed:
            if self._bytes + len(lines) > QUEUE_BYTES_MAX:
                count = lines.count(b"\n")
                self.lost += count
                self._missed += count
                return
            self._queue.append(lines)
            self._bytes += len(lines)
            self._changed.notify_all()

    def flush(self, seconds: float = LAST_LINES_SECONDS) -> None:
        """Waits until everything is written or lost, but no longer than so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._bytes and not self._missed, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._missed)
                lines, missed = b"".join(self._queue), self._missed
                self._queue, self._missed = [], 0
            lost = self._deliver(lines, missed)
            with self._changed:
                self.lost += lost
                self._bytes -= len(lines)
                self._changed.notify_all()

    def _deliver(self, lines: bytes, missed: int) -> int:
        """Writes lines, and tells of those lost before and after them; returns how many could not be written."""
        rest = lines
        if not self._unwritten or not self._write(self._notice(self._unwritten)):
            self._unwritten = 0
            rest = self._write(lines)
        lost = rest.count(b"\n")
        self._unwritten += lost
        if missed and (self._unwritten or self._write(self._notice(missed))):
            self._unwritten += missed
        return lost

    def _write(self, data: bytes) -> bytes:
        """Returns what could not be written."""
        if self._is_torn and data:
            data = b"\n" + data
        at = 0
        try:
            while at < len(data):
                try:
                    at += os.write(self._fd, memoryview(data)[at:])
                except BlockingIOError:
                    room = select.poll()
                    room.register(self._fd, select.POLLOUT)
                    room.poll()
        except OSError:
            pass
        if at:
            self._is_torn = data[at - 1 : at] != b"\n"
        return data[at:].removeprefix(b"\n")


def flush_all(writers: Iterable[LineWriter], seconds: float = LAST_LINES_SECONDS) -> None:
    """Flushes writers within so many seconds in all."""
    end = time.monotonic() + seconds
    for writer in writers:
        writer.flush(max(0.0, end - time.monotonic()))
