"""The gateway's TLS layer: bounds of handshakes, and how they mix with the limits of connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from authority import Authority, Files
from codeq_gateway import tls
from served_gateway import Served, serving, until

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
OPEN_HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Authority().files(tmp_path)


def server_context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def client_context(files: Files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=files.ca)


@asynccontextmanager
async def secured(files: Files, **further: int) -> AsyncIterator[Served]:
    context = server_context(files)
    async with serving(tls=lambda: context, connections_max=further.get("connections_max", 100)) as served:
        yield served


async def healthy(served: Served, files: Files) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=client_context(files))
    writer.write(HEALTH)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.startswith(b"HTTP/1.1 200")


async def ended(reader: asyncio.StreamReader) -> bool:
    """Returns whether the server closes the connection without a byte."""
    try:
        return await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionResetError:
        return True


async def test_silent_client_is_closed_after_the_time_for_a_handshake(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.2)
    async with secured(files) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"\x16\x03\x01")  # the beginning of a hello
        assert await ended(reader)
        writer.close()
        assert served.server.handshakes.failures == {"timeout": 1}
        await until(lambda: served.server.connections == 0)
        assert await healthy(served, files)


async def test_handshake_beyond_the_limit_evicts_the_oldest(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKES_MAX", 2)
    async with secured(files) as served:
        strangers = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(4)]
        for reader, _ in strangers[:2]:
            assert await ended(reader)
        assert len(served.server.handshakes) == 2
        assert served.server.handshakes.failures == {"evicted": 2}
        assert await healthy(served, files)
        for _, writer in strangers:
            writer.close()


async def test_connection_beyond_the_limit_evicts_the_stranger_that_has_been_silent_longest(files: Files) -> None:
    async with secured(files, connections_max=3) as served:
        shaken = await asyncio.open_connection("127.0.0.1", served.port, ssl=client_context(files))
        silent = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        assert await ended(shaken[0])
        await until(lambda: served.server.connections == 3)
        assert await healthy(served, files)
        assert await ended(silent[0][0])
        for _, writer in (shaken, *silent):
            writer.close()


async def test_many_handshakes_at_once_all_succeed_in_turns(files: Files) -> None:
    async with secured(files) as served:
        assert all(await asyncio.gather(*(healthy(served, files) for _ in range(8 * tls.HELLOS_AT_ONCE))))
        assert served.server.handshakes.completed == 8 * tls.HELLOS_AT_ONCE


async def test_request_that_comes_with_the_end_of_the_handshake_is_answered(files: Files) -> None:
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(files).wrap_bio(received, sent, server_hostname="localhost")
    async with secured(files) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                writer.write(sent.read())
                received.write(await asyncio.wait_for(reader.read(65_536), 10))
            else:
                break
        client.write(HEALTH)
        writer.write(sent.read())  # the end of the handshake and the request, in one piece
        received.write(await asyncio.wait_for(reader.read(), 10))
        assert client.read(65_536).startswith(b"HTTP/1.1 200")
        assert client.read(65_536) == b""  # the server has announced its end
        writer.close()


class Client:
    """A client that decides what goes into a record."""

    def __init__(self, files: Files) -> None:
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = client_context(files).wrap_bio(self._received, self._sent, server_hostname="localhost")

    async def connect(self, port: int) -> Client:
        """Completes the handshake."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.writer.write(self._sent.read())
                self._received.write(await asyncio.wait_for(self.reader.read(65_536), 10))
            else:
                return self

    def records(self, *contents: bytes) -> bytes:
        """Returns records with these contents, encrypted."""
        for content in contents:
            self._tls.write(content)
        return self._sent.read()

    async def read(self) -> bytes:
        """Returns what the server sends until it ends the connection."""
        content = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            self._received.write(await asyncio.wait_for(self.reader.read(), 20))
            while piece := self._tls.read(1 << 20):
                content += piece
        return content


@pytest.mark.parametrize("size", [1, 10])
async def test_client_whose_records_have_next_to_no_content_is_cut_off(files: Files, size: int) -> None:
    async with secured(files) as served:
        client = await Client(files).connect(served.port)
        head = client.records(OPEN_HEALTH[:-2] + b"X: ", *[b"x" * size] * (tls.THIN_BYTES_MAX // 10))
        client.writer.write(head + client.records(HEALTH))
        assert await client.read() == b""
        client.writer.close()
        assert await healthy(served, files)


async def test_client_whose_small_records_alternate_with_larger_ones_is_served(files: Files) -> None:
    count = tls.THIN_BYTES_MAX // 20
    large = b"/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 60
    async with secured(files) as served:
        client = await Client(files).connect(served.port)
        reading = asyncio.ensure_future(client.read())
        for _ in range(count):
            client.writer.write(client.records(b"GET", b" ", large, b"\r\n\r\n"))
            await client.writer.drain()
        client.writer.write(client.records(*[HEALTH[at : at + 1] for at in range(len(HEALTH))]))
        assert (await reading).count(b"HTTP/1.1 200") == count + 1
        client.writer.close()


async def test_connection_survives_a_change_of_the_context(files: Files) -> None:
    contexts = [server_context(files)]
    async with serving(tls=lambda: contexts[-1]) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, ssl=client_context(files))
        writer.write(OPEN_HEALTH)
        assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200")
        files.write(Authority("other").sign())
        contexts.append(server_context(files))
        with pytest.raises(ssl.SSLCertVerificationError):
            await healthy(served, files)
        writer.write(HEALTH)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_client_that_vanishes_in_the_handshake_leaves_nothing_behind(files: Files) -> None:
    async with secured(files) as served:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"\x16")
            writer.transport.abort()
        await until(lambda: served.server.connections == 0 and len(served.server.handshakes) == 0)
        gc.collect()
        layers = [each for each in gc.get_objects() if isinstance(each, tls.TlsLayer)]
        assert layers == []
        assert await healthy(served, files)


async def test_server_stops_although_handshakes_are_in_flight(files: Files) -> None:
    async with secured(files) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        await until(lambda: len(served.server.handshakes) == 1)
        await served.server.stop(1)
        assert await ended(reader)
        writer.close()
