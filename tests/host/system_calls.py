"""System calls of a running process, watched by strace, in the order in which they began and ended."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from host_tools import need

ATTACH_SECONDS_MAX = 30.0
DETACH_SECONDS_MAX = 30.0

_READS = ("read", "readv", "recvfrom", "recvmsg")
_WRITES = ("write", "writev", "sendto", "sendmsg", "pwrite64")
_SYNCS = ("fdatasync", "fsync")

# 4711  1700000000.000001 write(12</a/b.log>, "abc"..., 3) = 3
_LINE = re.compile(r"^(?P<thread>\d+)\s+\d+\.\d+ (?P<rest>.*)$")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<rest>.*)$")
_UNFINISHED = " <unfinished ...>"
_RESULT = re.compile(r"\) += (?P<result>-?\d+)")


@dataclass(frozen=True, slots=True)
class Moment:
    """The beginning or the end of a system call.

    Attributes:
        thread: Thread that made the call.
        name: Name of the call.
        text: Arguments known at this moment, with the paths of files; data are truncated.
        result: Return value of the call; None at its beginning.
    """

    thread: int
    name: str
    text: str
    result: int | None

    @property
    def reads(self) -> bool:
        """Whether data were read."""
        return self.name in _READS and self.result is not None and self.result > 0

    @property
    def begins_write(self) -> bool:
        """Whether a write begins."""
        return self.name in _WRITES and self.result is None

    @property
    def syncs(self) -> bool:
        """Whether the call makes a file durable."""
        return self.name in _SYNCS


def parse(trace: str) -> list[Moment]:
    """Returns the moments of a trace in order. A call has a beginning and, unless the trace stopped first, an end."""
    moments = []
    begun: dict[int, str] = {}
    for line in trace.splitlines():
        matched = _LINE.match(line)
        if matched is None:
            continue
        thread, rest = int(matched["thread"]), matched["rest"]
        if resumed := _RESUMED.match(rest):
            name, arguments = resumed["name"], begun.pop(thread, "") + resumed["rest"]
        elif call := _CALL.match(rest):
            name, arguments = call["name"], call["rest"]
            moments.append(Moment(thread, name, arguments.removesuffix(_UNFINISHED), None))
            if arguments.endswith(_UNFINISHED):
                begun[thread] = arguments.removesuffix(_UNFINISHED)
                continue
        else:
            continue
        results = list(_RESULT.finditer(arguments))
        if results:
            moments.append(Moment(thread, name, arguments, int(results[-1]["result"])))
    return moments


class Watch:
    """strace on all threads of a process, for the length of a `with` block."""

    def __init__(self, process_id: int) -> None:
        self._process_id = process_id
        self._directory = tempfile.TemporaryDirectory(prefix="strace-")
        self._output = Path(self._directory.name, "trace")
        self._strace: subprocess.Popen[str] | None = None
        self.moments: list[Moment] = []

    def __enter__(self) -> Self:
        need("strace")
        calls = ",".join((*_READS, *_WRITES, *_SYNCS))
        command = ["strace", "-f", "-ttt", "-y", "-s", "120", "-e", f"trace={calls}", "-o", str(self._output)]
        self._strace = subprocess.Popen(
            [*command, "-p", str(self._process_id)], stderr=subprocess.PIPE, text=True, bufsize=1
        )
        # strace reports on stderr that it is attached, and would block on a full pipe.
        attached = threading.Event()
        complaints: list[str] = []

        def read() -> None:
            assert self._strace is not None
            assert self._strace.stderr is not None
            for line in self._strace.stderr:
                complaints.append(line)
                if "attached" in line:
                    attached.set()

        self._reader = threading.Thread(target=read, name="strace")
        self._reader.start()
        if not attached.wait(ATTACH_SECONDS_MAX):
            self._end(self._strace.kill)
            self._directory.cleanup()
            raise AssertionError(f"strace did not attach: {''.join(complaints)}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._strace is not None
        self._end(self._strace.terminate)
        self.moments = parse(self._output.read_text(errors="replace"))
        self._directory.cleanup()

    def _end(self, stop: Callable[[], None]) -> None:
        assert self._strace is not None
        assert self._strace.stderr is not None
        stop()
        self._strace.wait(DETACH_SECONDS_MAX)
        self._reader.join()
        self._strace.stderr.close()
