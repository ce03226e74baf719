"""Connections that were refused something go on when it is their turn, and nobody waits for those that are gone."""

from __future__ import annotations

import asyncio
from functools import partial

from codeq_gateway.connections import TURNS_AT_ONCE, Connections
from served_gateway import Served

BODY_BYTES = 8 * 1024 * 1024


class _Open:
    def abort(self) -> None:
        """Needs none."""


async def _next(went: asyncio.Queue[int]) -> list[int]:
    """Returns which connections go on at the next time."""
    return [await went.get(), *(went.get_nowait() for _ in range(went.qsize()))]


async def test_connections_take_turns_in_the_order_in_which_they_came() -> None:
    connections: Connections[_Open] = Connections()
    went: asyncio.Queue[int] = asyncio.Queue()
    for number in range(2 * TURNS_AT_ONCE):
        connections.in_turn(_Open(), partial(went.put_nowait, number))
    assert went.empty()
    assert await _next(went) == list(range(TURNS_AT_ONCE))
    assert await _next(went) == list(range(TURNS_AT_ONCE, 2 * TURNS_AT_ONCE))


async def test_connection_that_is_gone_takes_no_turn() -> None:
    connections: Connections[_Open] = Connections()
    went: asyncio.Queue[int] = asyncio.Queue()
    gone, there = _Open(), _Open()
    connections.in_turn(gone, partial(went.put_nowait, 1))
    connections.in_turn(there, partial(went.put_nowait, 2))
    connections.discard(gone)
    assert await _next(went) == [2]


async def test_refused_body_is_read_in_pieces_with_everybody_else_between_them(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    head = f"POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_BYTES}\r\n\r\n".encode()
    sending = asyncio.create_task(_send(writer, head + bytes(BODY_BYTES)))
    assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
    answered = 0
    while not sending.done():
        answer = await served.http.post("/v1/codeq/tasks", json={"command": "c"})
        assert answer.status_code == 202
        answered += 1
    assert answered >= 5
    writer.close()


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.transport.set_write_buffer_limits(0)
    writer.write(content)
    await writer.drain()
