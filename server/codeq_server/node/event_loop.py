"""The server's event loop: uvloop, and a remedy for how grpc.aio wakes it.

For each finished operation a thread of grpc.aio notes it in a list and sends one byte through a pair of sockets. The
loop takes one byte and then all of the list, so that under load bytes are left over; as soon as they fill the socket,
some hundred, the thread stands still until the loop has taken another one, and every operation of every call waits for
hundreds of turns of the loop. Here all bytes but the one that grpc.aio takes itself are dropped before it looks.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

import uvloop

WAKE_UPS_MAX: Final = 4096
"""Bytes dropped at a time: more than the socket holds."""


class ServerLoop(uvloop.Loop):
    """uvloop that hears many wake-ups of grpc.aio as one."""

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """See `asyncio.AbstractEventLoop.add_reader`; Unix sockets, which only grpc.aio watches, keep one byte."""
        if isinstance(fd, socket.socket) and fd.family == socket.AF_UNIX:
            super().add_reader(fd, _hear, fd, callback, args)
        else:
            super().add_reader(fd, callback, *args)


def _hear(wake_ups: socket.socket, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
    more = len(wake_ups.recv(WAKE_UPS_MAX, socket.MSG_PEEK | socket.MSG_DONTWAIT)) - 1
    if more > 0:
        wake_ups.recv(more)
    callback(*args)
