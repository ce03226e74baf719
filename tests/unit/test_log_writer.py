"""The log writer thread: it never blocks callers or makes them fail; lost lines are counted and reported."""

from __future__ import annotations

import fcntl
import os
import termios
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from codeq_server.log.writer import QUEUE_BYTES_MAX, LineWriter

LINE = b"x" * 1023 + b"\n"
WAIT_SECONDS = 20.0
"""Maximum wait for the thread, which is never reached."""


def notice(count: int) -> bytes:
    return b"lost %d\n" % count


class Pipe:
    """A pipe and its log writer."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._lines: LineWriter | None = None

    def lines(self) -> LineWriter:
        """Returns the pipe's log writer."""
        self._lines = LineWriter(self.writer, notice)
        return self._lines

    def close(self) -> None:
        """Closes the open ends once the writer has stopped."""
        with suppress(OSError):
            os.close(self.reader)
        if self._lines is not None:
            self._lines.flush(WAIT_SECONDS)
        with suppress(OSError):
            os.close(self.writer)

    def read_all(self, lines: LineWriter) -> bytes:
        """Returns everything received until nothing waits to be written."""
        os.set_blocking(self.reader, False)
        found = b""
        while True:
            lines.flush(0.01)
            try:
                found += os.read(self.reader, 1 << 20)
            except BlockingIOError:
                with suppress(IndexError):
                    if found.splitlines()[-1].startswith(b"lost"):
                        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def overflow(lines: LineWriter, reader: int) -> int:
    """Writes lines that fill the pipe, and then more lines than the queue holds; returns the number of lines."""
    stuck = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ) // len(LINE) + 1
    lines.put(LINE * stuck)
    size = array("i", [0])
    while size[0] < (stuck - 1) * len(LINE):
        fcntl.ioctl(reader, termios.FIONREAD, size)
    count = 2 * QUEUE_BYTES_MAX // len(LINE)
    for _ in range(count):
        lines.put(LINE)
    return stuck + count


def test_lines_come_out_in_order(pipe: Pipe) -> None:
    lines = pipe.lines()
    for number in range(100):
        lines.put(b"%d\n" % number)
    lines.flush(WAIT_SECONDS)
    assert os.read(pipe.reader, 1000).split() == [b"%d" % number for number in range(100)]
    assert lines.lost == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_unread_pipe_loses_lines_and_reports_the_loss_once_it_is_read(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.writer, blocking)
    lines = pipe.lines()
    put = overflow(lines, pipe.reader)
    assert put / 3 < lines.lost < put
    found = pipe.read_all(lines).splitlines(keepends=True)
    assert found.count(LINE) == put - lines.lost
    assert [line for line in found if line != LINE] == [notice(lines.lost)]
    assert found[-1] == notice(lines.lost)


def test_flush_times_out_when_nobody_reads(pipe: Pipe) -> None:
    lines = pipe.lines()
    overflow(lines, pipe.reader)
    lines.flush(0.05)
    assert lines.lost > 0


def test_pipe_whose_reader_is_gone_loses_lines(pipe: Pipe) -> None:
    os.close(pipe.reader)
    lines = pipe.lines()
    lines.put(b"one\ntwo\n")
    lines.put(b"three\n")
    lines.flush(WAIT_SECONDS)
    assert lines.lost == 3


def test_closed_descriptor_loses_lines(pipe: Pipe) -> None:
    lines = pipe.lines()
    os.close(pipe.writer)
    lines.put(b"one\n")
    lines.flush(WAIT_SECONDS)
    assert lines.lost == 1


def test_full_disk_loses_lines_and_reports_the_loss_once_it_has_room(pipe: Pipe) -> None:
    target = os.open("/dev/full", os.O_WRONLY)
    lines = LineWriter(target, notice)
    for number in range(3):
        lines.put(b"lost %d\nlost again\n" % number)
        lines.flush(WAIT_SECONDS)
    assert lines.lost == 6
    os.dup2(pipe.writer, target)  # the disk has room again
    lines.put(b"one\n")
    lines.put(b"two\n")
    lines.flush(WAIT_SECONDS)
    assert os.read(pipe.reader, 1000) == b"lost 6\none\ntwo\n"
    os.close(target)


def test_partly_written_line_is_ended_before_the_next(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    lines = LineWriter(writer, notice)
    lines.put(b"y" * 6000 + b"\n")  # the first part fits
    while len(first := os.read(reader, 1)) != 1:
        pass
    other = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.close(reader)  # the rest fails
    lines.flush(WAIT_SECONDS)
    assert first == b"y"
    assert lines.lost == 1
    os.dup2(other, writer)
    lines.put(b"next\n")
    lines.flush(WAIT_SECONDS)
    assert (tmp_path / "log").read_bytes() == b"\nlost 1\nnext\n"
    os.close(other)
    os.close(writer)
