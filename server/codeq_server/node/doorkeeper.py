"""Keeps places free at gRPC ports: when they are nearly taken, connections of strangers make room.

gRPC accepts connections itself, tells nobody of them, and closes none when asked; at its bound it turns away whoever
comes, with or without a token. So here the process looks at its own sockets, and shuts those down that are too many.
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
"""Time between two counts of open files."""

PRESSED_LOOK_SECONDS: Final = 0.1
"""Time between two looks at connections while a port has few places left."""

REST_PER_LOOK: Final = 10
"""Times as long as a look takes that nothing is looked at afterwards."""

PRESSED_PART: Final = 0.75
"""Part of a port's places that are taken when strangers begin to make room."""

ROOM_PART: Final = 0.5
"""Part of a port's places that may be taken when they stop."""

_OPEN_FILES: Final = next(path for path in ("/proc/self/fd", "/dev/fd") if Path(path).is_dir())
"""Folder of the process's open files."""


@dataclass(slots=True)
class Door:
    """Ports whose visitors are known by one kind of token.

    Attributes:
        connections_max: Connections that each of the ports may have.
        ports: The ports.
        known: Peers of connections on which an accepted token was shown, as gRPC names them.
    """

    connections_max: int
    ports: set[int] = field(default_factory=set)
    known: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _File:
    """An open file: which one, and where it leads if it is a connection."""

    inode: int
    port: int
    peer: str
    number: int
    """Order in which files were first seen."""


class Doorkeeper:
    """Looks after doors.

    Args:
        others: Returns how many connections the process has that come through none of the doors.
    """

    def __init__(self, others: Callable[[], int]) -> None:
        self._others = others
        self._doors: list[Door] = []
        self._files: dict[int, _File] = {}
        self._seen = 0
        self._task: asyncio.Task[None] | None = None

    def door(self, connections_max: int) -> Door:
        """Returns a new door, which has no ports yet."""
        door = Door(connections_max)
        self._doors.append(door)
        return door

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="doorkeeper")

    async def stop(self) -> None:
        """Ends looking."""
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
        """Has strangers make room where it is needed; returns whether it is needed anywhere.

        Strangers that were not there at the look before are spared: their token may be on its way.
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
        for name in os.listdir(_OPEN_FILES):  # noqa: PTH208 - thousands of names, and no paths are needed
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
    """Returns the port of this end of a connection and the peer as gRPC names it; 0 if it is no connection over TCP."""
    try:
        with _duplicate(fd) as connection:
            return _ends_of(connection)
    except OSError:
        return 0, ""


def _duplicate(fd: int) -> socket.socket:
    """Returns a socket of our own: whatever becomes of the descriptor meanwhile, this is one and the same connection.

    Raises:
        OSError: The descriptor is closed, or is that of something else.
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
    """Shuts a connection down, unless its descriptor is another's by now; gRPC then closes it."""
    with suppress(OSError), _duplicate(fd) as connection:
        if _ends_of(connection) == (file.port, file.peer):
            connection.shutdown(socket.SHUT_RDWR)
