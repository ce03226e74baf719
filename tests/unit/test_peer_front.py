"""The port for other nodes: passes each connection to the process of its group, and keeps strangers within bounds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
from codeq_server.config import Address
from codeq_server.node import peer_front
from codeq_server.node.peer_front import PeerFront
from codeq_server.replication.raft.routes import ACCEPTED, HEAD_BYTES_MAX, BadHeadError, Route, Service, read_head
from structlog.testing import capture_logs

GROUPS = 2
HOST = "127.0.0.1"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

pytestmark = pytest.mark.timeout(30)


def head(group: int, groups: int = GROUPS, service: Service = "raft") -> bytes:
    """Returns the head that gRPC sends for a route."""
    target, _ = Route(group, groups, service).to("host-b:7000")
    return f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: grpc-httpcli/0.0\r\n\r\n".encode()


@asynccontextmanager
async def front(tunnels_max: int = 100) -> AsyncIterator[int]:
    """Yields the port of a front before processes that first send who they are, and then what they receive."""

    async def serve(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{name}:".encode())
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write(b"|end")
        writer.close()
        await writer.wait_closed()

    names = [f"{service}{group}" for service in ("raft", "calls") for group in range(GROUPS)]
    servers = [
        await asyncio.start_server(lambda r, w, name=name: serve(name, r, w), HOST, 0)  # type: ignore[misc]
        for name in names
    ]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    opened = PeerFront({"raft": ports[:GROUPS], "calls": ports[GROUPS:]}, tunnels_max)
    try:
        yield await opened.start(Address(HOST, 0))
    finally:
        opened.stop()
        for server in servers:
            server.close()
            await server.wait_closed()


async def exchange(port: int, *parts: bytes) -> bytes:
    """Sends parts one after the other, half-closes, and returns all that is received."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
            await writer.drain()
        writer.write_eof()
        return await reader.read()
    except OSError:  # the other side has closed the connection, with or without a reset
        return b""
    finally:
        writer.close()


async def test_connection_reaches_the_process_of_its_group() -> None:
    async with front() as port:
        for group in range(GROUPS):
            assert await exchange(port, head(group), b"hello") == ACCEPTED + f"raft{group}:hello|end".encode()
            calls = await exchange(port, head(group, service="calls"))
            assert calls == ACCEPTED + f"calls{group}:|end".encode()


async def test_head_may_arrive_byte_by_byte_and_with_what_follows() -> None:
    async with front() as port:
        one_by_one = [bytes([byte]) for byte in head(1)]
        assert await exchange(port, *one_by_one, b"x") == ACCEPTED + b"raft1:x|end"
        assert await exchange(port, head(1) + b"\x16\x03tls") == ACCEPTED + b"raft1:\x16\x03tls|end"


async def test_much_is_passed_on_in_both_directions() -> None:
    async with front() as port:
        content = bytes(range(256)) * (1 << 15)
        assert await exchange(port, head(0), content) == ACCEPTED + b"raft0:" + content + b"|end"


@pytest.mark.parametrize(
    "said",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        head(GROUPS, GROUPS + 1),
        head(0, GROUPS + 1),
        head(0).replace(b"00000000", b"0000000z"),
        head(0).replace(b"raft", b"rows"),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"x" * (HEAD_BYTES_MAX + 1),
        head(0)[:-2] + b"X: " + b"x" * HEAD_BYTES_MAX + b"\r\n\r\n",
    ],
)
async def test_connection_without_a_group_of_this_node_is_closed(said: bytes) -> None:
    async with front() as port:
        assert await exchange(port, said) == b""
        assert await exchange(port, head(0)) == ACCEPTED + b"raft0:|end"


async def test_silent_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_front, "HEAD_SECONDS", 0.05)
    async with front() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        assert await reader.read() == b""
        writer.close()


async def test_log_says_whether_the_caller_or_the_process_was_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_front, "HEAD_SECONDS", 0.05)
    with silent_process() as port:
        opened = PeerFront({"raft": [port] * GROUPS, "calls": [port] * GROUPS})
        at = await opened.start(Address(HOST, 0))
        with capture_logs() as logs:
            for said in (b"", head(0)):
                reader, writer = await asyncio.open_connection(HOST, at)
                writer.write(said)
                assert await reader.read() == b""
                writer.close()
        opened.stop()
    assert [line["reason"] for line in logs] == [
        "it did not name a group within 0.05 s",
        "the process of its group did not accept it within 0.05 s",
    ]


@contextmanager
def silent_process() -> Iterator[int]:
    """Yields a port at which connections wait for ever: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_silent_connections_keep_nobody_out() -> None:
    async with front(tunnels_max=peer_front.HEADLESS_MAX + 1) as port:
        silent = [await asyncio.open_connection(HOST, port) for _ in range(peer_front.HEADLESS_MAX + 1)]
        try:
            assert await exchange(port, head(0)) == ACCEPTED + b"raft0:|end"
            assert await silent[0][0].read() == b""
        finally:
            for _, writer in silent:
                writer.close()


async def test_connections_beyond_the_limit_are_closed_at_once_and_logged_once() -> None:
    async with front(tunnels_max=1) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(head(0))
        assert await reader.readexactly(len(ACCEPTED)) == ACCEPTED
        with capture_logs() as logs:
            for _ in range(2):
                assert await exchange(port, head(0)) == b""
        assert [line["reason"] for line in logs] == ["1 connections of other nodes are open, the limit"]
        writer.close()
        await reader.read()
        while (answer := await exchange(port, head(0))) == b"":  # noqa: ASYNC110 - until the front sees the end
            await asyncio.sleep(0)
        assert answer == ACCEPTED + b"raft0:|end"


async def test_process_that_does_not_run_ends_the_connection() -> None:
    opened = PeerFront({"raft": [1, 1], "calls": [1, 1]})
    port = await opened.start(Address(HOST, 0))
    assert await exchange(port, head(0)) == b""
    opened.stop()


def test_route_names_group_and_node() -> None:
    target, options = Route(258, 300, "calls").to("[::1]:7000")
    assert target == "calls-00000102-of-0000012c.codeq-node:7000"
    assert dict(options)["grpc.ssl_target_name_override"] == "::1"
    assert dict(options)["grpc.http_proxy"] == "http://[::1]:7000"
    assert read_head(head(258, 300, "calls"), 300) == Route(258, 300, "calls")
    with pytest.raises(BadHeadError, match="group 0 of 3, but numShards is 2 here"):
        read_head(head(0, 3), 2)
