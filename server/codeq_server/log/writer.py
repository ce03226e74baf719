"""A thread that writes lines, so that a slow or broken output never blocks or fails the rest of the process.

Lines that cannot be written are counted, and reported in one line once writing works again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

QUEUE_BYTES_MAX: Final = 4 << 20
"""Maximum bytes of queued lines; further lines are lost."""

LAST_LINES_SECONDS: Final = 1.0
"""Time to write the last lines when the process ends."""


class LineWriter:
    """Writes lines to a file descriptor from a daemon thread.

    Args:
        fd: The file descriptor; may be closed, broken, full, unread, or non-blocking.
        notice: Returns the line that reports a number of lost lines.

    Attributes:
        lost: Number of lost lines: because the queue was full, or because they could not be written.
    """

    def __init__(self, fd: int, notice: Callable[[int], bytes]) -> None:
        self.lost = 0
        self._fd = fd
        self._notice = notice
        # Reentrant: garbage collection during `put` may log something.
        self._changed = threading.Condition(threading.RLock())
        self._queue: list[bytes] = []
        self._bytes = 0
        """Bytes queued or being written."""
        self._missed = 0
        """Lines lost to a full queue since the queue was last taken."""
        self._unwritten = 0
        """Lines that could not be written since the last successful write."""
        self._is_torn = False
        """Whether the last line was written only in part."""
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    def put(self, lines: bytes) -> None:
        """Queues complete lines for writing. Neither blocks nor raises.

        Args:
            lines: Complete lines, each with its line feed.
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
        """Waits until every line is written or lost, for at most `seconds`."""
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
        """Writes lines, and reports those lost before and after them; returns how many could not be written."""
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
        """Writes data; returns the part that could not be written."""
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
    """Flushes writers within `seconds` in total."""
    end = time.monotonic() + seconds
    for writer in writers:
        writer.flush(max(0.0, end - time.monotonic()))
