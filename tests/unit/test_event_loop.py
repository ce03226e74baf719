"""The server's event loop reads all wake-ups of grpc.aio at once, because unread wake-ups would delay every call."""

from __future__ import annotations

import asyncio
import socket

import pytest
from codeq_server.node.event_loop import ServerLoop


async def _heard(ours: socket.socket, theirs: socket.socket, count: int) -> tuple[int, int]:
    """Sends wake-ups, each handled by reading one byte; returns the number handled and the bytes left."""
    loop = asyncio.get_running_loop()
    heard = 0

    def hear() -> None:
        nonlocal heard
        heard += len(ours.recv(1))

    theirs.send(b"1" * count)
    loop.add_reader(ours, hear)
    async with asyncio.timeout(10):
        while not heard:  # noqa: ASYNC110 - the loop itself is tested
            await asyncio.sleep(0)
    loop.remove_reader(ours)
    ours.setblocking(False)
    try:
        left = len(ours.recv(count))
    except BlockingIOError:
        left = 0
    return heard, left


@pytest.mark.parametrize("count", [1, 2, 270])
def test_wake_ups_on_a_unix_socket_are_read_as_one(count: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, asyncio.Runner(loop_factory=ServerLoop) as runner:
        assert runner.run(_heard(ours, theirs, count)) == (1, 0)


def test_bytes_on_other_sockets_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, theirs, asyncio.Runner(loop_factory=ServerLoop) as runner:
        assert runner.run(_heard(ours, theirs, 5)) == (1, 4)
