"""HTTP/1.1 on one connection: order, framing, malformed requests, and clients that close one side."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from codeq_gateway import connection, request_parser, routes, server
from codeq_gateway.app import CLIENT_CLOSED_STATUS
from codeq_gateway.connection import Connection
from codeq_gateway.connections import Connections
from served_gateway import Served, until

CLAIM = b"POST /v1/codeq/tasks/claim HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
CREATE_HEAD = b"POST /v1/codeq/tasks HTTP/1.1\r\nHost: h\r\n"


def _create(command: str) -> bytes:
    body = json.dumps({"command": command}).encode()
    return b"%bContent-Length: %d\r\n\r\n%b" % (CREATE_HEAD, len(body), body)


def _replies(answer: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Returns status, headers and body of every reply in the bytes of a connection."""
    replies = []
    while answer:
        head, found, answer = answer.partition(b"\r\n\r\n")
        assert found
        lines = head.decode().split("\r\n")
        assert lines[0].startswith("HTTP/1.1 ")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        size = int(headers.get("content-length", 0))
        assert len(answer) >= size
        replies.append((int(lines[0].split(" ")[1]), headers, answer[:size]))
        answer = answer[size:]
    return replies


class _Recorder(asyncio.Transport):
    """Records everything that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    commands = [f"c{number}" for number in range(200)]
    requests = b"".join(_create(command) + b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n" for command in commands)
    replies = _replies(await served.exchange(requests + LAST))
    assert [status for status, _, _ in replies] == [202, 404] * 200 + [200]
    assert [json.loads(body)["command"] for _, _, body in replies[:-1:2]] == commands
    assert [call.method.rpartition("/")[2] for call in served.double.calls] == ["CreateTask"] * 200


async def test_second_request_on_a_connection_waits_for_the_first(served: Served) -> None:
    served.double.hold = True
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM + HEALTH + LAST)
    await served.double.waiting.wait()
    assert await served.http.get("/healthz")  # other connections are served
    assert len(served.lines) == 1
    served.double.released.set()
    assert [status for status, _, _ in _replies(await asyncio.wait_for(reader.read(), 10))] == [204, 200, 200]
    writer.close()


async def test_connection_is_not_read_while_requests_are_waiting(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.double.hold = True
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM + HEALTH)
    await served.double.waiting.wait()
    await until(lambda: all(not c._transport.is_reading() for c in served.server._connections))
    writer.close()


async def test_at_most_one_request_is_read_before_its_turn(served: Served) -> None:
    served.double.hold = True
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM + HEALTH * 5_000 + LAST)
    await served.double.waiting.wait()
    (standing,) = served.server._connections
    assert len(standing._pipeline) == 2
    served.double.released.set()
    replies = _replies(await asyncio.wait_for(reader.read(), 60))
    assert [status for status, _, _ in replies] == [204] + [200] * 5_001
    writer.close()


@pytest.mark.parametrize("seed", range(8))
async def test_requests_are_parsed_however_they_are_split(served: Served, seed: int) -> None:
    chunked = (
        CREATE_HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n7;x=y\r\n"
        + b'{"comma\r\n8\r\nnd":"d"}\r\n0\r\nX-T: 1\r\n\r\n'
    )
    sent = _create("c") + chunked + b"\r\n" + HEALTH + LAST
    rng = random.Random(seed)
    received, transport = Connection(served.server.gateway, Connections()), _Recorder()
    received.connection_made(transport)
    while sent:
        size = rng.randint(1, 40)
        received.data_received(sent[:size])
        sent = sent[size:]
    await until(transport.is_closing)
    replies = _replies(bytes(transport.written))
    assert [status for status, _, _ in replies] == [202, 202, 200, 200]
    assert [json.loads(body)["command"] for _, _, body in replies[:2]] == ["c", "d"]


async def test_trailers_do_not_become_headers_of_the_next_request(served: Served) -> None:
    chunked = CREATE_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Request-Id: trailer\r\n\r\n"
    replies = _replies(await served.exchange(chunked + LAST))
    assert [headers["x-request-id"] == "trailer" for _, headers, _ in replies] == [False, False]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz\r\n\r\n",
        b"GET /healthz HTTP/1.1\nHost: h\n\n",
        b"GET /healthz HTTP/1.1\r\nHo st: h\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : h\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX: a\r\n folded\r\n\r\n",
        b"GET nowhere HTTP/1.1\r\n\r\n",
        CREATE_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        CREATE_HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        CREATE_HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        CREATE_HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
        CREATE_HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n{}",
        CREATE_HEAD + b"Content-Length: +2\r\n\r\n{}",
        CREATE_HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        CREATE_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        CREATE_HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}zz",
    ],
)
async def test_malformed_request_is_rejected_and_closes_the_connection(served: Served, request_bytes: bytes) -> None:
    (status, headers, body), *others = _replies(await served.exchange(request_bytes + HEALTH))
    assert (status, headers["connection"], json.loads(body)["reason"]) == (400, "close", "INVALID_BODY")
    assert others == []
    assert served.double.calls == []


async def test_malformed_bytes_after_a_request_are_rejected_after_its_reply(served: Served) -> None:
    served.double.hold = True
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM + b"nonsense\r\n\r\n")
    await served.double.waiting.wait()
    served.double.released.set()
    assert [status for status, _, _ in _replies(await asyncio.wait_for(reader.read(), 10))] == [204, 400]
    writer.close()


async def test_input_after_the_final_request_is_ignored(served: Served) -> None:
    assert [status for status, _, _ in _replies(await served.exchange(LAST + CLAIM))] == [200]
    assert [status for status, _, _ in _replies(await served.exchange(LAST + b"nonsense\r\n\r\n"))] == [200]
    assert served.double.calls == []


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0\r\n\r\n",
        b"HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    ],
)
async def test_connection_without_keep_alive_is_closed_after_the_reply(served: Served, head: bytes) -> None:
    ((status, headers, _),) = _replies(await served.exchange(b"GET /healthz " + head))
    assert (status, headers["connection"]) == (200, "close")


async def test_upgrade_header_is_ignored(served: Served) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    created = CREATE_HEAD + upgrade + b'Content-Length: 15\r\n\r\n{"command":"c"}'
    (status, headers, _), _ = _replies(await served.exchange(created + LAST))
    assert (status, "connection" in headers) == (202, False)


async def test_absolute_request_target_is_accepted(served: Served) -> None:
    get = b"GET http://h:80/v1/codeq/admin/queues?pageSize=2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    ((status, _, _),) = _replies(await served.exchange(get))
    assert status == 200
    assert served.double.requests[0].page_size == 2


async def test_head_reply_has_no_body(served: Served) -> None:
    answer = await served.exchange(b"HEAD /v1/codeq/tasks/none HTTP/1.1\r\nHost: h\r\n\r\n" + LAST)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert rest.startswith(b"HTTP/1.1 200 ")


async def test_reply_has_date_and_request_id_headers(served: Served) -> None:
    answers = [await served.http.get("/healthz") for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert [len(text) for text in ids] == [32, 32]
    age = datetime.now(UTC) - parsedate_to_datetime(answers[0].headers["date"])
    assert timedelta(0) <= age < timedelta(seconds=30)


@pytest.mark.parametrize("sent", [b"a\tb", b"a\x80", b"a b", b"a" * 129])
async def test_malformed_request_id_is_not_echoed(served: Served, sent: bytes) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Request-Id: %b\r\nConnection: close\r\n\r\n" % sent
    ((status, headers, _),) = _replies(await served.exchange(get))
    assert (status, len(headers["x-request-id"])) == (200, 32)


async def test_half_closed_client_gets_a_reply_that_is_ready_soon(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HALF_CLOSED_SECONDS", 10)
    served.double.hold = True
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(_create("c"))
    writer.write_eof()
    await until(lambda: any(c._ignores_input for c in served.server._connections))
    served.double.released.set()
    ((status, headers, _),) = _replies(await asyncio.wait_for(reader.read(), 10))
    assert (status, headers["connection"]) == (202, "close")
    writer.close()


async def test_half_closed_client_cannot_hold_a_long_poll_open(served: Served) -> None:
    served.double.hold = True
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CLAIM)
    writer.write_eof()
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    await until(lambda: len(served.lines) == 1)
    assert served.lines[0][2] == CLIENT_CLOSED_STATUS
    await until(lambda: served.double.cancelled == 1)
    writer.close()


async def test_client_that_half_closes_within_a_request_is_disconnected(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CREATE_HEAD + b"Content-Length: 9\r\n\r\n{")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert [status for _, _, status, _ in served.lines] == [CLIENT_CLOSED_STATUS]
    writer.close()


async def test_slowly_sent_request_does_not_keep_a_connection_open(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.02)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
    await until(lambda: served.server.connections == 1)

    def is_cut_off() -> bool:
        writer.write(b"x")
        return not served.server.connections

    await until(is_cut_off)
    with suppress(ConnectionError):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_idle_connection_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 100.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(HEALTH)
    with suppress(ConnectionResetError):
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 ")
    await until(lambda: not served.server.connections)
    writer.close()


async def test_endless_trailer_is_rejected(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CREATE_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-T: ")
    for _ in range(8):
        writer.write(b"x" * (request_parser.HEAD_BYTES_MAX // 4))
        await writer.drain()
    with suppress(ConnectionResetError):
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 431 ")
    await until(lambda: not served.server.connections)
    writer.close()


async def test_client_that_does_not_read_gets_no_further_replies(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 1.0)
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 1.0)
    payload = b'{"command":"c","payload":"' + b"x" * 1_000_000 + b'"}'
    create = CREATE_HEAD + b"Content-Length: %d\r\n\r\n" % len(payload) + payload
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    sender = asyncio.create_task(_send_all(writer, create * 40))
    await until(lambda: not served.server.connections)  # its time to read a reply has run out
    with suppress(ConnectionError):
        await sender
    assert len(served.double.calls) < 40
    assert len(reader._buffer) < 10 * 1_000_000  # type: ignore[attr-defined]
    writer.close()


async def test_client_that_reads_slowly_gets_every_reply(served: Served) -> None:
    payload = b'{"command":"c","payload":"' + b"x" * 500_000 + b'"}'
    create = CREATE_HEAD + b"Content-Length: %d\r\n\r\n" % len(payload) + payload
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    sender = asyncio.create_task(_send_all(writer, create * 20 + LAST))
    await until(lambda: any(not c._is_writable for c in served.server._connections))
    replies = _replies(await asyncio.wait_for(reader.read(), 20))
    assert [status for status, _, _ in replies] == [202] * 20 + [200]
    await sender
    writer.close()


async def test_rejection_of_a_body_reaches_a_client_that_closes_afterwards(served: Served) -> None:
    size = routes.BODY_BYTES_MAX + 1
    head = CREATE_HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    await _send_all(writer, head + b" " * size)
    ((status, headers, _),) = _replies(await asyncio.wait_for(reader.read(), 10))
    assert (status, headers["connection"]) == (413, "close")
    writer.close()


async def test_shutdown_rejects_a_request_whose_body_never_arrives(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(CREATE_HEAD + b"Content-Length: 9\r\n\r\n{")
    await until(lambda: any(c._incoming is not None for c in served.server._connections))
    await asyncio.wait_for(served.server.stop(0.05), 20)
    ((status, _, body),) = _replies(await asyncio.wait_for(reader.read(), 20))
    assert (status, json.loads(body)["reason"]) == (503, "DRAINING")
    writer.close()


async def _send_all(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), 65_536):
        writer.write(data[start : start + 65_536])
        await writer.drain()
