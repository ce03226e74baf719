"""Keeps gRPC ports available: when a port's connections near the limit, unauthenticated ones are evicted.

gRPC accepts connections itself, does not report them and cannot close one; at its limit it rejects every new
connection, authenticated or not. So the process inspects its own sockets and shuts down the excess ones.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LOOK_SECONDS: Final = 1.0
"""Interval between counts of open files."""

PRESSED_LOOK_SECONDS: Final = 0.1
"""Minimum interval between checks of connections while a port is near its limit."""

REST_PER_LOOK: Final = 10
"""Minimum pause after such a check, as a multiple of its duration."""

PRESSED_PART: Final = 0.75
"""Fraction of a port's limit from which unauthenticated connections are evicted."""

ROOM_PART: Final = 0.5
"""Fraction of a port's limit down to which they are evicted."""

_OPEN_FILES: Final = next(path for path in ("/proc/self/fd", "/dev/fd") if Path(path).is_dir())
"""Folder that lists the process's open files."""


@dataclass(slots=True)
class Door:
    """Ports that share one kind of authentication.

    Attributes:
        connections_max: Maximum connections of each port.
        ports: The ports.
        known: gRPC peers of authenticated connections.
    """

    connections_max: int
    ports: set[int] = field(default_factory=set)
    known: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _File:
    """An open file, and the ends of the connection if it is one."""

    inode: int
    port: int
    peer: str
    number: int
    """Order in which files were first seen."""


class Doorkeeper:
    """Watches the connections of all doors.

    Args:
        others: Returns the number of the process's connections that belong to no door.
    """

    def __init__(self, others: Callable[[], int]) -> None:
        self._others = others
        self._doors: list[Door] = []
        self._files: dict[int, _File] = {}
        self._seen = 0
        self._task: asyncio.Task[None] | None = None

    def door(self, connections_max: int) -> Door:
        """Adds and returns a new door without ports."""
        door = Door(connections_max)
        self._doors.append(door)
        return door

    def start(self) -> None:
        """Starts watching."""
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="doorkeeper")

    async def stop(self) -> None:
        """Stops watching."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        rest = LOOK_SECONDS
        while True:
            await asyncio.sleep(rest)
            rest = LOOK_SECONDS
            if await asyncio.to_thread(self._may_be_pressed):
                began = time.perf_counter()
                is_pressed = await asyncio.to_thread(self.look)
                if is_pressed:
                    rest = max(PRESSED_LOOK_SECONDS, REST_PER_LOOK * (time.perf_counter() - began))

    def _may_be_pressed(self) -> bool:
        count = _open_files() - self._others()
        return any(
            count >= PRESSED_PART * door.connections_max or len(door.known) > 2 * door.connections_max
            for door in self._doors
        )

    def look(self) -> bool:
        """Evicts unauthenticated connections of ports near their limit; returns whether any port is near its limit.

        Connections that are new since the last check are spared: they may be about to authenticate.
        """
        seen_before, known_before = self._seen, [set(door.known) for door in self._doors]
        files = self._list_files()
        is_pressed = False
        for door, known in zip(self._doors, known_before, strict=True):
            visits = {fd: file for fd, file in files.items() if file.port in door.ports}
            door.known -= known - {file.peer for file in visits.values()}
            for port in door.ports:
                there = {fd: file for fd, file in visits.items() if file.port == port}
                if len(there) < PRESSED_PART * door.connections_max:
                    continue
                is_pressed = True
                strangers = [
                    (file.number, fd)
                    for fd, file in there.items()
                    if file.peer not in door.known and file.number <= seen_before
                ]
                surplus = len(there) - int(ROOM_PART * door.connections_max)
                for _, fd in sorted(strangers)[:surplus]:
                    _shut(fd, there[fd])
        return is_pressed

    def _list_files(self) -> dict[int, _File]:
        before, self._files = self._files, {}
        for name in os.listdir(_OPEN_FILES):  # noqa: PTH208 - thousands of names, paths not needed
            fd = int(name)
            try:
                status = os.fstat(fd)
            except OSError:
                continue  # closed meanwhile
            file = before.get(fd)
            if file is None or file.inode != status.st_ino:
                self._seen += 1
                port, peer = _ends(fd) if stat.S_ISSOCK(status.st_mode) else (0, "")
                file = _File(status.st_ino, port, peer, self._seen)
            self._files[fd] = file
        return self._files


def _open_files() -> int:
    return len(os.listdir(_OPEN_FILES))  # noqa: PTH208 - as above


def _ends(fd: int) -> tuple[int, str]:
    """Returns the local port and the gRPC peer of a connection; port 0 if it is not a TCP connection."""
    try:
        with _duplicate(fd) as connection:
            return _ends_of(connection)
    except OSError:
        return 0, ""


def _duplicate(fd: int) -> socket.socket:
    """Returns a duplicate socket, which stays the same connection even if the descriptor is closed and reused.

    Raises:
        OSError: The descriptor is closed, or is not a socket.
    """
    own = os.dup(fd)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _ends_of(connection: socket.socket) -> tuple[int, str]:
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return 0, ""
    host, port, *_ = connection.getpeername()
    here: int = connection.getsockname()[1]
    if connection.family == socket.AF_INET6 and host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    elif connection.family == socket.AF_INET6:
        return here, f"ipv6:%5B{host.replace('%', '%25')}%5D:{port}"
    return here, f"ipv4:{host}:{port}"


def _shut(fd: int, file: _File) -> None:
    """Shuts down a connection, unless its descriptor has been reused; gRPC then closes it."""
    with suppress(OSError), _duplicate(fd) as connection:
        if _ends_of(connection) == (file.port, file.peer):
            connection.shutdown(socket.SHUT_RDWR)
