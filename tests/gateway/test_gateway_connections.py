"""Connections: clients that leave, are slow or send too much; a server that starts and stops."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from codeq_gateway import bodies, connection, heads, request_parser, routes
from codeq_gateway.app import CLIENT_CLOSED_STATUS
from codeq_gateway.server import GatewayServer
from served_gateway import Served, until

CLAIM = b"POST /v1/codeq/tasks/claim HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
MIB = 1024 * 1024


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Returns status and body of the next reply of a connection."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
    return int(head.split(" ")[1]), await reader.readexactly(int(length.partition(":")[2]))


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Sends bytes as fast as they are accepted."""
    for start in range(0, len(data), 65_536):
        writer.write(data[start : start + 65_536])
        await writer.drain()


async def test_disconnected_client_cancels_its_call(served: Served) -> None:
    served.double.hold = True
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM)
    await asyncio.wait_for(served.double.waiting.wait(), 10)
    writer.close()
    await until(lambda: served.double.cancelled == 1)
    await until(lambda: len(served.lines) == 1)
    assert served.lines[0][:3] == ("POST", "/v1/codeq/tasks/claim", CLIENT_CLOSED_STATUS)


async def test_disconnect_during_a_request_is_logged(served: Served) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n{")
    await writer.drain()
    await until(lambda: served.server.connections == 1)
    writer.close()
    await until(lambda: len(served.lines) == 1)
    assert served.lines[0][2] == CLIENT_CLOSED_STATUS
    assert served.double.calls == []


async def test_timed_out_call_is_cancelled_and_reported(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "CALL_SECONDS", 0.1)
    served.double.hold = True
    answer = await served.http.post("/v1/codeq/tasks/claim", json={})
    assert (answer.status_code, answer.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
    await until(lambda: served.double.cancelled == 1)


@pytest.mark.parametrize(("path", "limit"), [("/v1/codeq/tasks", MIB), ("/v1/codeq/tasks/batch", 8 * MIB)])
async def test_body_announced_as_too_large_is_rejected_before_it_is_sent(served: Served, path: str, limit: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    size = limit + 64 * 1024 + 1
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (path.encode(), size)
    )
    status, body = await _answer(reader)
    assert (status, json.loads(body)["reason"]) == (413, "TOO_LARGE")
    assert await asyncio.wait_for(reader.read(), 10) == b""  # the server cannot know whether the body will still arrive
    assert served.double.calls == []
    writer.close()


async def test_discard_limit_applies_to_each_rejected_body(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    size = routes.BODY_BYTES_MAX + 1
    monkeypatch.setattr(connection, "DISCARD_BYTES_MAX", size)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(3):
        writer.write(b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        assert (await _answer(reader))[0] == 413
        await _send(writer, b" " * size)
    writer.close()


async def test_body_of_unknown_length_is_rejected_once_it_exceeds_the_limit(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    await _send(writer, piece * 18)
    status, body = await _answer(reader)
    assert (status, json.loads(body)["reason"]) == (413, "TOO_LARGE")
    with pytest.raises(ConnectionError):  # a sender that never stops is disconnected
        await _send(writer, piece * 1_000)
    writer.close()


@pytest.mark.parametrize(("extra", "status"), [(0, 202), (1, 413)])
async def test_body_at_the_limit_is_accepted(served: Served, extra: int, status: int) -> None:
    body = b'{"command":"c","payload":1}'
    body += b" " * (routes.BODY_BYTES_MAX + extra - len(body))
    assert (await served.http.post("/v1/codeq/tasks", content=body)).status_code == status


async def test_bodies_in_flight_share_a_memory_limit(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"command":"c"' + b" " * 200_000 + b"}"
    monkeypatch.setattr(bodies, "HELD_BYTES_MAX", 100_000)
    first, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
    await _send(writer, body[:90_000])
    await until(lambda: served.server.gateway.bodies.held == 90_000)
    refused = b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n" + b" " * 50_000
    second, other = await asyncio.open_connection("127.0.0.1", served.port)
    other.write(refused)
    status, answer = await _answer(second)
    assert (status, json.loads(answer)["reason"]) == (429, "LIMIT_REACHED")
    other.close()
    monkeypatch.undo()
    await _send(writer, body[90_000:])
    assert (await _answer(first))[0] == 202
    assert (await served.http.post("/v1/codeq/tasks", content=body)).status_code == 202
    assert served.server.gateway.bodies.held == 0
    writer.close()


async def test_expect_continue_is_honoured_for_a_body_within_the_limit(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert (await _answer(reader))[0] == 202
    writer.close()


async def test_pipelined_calls_are_answered_in_order(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    create = b'POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 15\r\n\r\n{"command":"c"}'
    writer.write(create + CLAIM + b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n")
    assert [(await _answer(reader))[0] for _ in range(3)] == [202, 200, 404]
    writer.close()


async def test_bytes_that_are_not_http_are_rejected_and_close_the_connection(served: Served) -> None:
    answer = await served.exchange(b"\x16\x03\x01 hello\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["reason"] == "INVALID_BODY"


async def test_endless_request_head_is_rejected(served: Served) -> None:
    start = b"GET /healthz HTTP/1.1\r\nX-Long: "
    answer = await served.exchange(start + b"x" * (request_parser.HEAD_BYTES_MAX + 1 - len(start)))
    assert answer.startswith(b"HTTP/1.1 431 ")


async def test_too_many_headers_are_rejected(served: Served) -> None:
    headers = b"X: y\r\n" * (heads.HEADERS_MAX + 1)
    assert (await served.exchange(b"GET /healthz HTTP/1.1\r\n%b\r\n" % headers)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_connection_without_a_request_times_out(
    served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.1)
    with suppress(ConnectionResetError):  # how an aborted connection may look
        assert await served.exchange(sent) == b""
    await until(lambda: not served.server.connections)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HT",
        b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{",
        b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
    ],
)
async def test_incomplete_request_times_out_with_408(
    served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.1)
    head, _, body = (await served.exchange(sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["reason"] == "REQUEST_TIMEOUT"
    await until(lambda: not served.server.connections)


async def test_request_timeout_excludes_the_time_of_its_call(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.1)
    served.double.hold = True
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM[:-1])
    await writer.drain()
    writer.write(CLAIM[-1:])
    await served.double.waiting.wait()
    assert await served.exchange(b"") == b""  # this silent connection opened later and has timed out
    served.double.released.set()
    assert (await reader.readline()).startswith(b"HTTP/1.1 204 ")
    writer.close()


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
CREATE = b'POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 27\r\n\r\n{"command":"c","payload":1}'


@asynccontextmanager
async def bounded(served: Served) -> AsyncIterator[tuple[GatewayServer, int]]:
    """Serves the gateway once more, with one connection at a time; yields the server and its port."""
    server = GatewayServer(served.server.gateway, "127.0.0.1", 0, connections_max=1)
    port = await server.start()
    yield server, port
    await server.stop(1)


async def test_new_connection_is_closed_when_authenticated_ones_fill_the_limit(served: Served) -> None:
    async with bounded(served) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CREATE)
        assert (await _answer(reader))[0] == 202
        late, other = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionResetError):  # how an aborted connection may look
            assert await asyncio.wait_for(late.read(), 10) == b""
        other.close()
        writer.write(CREATE)
        assert (await _answer(reader))[0] == 202
        writer.close()


@pytest.mark.parametrize("said", [b"", HEALTH, CREATE[:-1], b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n"])
async def test_stranger_is_evicted_at_the_connection_limit(served: Served, said: bytes) -> None:
    async with bounded(served) as (server, port):
        stranger, first = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: server.connections == 1)
        first.write(said)
        if said.endswith(b"\r\n\r\n"):
            await _answer(stranger)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CREATE)
        assert (await _answer(reader))[0] == 202
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(stranger.read(), 10) == b""
        assert server.connections == 1
        first.close()
        writer.close()


async def test_connection_with_a_running_call_is_not_evicted(served: Served) -> None:
    served.double.hold = True
    async with bounded(served) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CLAIM)
        await served.double.waiting.wait()
        late, other = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(late.read(), 10) == b""
        other.close()
        served.double.released.set()
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 204 ")
        writer.close()


async def test_unfinished_request_head_does_not_count_against_the_body_limit(served: Served) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    await _send(writer, b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\nx: " + b"a" * 50_000)
    await until(lambda: served.server.connections == 1)
    writer.close()
    await until(lambda: served.server.connections == 0)
    assert served.server.gateway.bodies.held == 0


async def test_consecutive_rejected_requests_yield_to_other_connections(served: Served) -> None:
    count = 500
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    reading = asyncio.create_task(reader.read(-1))
    last = b"GET /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n" * (count - 1) + last)
    most = answered = 0
    async with asyncio.timeout(20):
        while answered < count:
            await asyncio.sleep(0)
            most, answered = max(most, len(served.lines) - answered), len(served.lines)
        assert (await reading).count(b"HTTP/1.1 404 ") == count
    assert most <= 2
    writer.close()


async def test_shutdown_lets_running_calls_finish_and_rejects_new_ones(served: Served) -> None:
    served.double.hold = True
    running = asyncio.create_task(served.http.post("/v1/codeq/tasks", json={"command": "c"}))
    await served.double.waiting.wait()
    stopping = asyncio.create_task(served.server.stop(50))
    await until(lambda: _is_refused(served.port))
    served.double.released.set()
    answer = await running
    assert (answer.status_code, answer.headers["connection"]) == (202, "close")
    await asyncio.wait_for(stopping, 20)
    assert not served.server.connections


async def test_shutdown_cancels_calls_after_the_grace_period(served: Served) -> None:
    served.double.hold = True
    running = asyncio.create_task(served.http.post("/v1/codeq/tasks/claim", json={}))
    await served.double.waiting.wait()
    await asyncio.wait_for(served.server.stop(0.05), 20)
    answer = await running
    assert (answer.status_code, answer.json()["reason"]) == (503, "DRAINING")
    assert answer.headers["retry-after"] == "1"
    await until(lambda: served.double.cancelled == 1)


async def test_shutdown_closes_idle_connections_at_once(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    await until(lambda: served.server.connections == 1)
    await served.server.stop(10)
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    await served.server.stop(1)  # a second time does nothing


async def test_error_for_a_port_in_use_names_its_address(served: Served) -> None:
    other = GatewayServer(served.server.gateway, "127.0.0.1", served.port)
    with pytest.raises(OSError, match=f"127.0.0.1:{served.port}"):
        await other.start()
    await other.stop(1)


async def test_unresolvable_host_is_reported(served: Served) -> None:
    with pytest.raises(OSError, match=r"nowhere\.invalid:0"):
        await GatewayServer(served.server.gateway, "nowhere.invalid", 0).start()


def _is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
