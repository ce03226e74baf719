"""The transport: TLS, servers of other protocols, windows, large messages, many calls, and how calls end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import codeq
import grpc
import hpack
import pytest
from codeq import errors, http2, rpc
from codeq.async_transport import AsyncChannel
from codeq.blocking_transport import BlockingChannel
from codeq.dialing import Target
from codeq.tls import source_of
from server_process import DEV_TOKEN, ServerProcess

SECONDS = 20.0


class Echo(grpc.GenericRpcHandler):
    """A gRPC server with methods named after their behaviour."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, **options: int) -> None:
        self._options = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), *options.items())
        self._credentials = credentials
        self.started = threading.Event()

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=self._options)
        self._server.add_generic_rpc_handlers((self,))
        if self._credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", self._credentials)
        self.address = f"localhost:{port}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(getattr(self, f"_{details.method.removeprefix('/')}"))

    async def _echo(self, request: bytes, _: Any) -> bytes:
        return request

    async def _slow_echo(self, request: bytes, _: Any) -> bytes:
        self.started.set()
        await asyncio.sleep(0.05)
        return request

    async def _hang(self, _: bytes, __: Any) -> bytes:
        self.started.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def _fail(self, _: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "ü and 100% \n more")
        raise AssertionError

    async def _fail_blankly(self, _: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, " because: ", (("x-note", " "),))
        raise AssertionError

    async def _time_left(self, _: bytes, context: Any) -> bytes:
        return str(context.time_remaining()).encode()


async def blocking(echo: Echo, method: str, request: bytes = b"", seconds: float = SECONDS, tls: Any = False) -> bytes:
    channel = BlockingChannel(echo.address, source_of(tls))
    try:
        return await asyncio.to_thread(channel.unary, f"/{method}", request, (), seconds)
    finally:
        channel.close()


async def on_a_loop(echo: Echo, method: str, request: bytes = b"", seconds: float = SECONDS, tls: Any = False) -> bytes:
    async with AsyncChannel(echo.address, source_of(tls)) as channel:
        return await channel.unary(f"/{method}", request, (), seconds)


both = pytest.mark.parametrize("call", [blocking, on_a_loop])


@both
@pytest.mark.parametrize("size", [0, 1, 16_384, 70_000, 5_000_000, rpc.MESSAGE_BYTES_MAX])
async def test_message_of_any_size_is_echoed(call: Any, size: int) -> None:
    async with Echo(**{"grpc.max_send_message_length": -1}) as echo:
        data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert await call(echo, "echo", data) == data


@both
async def test_oversized_message_is_reported_as_a_server_error(call: Any) -> None:
    async with Echo(**{"grpc.max_send_message_length": -1}) as echo:
        with pytest.raises(codeq.ServerFault, match="sent a message of"):
            await call(echo, "echo", bytes(rpc.MESSAGE_BYTES_MAX + 1))


@both
async def test_status_of_a_failed_call_is_reported(call: Any) -> None:
    async with Echo() as echo:
        with pytest.raises(codeq.LeaseLost, match="ü and 100% \n more"):
            await call(echo, "fail")


@both
async def test_status_with_blanks_around_its_message_is_reported(call: Any) -> None:
    async with Echo() as echo:
        with pytest.raises(codeq.LeaseLost, match="because:"):
            await call(echo, "fail_blankly")


