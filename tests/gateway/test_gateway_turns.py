"""Strangers wait their turn after a rejection: in order, one request at a time, using no memory and delaying nobody."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from codeq.v1 import error_pb2
from codeq_gateway import connections as turns
from codeq_gateway.connection import ANSWERS_AT_ONCE_MAX
from codeq_gateway.connections import TURNS_AT_ONCE, Connections
from codeq_gateway.dispatch import CallFailed
from served_gateway import Served, until

BODY_BYTES = 8 * 1024 * 1024
PIECES = 8
NEVER = 3600.0
STRANGERS = 20
STRANGER_BYTES = 1024 * 1024
REFUSED = b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n"
PAGE = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
CLAIM = b"POST /v1/codeq/tasks/claim HTTP/1.1\r\nHost: h\r\n\r\n"
"""A successful request without a body."""


class _Open:
    def abort(self) -> None:
        """Does nothing."""


async def _next(went: asyncio.Queue[int]) -> list[int]:
    """Returns the connections that continue at the next turn."""
    return [await went.get(), *(went.get_nowait() for _ in range(went.qsize()))]


async def test_waiting_connections_continue_in_order_of_arrival() -> None:
    connections: Connections[_Open] = Connections()
    went: asyncio.Queue[int] = asyncio.Queue()
    for number in range(2 * TURNS_AT_ONCE):
        connections.wait_turn(_Open(), partial(went.put_nowait, number))
    assert went.empty()
    assert await _next(went) == list(range(TURNS_AT_ONCE))
    assert await _next(went) == list(range(TURNS_AT_ONCE, 2 * TURNS_AT_ONCE))


async def test_closed_connection_loses_its_turn() -> None:
    connections: Connections[_Open] = Connections()
    went: asyncio.Queue[int] = asyncio.Queue()
    gone, there = _Open(), _Open()
    connections.wait_turn(gone, partial(went.put_nowait, 1))
    connections.wait_turn(there, partial(went.put_nowait, 2))
    connections.discard(gone)
    assert await _next(went) == [2]


async def test_other_clients_are_served_while_a_rejected_body_is_discarded(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.transport.set_write_buffer_limits(0)
    writer.write(f"POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_BYTES}\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
    for _ in range(PIECES):
        writer.write(bytes(BODY_BYTES // PIECES))
        await writer.drain()
        answer = await served.http.post("/v1/codeq/tasks", json={"command": "c"})
        assert answer.status_code == 202
    writer.close()


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


@pytest.mark.parametrize("is_authenticated", [False, True])
async def test_requests_after_rejected_ones_are_executed_exactly_once(served: Served, is_authenticated: bool) -> None:
    await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    if is_authenticated:
        reader, writer = await _met(served)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    before = len(served.double.calls)
    refused = 2 * ANSWERS_AT_ONCE_MAX
    writer.write(REFUSED * refused + CLAIM + PAGE + REFUSED + PAGE)
    assert await _statuses(reader, refused + 4) == [*[404] * refused, 200, 200, 404, 200]
    assert len(served.double.calls) == before + 1
    writer.close()


async def test_stranger_gets_one_rejection_per_turn(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    began = asyncio.get_running_loop().time()
    writer.write(REFUSED * 2)
    assert await _statuses(reader, 2) == [404, 404]
    writer.write(REFUSED * 4)
    assert await _statuses(reader, 4) == [404] * 4
    assert asyncio.get_running_loop().time() - began >= 5 * 0.2
    writer.close()


async def test_authenticated_client_does_not_wait_for_turns(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    reader, writer = await _met(served)
    size = 2 * 1024 * 1024
    writer.write(b"POST /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    writer.write(REFUSED * 20 + PAGE)
    assert await _statuses(reader, 22) == [*[404] * 21, 200]
    writer.close()


async def test_readiness_failure_does_not_count_as_a_rejection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    served.is_ready[0] = False
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(PAGE.replace(b"healthz", b"readyz") * 3)
    assert await _statuses(reader, 3) == [503] * 3
    writer.close()


async def test_disconnect_of_a_waiting_client_is_detected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(REFUSED)
    assert await _statuses(reader, 1) == [404]
    assert served.server.connections == 1
    writer.close()
    await until(lambda: served.server.connections == 0)


async def test_shutdown_does_not_wait_for_queued_clients(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(REFUSED * 3)
    assert await _statuses(reader, 1) == [404]
    await asyncio.wait_for(served.server.stop(NEVER), 10)
    assert await _statuses(reader, 1) == [404]
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


@pytest.mark.parametrize("when", ["by its head", "while its body arrives"])
async def test_rejected_body_uses_no_memory_while_its_sender_waits(
    served_inside: Served, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", NEVER)
    rejection = CallFailed(error_pb2.ERROR_REASON_UNAUTHENTICATED, "invalid token")

    async def reject() -> None:
        raise rejection

    if when == "by its head":
        served_inside.double.refuses = rejection
    else:
        served_inside.double.admission = reject
    request = b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % STRANGER_BYTES
    writers = []
    for _ in range(STRANGERS):
        reader, writer = await asyncio.open_connection("127.0.0.1", served_inside.port)
        writer.write(request + bytes(STRANGER_BYTES))
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writers.append(writer)
    strangers = list(served_inside.server._connections)
    assert len(strangers) == STRANGERS
    await until(lambda: all(one._is_waiting and not one._transport.is_reading() for one in strangers))
    assert [one._parser.unread_bytes + sum(map(len, one._pieces)) for one in strangers] == [0] * STRANGERS
    assert strangers[0]._gateway.bodies.held == 0
    for writer in writers:
        writer.close()
