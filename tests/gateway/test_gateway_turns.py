"""Connections that were refused something go on when it is their turn, and nobody waits for those that are gone."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from codeq_gateway import connections as turns
from codeq_gateway.connection import ANSWERS_AT_ONCE_MAX
from codeq_gateway.connections import TURNS_AT_ONCE, Connections
from served_gateway import Served, until

BODY_BYTES = 8 * 1024 * 1024
NEVER = 3600.0
REFUSED = b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"
PAGE = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
CLAIM = b"POST /v1/codeq/tasks/claim HTTP/1.1\r\nHost: h\r\n\r\n"
"""A request without a body, which succeeds."""


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


async def _met(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Returns a connection of a client whose token was accepted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM)
    assert (await _statuses(reader, 1))[0] in {200, 204}
    return reader, writer


async def _statuses(reader: asyncio.StreamReader, count: int) -> list[int]:
    """Returns the statuses of the next replies."""
    found = []
    for _ in range(count):
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().lower()
        found.append(int(head.split(" ")[1]))
        length = next((line for line in head.split("\r\n") if line.startswith("content-length:")), ":0")
        await reader.readexactly(int(length.partition(":")[2]))
    return found


@pytest.mark.parametrize("is_known", [False, True])
async def test_requests_behind_refused_ones_are_carried_out_once_each(served: Served, is_known: bool) -> None:
    await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    if is_known:
        reader, writer = await _met(served)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    before = len(served.double.calls)
    refused = 2 * ANSWERS_AT_ONCE_MAX
    writer.write(REFUSED * refused + CLAIM + PAGE + REFUSED + PAGE)
    assert await _statuses(reader, refused + 4) == [*[404] * refused, 200, 200, 404, 200]
    assert len(served.double.calls) == before + 1
    writer.close()


async def test_stranger_is_refused_one_request_a_turn(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    began = asyncio.get_running_loop().time()
    writer.write(REFUSED * 2)
    assert await _statuses(reader, 2) == [404, 404]
    writer.write(REFUSED * 4)
    assert await _statuses(reader, 4) == [404] * 4
    assert asyncio.get_running_loop().time() - began >= 5 * 0.2
    writer.close()


async def test_known_client_does_not_stand_in_line(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    reader, writer = await _met(served)
    size = 2 * 1024 * 1024
    writer.write(b"POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    writer.write(REFUSED * 20 + PAGE)
    assert await _statuses(reader, 22) == [*[404] * 21, 200]
    writer.close()


async def test_page_that_says_no_is_no_refusal(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    served.is_ready[0] = False
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(PAGE.replace(b"healthz", b"readyz") * 3)
    assert await _statuses(reader, 3) == [503] * 3
    writer.close()


async def test_end_of_a_client_in_line_is_noticed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(REFUSED)
    assert await _statuses(reader, 1) == [404]
    assert served.server.connections == 1
    writer.close()
    await until(lambda: served.server.connections == 0)


async def test_stop_waits_for_nobody_in_line(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(REFUSED * 3)
    assert await _statuses(reader, 1) == [404]
    await asyncio.wait_for(served.server.stop(NEVER), 10)
    assert await _statuses(reader, 1) == [404]
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
