"""Servers for tests in this process: in memory, with a clock that tests move.

The distribution codeq-server provides them by an entry point, since the SDK imports nothing of the server.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from typing import Final, Protocol

from codeq.testing.running import RunningServer, ServerNotFoundError

ADVANCE_SECONDS_MAX: Final = 10 * 365 * 86400
"""Longest time that a clock moves at once."""

_GROUP: Final = "codeq.testing"
_NAME: Final = "memory_server"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Embedded(Protocol):
    """A server in this process, as the server's distribution provides it."""

    producer_addr: str
    worker_addr: str
    http_url: str
    token: str

    def unix_ms(self) -> int: ...
    def freeze(self) -> None: ...
    def advance(self, milliseconds: int) -> None: ...
    def close(self) -> None: ...


class Clock:
    """The clock of a server in this process: for delays, leases, retries, expiry, retention and rates.

    It runs like the system's clock until it is frozen. Clients, workers and the waits of calls keep the system's time.
    """

    def __init__(self, server: _Embedded) -> None:
        self._server = server

    def now(self) -> datetime:
        """Returns the server's time."""
        return _EPOCH + timedelta(milliseconds=self._server.unix_ms())

    def freeze(self) -> None:
        """Stops the clock: from now on only `advance` moves it."""
        self._server.freeze()

    def advance(self, seconds: float) -> None:
        """Moves the clock ahead, and returns once the server has done all that became due, in the order of its times.

        Delayed tasks are then waiting, leases have ended, nacked tasks wait again, and ended tasks whose retention is
        over are gone. Waiting workers are notified, but may not have begun their tasks yet. Leases of running handlers
        elapse like others; a worker notices at its next renewal, after a third of the lease by the system's time.

        Args:
            seconds: Time to move; 0 to 10 years, rounded up to milliseconds.

        Raises:
            ValueError: The time is out of bounds.
        """
        if not 0 <= seconds <= ADVANCE_SECONDS_MAX:
            raise ValueError(f"seconds: must be 0 to {ADVANCE_SECONDS_MAX}, not {seconds}")
        self._server.advance(math.ceil(seconds * 1000))


@dataclass(frozen=True, slots=True)
class MemoryServer(RunningServer):
    """A server in this process.

    Attributes:
        clock: Its clock.
    """

    clock: Clock


@contextlib.contextmanager
def memory_server(*, env: Mapping[str, str] | None = None) -> Iterator[MemoryServer]:
    """Runs a server in this process for the length of a block: in memory, on free ports, on a thread of its own.

    It is the real server, except for its store and its clock. Several can run at once.

    Args:
        env: Settings of the server as variables, such as {"RETENTION_SECONDS": "60"}. The variables of this process
            have no effect.

    Raises:
        ServerNotFoundError: The distribution codeq-server is not installed in this environment.
        ValueError: A setting is invalid; the message begins with its name.
    """
    server = _starter()(env or {})
    try:
        yield MemoryServer(server.producer_addr, server.worker_addr, server.http_url, server.token, Clock(server))
    finally:
        server.close()


def _starter() -> Callable[[Mapping[str, str]], _Embedded]:
    for found in entry_points(group=_GROUP, name=_NAME):
        starter: Callable[[Mapping[str, str]], _Embedded] = found.load()
        return starter
    raise ServerNotFoundError(
        "no server can run in this process: install codeq-server into this Python environment, or start a process with "
        "temporary_server(in_memory=True)"
    )
