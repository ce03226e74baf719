"""Replacement for stderr in a server: writing to it neither blocks nor raises."""

from __future__ import annotations

import io
import os
import stat
import threading
from typing import Final

from .lines import LINE_CHARS_MAX, cut, printable
from .writer import LineWriter

_STDERR: Final = 2


class Errors(io.TextIOBase):
    """Text stream that a thread writes to stderr, line by line.

    Attributes:
        writer: Writes the lines.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        _never_block(_STDERR)
        self.writer = LineWriter(_STDERR, lambda count: b"codeq: %d lines of stderr were lost\n" % count)
        self._lock = threading.RLock()
        self._rest = ""

    def write(self, text: str) -> int:
        """Accepts text; complete lines are written."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._put(line)
        return len(text)

    def flush(self) -> None:
        """Writes an incomplete line, ending it."""
        with self._lock:
            if self._rest:
                self._put(self._rest)
                self._rest = ""

    def fileno(self) -> int:
        """Returns the file descriptor."""
        return _STDERR

    def isatty(self) -> bool:
        """Returns whether it is a terminal."""
        return os.isatty(_STDERR)

    def writable(self) -> bool:
        """Returns True."""
        return True

    def _put(self, line: str) -> None:
        self.writer.put(printable(cut(line, LINE_CHARS_MAX)).encode() + b"\n")


def _never_block(fd: int) -> None:
    """Makes direct writes by native libraries fail rather than block when nobody reads."""
    try:
        mode = os.fstat(fd).st_mode
        is_pipe, is_socket = stat.S_ISFIFO(mode), stat.S_ISSOCK(mode)
        if not (is_pipe or is_socket or os.isatty(fd)):
            return
        try:
            # Reopened, so that other processes sharing the open file description are not affected.
            again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            if is_pipe or is_socket:  # owned by another user, or cannot be reopened
                os.set_blocking(fd, False)
            return
        os.dup2(again, fd)
        os.close(again)
    except OSError:
        pass  # e.g. closed: then nothing blocks