@contextlib.asynccontextmanager
async def server_that_breaks_http2() -> AsyncIterator[str]:
    """The address of a server that breaks the protocol once it has got a message with the text "echo"."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SETTINGS)
        await reader.readuntil(b"PRI * HTTP/2.0")
        while b"echo" not in await reader.read(1 << 16):
            pass
        writer.write(frame(9, 4, 1, b""))  # continues no headers
        await reader.read()
        writer.close()
        left.set()

    left = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait_for(left.wait(), SECONDS)


@both
async def test_call_fails_at_once_when_the_server_breaks_http2(call: Any) -> None:
    echo = Echo()
    async with server_that_breaks_http2() as echo.address:
        with pytest.raises(codeq.Unavailable, match=r"connection was lost: .*HTTP/2"):
            await call(echo, "x", b"echo", seconds=5)


async def test_streams_fail_at_once_when_the_server_breaks_http2() -> None:
    async with server_that_breaks_http2() as address, AsyncChannel(address, None) as channel:
        calls = [await channel.stream("/x", ()) for _ in range(3)]
        reads = [asyncio.create_task(call.read()) for call in calls]
        for call in calls:
            await call.write(b"echo")
        async with asyncio.timeout(20):
            ends = await asyncio.gather(*reads, return_exceptions=True)
        assert [type(end) for end in ends] == [codeq.Unavailable] * 3
        await channel.close()


async def test_calls_that_time_out_while_connecting_leave_no_connections() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        await may_greet.wait()
        writer.write(SETTINGS)
        await reader.readuntil(frame(4, 1, 0, b""))  # the client has read the settings
        is_greeted.set()
        while await reader.read(1 << 16):
            pass
        writer.close()
        left.set()

    made, may_greet, is_greeted, left = 0, asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        AsyncChannel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", None) as channel,
    ):
        for _ in range(3):
            with pytest.raises(codeq.DeadlineExceeded):
                await channel.unary("/x", b"", (), 0.05)
        may_greet.set()
        await asyncio.wait_for(is_greeted.wait(), SECONDS)
        with pytest.raises(codeq.DeadlineExceeded):
            await channel.unary("/x", b"", (), 0.05)
        assert made == 1
        await channel.close()
        await asyncio.wait_for(left.wait(), SECONDS)


async def test_closing_a_channel_that_is_connecting_disconnects() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        writer.close()
        left.set()

    met, left = asyncio.Event(), asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        channel = AsyncChannel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", None)
        calling = asyncio.create_task(channel.unary("/x", b"", (), SECONDS))
        await asyncio.wait_for(met.wait(), SECONDS)
        await channel.close()
        await asyncio.wait_for(left.wait(), SECONDS)
        await asyncio.wait((calling,))
        assert calling.cancelled() or isinstance(calling.exception(), codeq.CodeqError)


WITHOUT_DESCRIPTORS = """
import os, resource, threading, codeq
from codeq import runtime

loop, held = runtime.loop(), []
with codeq.Producer() as producer, codeq.Client() as client:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    failed = threading.Event()
    def give_back():
        failed.wait()
        for each in held:
            os.close(each)
    giving = threading.Thread(target=give_back, daemon=True)
    giving.start()
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    try:
        client.queues()
    except codeq.Unavailable as error:
        print(error.message.partition("] ")[2])
    future = producer.create_future("descriptors")  # connects
    try:
        future.result(0.3)
    except TimeoutError:
        pass
    failed.set()
    giving.join()
    print(client.get(future.result(20)).command)
