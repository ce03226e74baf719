"""The server's event loop: uvloop with a workaround for grpc.aio's wake-ups.

For each finished operation, a thread of grpc.aio appends to a list and sends one byte through a socket pair. The loop
reads one byte and then processes the whole list, so under load bytes accumulate. Once a few hundred fill the socket,
the thread blocks until the loop has read another byte, and every operation of every call is delayed by hundreds of loop
iterations. This loop drops all bytes but the one that grpc.aio reads itself.

All loops of a process share the list and the socket pair. A byte that another loop has read needs nothing: that loop
hands over what it found in the list.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

import uvloop

WAKE_UPS_MAX: Final = 4096
"""Bytes dropped at once: more than the socket buffer holds."""


class ServerLoop(uvloop.Loop):
    """uvloop that coalesces grpc.aio's wake-ups."""

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """See `asyncio.AbstractEventLoop.add_reader`; on Unix sockets, used only by grpc.aio, coalesces wake-ups."""
        if isinstance(fd, socket.socket) and fd.family == socket.AF_UNIX:
            super().add_reader(fd, _hear, fd, callback, args)
        else:
            super().add_reader(fd, callback, *args)


def _hear(wake_ups: socket.socket, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
    try:
        more = len(wake_ups.recv(WAKE_UPS_MAX, socket.MSG_PEEK | socket.MSG_DONTWAIT)) - 1
        if more > 0:
            wake_ups.recv(more, socket.MSG_DONTWAIT)
        callback(*args)
    except BlockingIOError:
        pass  # another loop was faster
