"""Outputs of several kinds that nobody reads, for stdout and stderr."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

KINDS = ("reader gone", "disk full", "not read")


@dataclass
class StuckOutput:
    """An output that accepts nothing.

    Attributes:
        fd: File descriptor for a server's stdout and stderr.
        reader: Object that can read the output; None: it cannot be read.
    """

    fd: int
    reader: int | None = None

    def read(self) -> bytes:
        """Returns the bytes waiting to be read, at least one."""
        assert self.reader is not None
        return os.read(self.reader, 1 << 20)


@contextmanager
def stuck_output(kind: str) -> Iterator[StuckOutput]:
    """Provides an output of a kind."""
    if kind == "disk full":
        output = StuckOutput(os.open("/dev/full", os.O_WRONLY))
    else:
        reader, writer = os.pipe()
        output = StuckOutput(writer, reader)
        if kind == "reader gone":
            os.close(reader)
            output.reader = None
        else:
            fill(writer)
    try:
        yield output
    finally:
        for fd in (output.fd, output.reader):
            if fd is not None:
                os.close(fd)


def fill(writer: int) -> None:
    """Writes to a pipe until it is full."""
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n")
    os.set_blocking(writer, True)