"""


def test_lack_of_file_descriptors_delays_calls_but_ends_no_producer(shared_server: ServerProcess) -> None:
    env = {"CODEQ_PRODUCER_ADDR": shared_server.producer_addr, "CODEQ_TOKEN": DEV_TOKEN}
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_DESCRIPTORS],
        env={**os.environ, **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (0, "Too many open files\ndescriptors\n"), ran.stderr


@both
async def test_call_ends_at_its_timeout_and_the_server_gets_its_deadline(call: Any) -> None:
    async with Echo() as echo:
        begin = time.monotonic()
        with pytest.raises(codeq.DeadlineExceeded):
            await call(echo, "hang", seconds=0.3)
        assert 0.2 < time.monotonic() - begin < 5
        assert 0 < float(await call(echo, "time_left", seconds=7.0)) <= 7


@both
async def test_unreachable_server_is_reported_as_not_sent(call: Any) -> None:
    async with Echo() as echo:
        pass
    with pytest.raises(errors.NotSent, match="cannot connect to localhost"):
        await call(echo, "echo")
    echo.address = "no-such-host.invalid:1"
    with pytest.raises(errors.NotSent):
        await call(echo, "echo")


async def test_calls_wait_when_the_servers_stream_limit_is_reached() -> None:
    async with Echo(**{"grpc.max_concurrent_streams": 3}) as echo, AsyncChannel(echo.address, None) as channel:
        calls = [channel.unary("/slow_echo", str(n).encode(), (), SECONDS) for n in range(50)]
        assert await asyncio.gather(*calls) == [str(n).encode() for n in range(50)]


async def test_cancelled_call_leaves_the_connection_to_other_calls() -> None:
    async with Echo() as echo, AsyncChannel(echo.address, None) as channel:
        hanging = asyncio.create_task(channel.unary("/hang", b"", (), SECONDS))
        assert await asyncio.to_thread(echo.started.wait, SECONDS)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert await channel.unary("/echo", b"a", (), SECONDS) == b"a"


async def test_closing_a_sync_client_ends_the_calls_of_other_threads() -> None:
    async with Echo() as echo:
        channel = BlockingChannel(echo.address, None)
        hanging = asyncio.create_task(asyncio.to_thread(channel.unary, "/hang", b"", (), SECONDS))
        assert await asyncio.to_thread(echo.started.wait, SECONDS)
        channel.close()
        with pytest.raises(codeq.Closed):
            await hanging


@both
async def test_server_that_is_silent_or_speaks_http1_is_reported(call: Any, shared_server: ServerProcess) -> None:
    echo = Echo()
    echo.address = shared_server.http_url.removeprefix("http://")
    with pytest.raises(codeq.Unavailable, match=r"HTTP/1\.1|connection was lost"):
        await call(echo, "echo")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


def credentials(folder: Path) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([((folder / "key.pem").read_bytes(), (folder / "cert.pem").read_bytes())])


@both
async def test_tls_works_with_a_custom_context(call: Any, certificate: Path) -> None:
    async with Echo(credentials(certificate)) as echo:
        context = ssl.create_default_context(cafile=certificate / "cert.pem")
        data = bytes(3_000_000)
        assert await call(echo, "echo", data, tls=context) == data
        with pytest.raises(errors.NotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await call(echo, "echo", tls=True)
        with pytest.raises(codeq.Unavailable):
            await call(echo, "echo", seconds=5)


@both
async def test_tls_call_to_a_plaintext_server_is_not_sent(call: Any) -> None:
    async with Echo() as echo:
        with pytest.raises(codeq.CodeqError):
            await call(echo, "echo", tls=True, seconds=5)


@pytest.mark.parametrize(
    "address", ["localhost", "http://localhost:8080", "localhost:0", "localhost:99999", ":1", "a:b"]
)
def test_malformed_address_is_rejected_when_the_client_is_created(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        codeq.Client(address)


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("node-a:1", ("node-a", 1, "node-a:1")),
        ("[::1]:2", ("::1", 2, "[::1]:2")),
        ("dns:///node-a:3", ("node-a", 3, "node-a:3")),
        ("unix:/tmp/a", ("/tmp/a", None, "localhost")),
    ],
)
def test_address_names_host_and_port(address: str, target: tuple[str, int | None, str]) -> None:
    assert Target.parse(address) == Target(*target)


@pytest.mark.parametrize("make", [codeq.Client, codeq.Producer, codeq.Worker, codeq.AsyncClient])
def test_tls_of_a_wrong_type_is_rejected(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match=r"ssl\.SSLContext"):
        make("a:1", tls=grpc.ssl_channel_credentials())


@pytest.mark.parametrize("token", [5, b"bytes"])
@pytest.mark.parametrize("make", [codeq.Client, codeq.Producer, codeq.Worker, codeq.AsyncClient])
def test_token_of_a_wrong_type_is_rejected(make: Callable[..., object], token: object) -> None:
    with pytest.raises(TypeError, match="token must be a str"):
        make("a:1", token=token)


def test_token_that_cannot_be_sent_is_rejected(shared_server: ServerProcess) -> None:
    with codeq.Client(shared_server.producer_addr, token="two\nlines") as client, pytest.raises(codeq.Unauthenticated):
        client.queues()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what the first loop left open
async def test_async_producer_and_client_work_on_two_event_loops_in_sequence(shared_server: ServerProcess) -> None:
    producer = codeq.AsyncProducer(shared_server.producer_addr, token=DEV_TOKEN)
    client = codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN)

    async def create() -> str:
        task = await client.get(await producer.create("two-loops"))
        return task.command

    def twice() -> list[str]:
        return [asyncio.run(create()), asyncio.run(create())]

    assert await asyncio.to_thread(twice) == ["two-loops"] * 2
    await create()
    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, create())
    await producer.close()
    await client.close()
    gc.collect()


HEADERS = rpc.headers_of("/codeq.v1.TaskService/GetTask", "localhost:9092", "http", (), None)


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + number.to_bytes(4) + payload


SETTINGS = frame(4, 0, 0, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(0, 0, 1, b"data first"),
        SETTINGS + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
        SETTINGS + frame(5, 4, 1, b"\0\0\0\2"),
        SETTINGS + frame(9, 4, 1, b""),
        SETTINGS + frame(1, 0, 1, b"") + frame(0, 0, 1, b""),
        SETTINGS + frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        SETTINGS + frame(0, 8, 1, b"\x09abc"),
        SETTINGS + frame(0, 8, 1, b""),
        SETTINGS + frame(1, 0, 1, b"") + frame(9, 0, 1, bytes(65_537)),
    ],
)
def test_bytes_that_are_not_http2_end_only_their_connection(data: bytes) -> None:
    connection = http2.Http2()
    connection.open(HEADERS)
    with pytest.raises(http2.ProtocolError):
        connection.receive(data)


def test_data_respects_the_windows_of_stream_and_connection() -> None:
    connection = http2.Http2()
    number = connection.open(HEADERS)
    connection.take()
    connection.send(number, bytes(200_000), is_end=True)
    sent = len(connection.take())
    assert 65_535 <= sent < 65_535 + 5 * 9
    assert connection.queued(number) == 200_000 - 65_535
    connection.receive(SETTINGS + frame(8, 0, 0, (1 << 20).to_bytes(4)))
    assert connection.queued(number) == 200_000 - 65_535
    connection.receive(frame(8, 0, number, (100_000).to_bytes(4)))
    assert connection.queued(number) == 200_000 - 165_535
    connection.receive(frame(4, 0, 0, (4).to_bytes(2) + (100_000).to_bytes(4)))
    assert connection.queued(number) == 0
    assert connection.take()[-9:][3] == 0 or connection.forget(number) is False


def test_data_of_abandoned_streams_is_returned_to_the_connection_window() -> None:
    connection = http2.Http2()
    number = connection.open(HEADERS)
    connection.receive(SETTINGS + frame(1, 4, number, hpack.Encoder().encode([(":status", "200")])))
    piece = http2.WINDOW_BYTES // 16
    for _ in range(4):
        assert [event.stream for event in connection.receive(frame(0, 0, number, bytes(piece)))] == [number]
    connection.take()
    connection.reset(number)
    connection.consumed(number, 4 * piece)  # late: it is given back already
    for _ in range(12):
        assert connection.receive(frame(0, 0, number, bytes(piece))) == []
    sent, given_back = connection.take(), 0
    while sent:
        size, kind, of = int.from_bytes(sent[:3]), sent[3], int.from_bytes(sent[5:9])
        given_back += int.from_bytes(sent[9:13]) if (kind, of) == (8, 0) else 0
        sent = sent[9 + size :]
    assert given_back > http2.WINDOW_BYTES / 2
