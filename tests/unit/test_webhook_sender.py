"""The sender against real receivers on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from codeq_server.config import load
from codeq_server.core.limits import Rate
from codeq_server.webhooks.circuits import FAILURES_MAX, PER_HOST_MAX
from codeq_server.webhooks.connections import INTERIM_MAX, READ_BYTES_MAX
from codeq_server.webhooks.guard import Guard, guard_of
from codeq_server.webhooks.pacing import SLOWEST_MS
from codeq_server.webhooks.sender import ANSWER_BYTES_MAX, EXCERPT_BYTES, Answer, Sender, SenderOptions

DEV = guard_of(load(None, {}, {}, dev=True))
PUBLIC_ONLY = DEV._replace(networks=())
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def receiver(handle: Handle) -> AsyncIterator[str]:
    """Serves a handler on a free port; the value is its host and port."""
    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    try:
        yield f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def silent_receiver() -> AsyncIterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@asynccontextmanager
async def sender(guard: Guard = DEV, **options: Any) -> AsyncIterator[Sender]:
    made = Sender(SenderOptions(guard, **options))
    try:
        yield made
    finally:
        await made.close()


def answering(status: int, text: str = "", **headers: str) -> Handle:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handle


def names(*answers: Sequence[str]) -> Callable[[str, int], Sequence[tuple[Any, ...]]]:
    """Returns a lookup that gives one answer after the other, and then the last one again."""
    left = list(answers)

    def lookup(host: str, port: int) -> Sequence[tuple[Any, ...]]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return lookup


async def test_request_arrives_as_it_was_given() -> None:
    seen: list[tuple[str, str, bytes, dict[str, str]]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, await request.read(), dict(request.headers)))
        return web.Response(status=204)

    async with receiver(handle) as host, sender() as ours:
        answer = await ours.post(f"http://{host}/a%20b?c=%2F", b'{"a":1}', {"webhook-id": "x"})
    assert (answer.status, answer.error, answer.is_success) == (204, "", True)
    [(method, path, body, headers)] = seen
    assert (method, path, body) == ("POST", "/a%20b?c=%2F", b'{"a":1}')
    assert {"Host": host, "webhook-id": "x", "Content-Type": "application/json"}.items() <= headers.items()


async def test_name_stays_the_host_of_the_request_when_its_address_is_connected_to() -> None:
    hosts: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return web.Response()

    async with receiver(handle) as host, sender(lookup=names(["127.0.0.1"])) as ours:
        port = host.rpartition(":")[2]
        assert (await ours.post(f"http://hooks.example:{port}/", b"", {})).status == 200
    assert hosts == [f"hooks.example:{port}"]


async def test_name_that_answers_public_and_then_loopback_is_refused() -> None:
    """Rebinding: the second lookup leads to this machine, where a receiver listens."""
    calls: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.Response()

    lookup = names(["203.0.114.1"], ["127.0.0.1"])
    lookup("hooks.example", 80)  # whoever looked before saw a public address
    async with receiver(handle) as host, sender(PUBLIC_ONLY, lookup=lookup) as ours:
        answer = await ours.post(f"http://hooks.example:{host.rpartition(':')[2]}/", b"", {})
    assert (answer.status, answer.error, calls) == (0, "refused address 127.0.0.1 (loopback)", [])


async def test_name_with_one_refused_address_is_not_connected_to_at_all() -> None:
    async with sender(PUBLIC_ONLY, lookup=names(["8.8.8.8", "10.1.2.3"])) as ours:
        answer = await ours.post("http://hooks.example/", b"", {})
    assert (answer.status, answer.error) == (0, "refused address 10.1.2.3 (private)")


async def test_connection_is_checked_by_its_address_even_if_no_name_was_resolved() -> None:
    async with receiver(answering(200)) as host, sender(PUBLIC_ONLY) as ours:
        with pytest.raises(OSError, match=r"refused address 127\.0\.0\.1"):
            ours._checked_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))
        literal = await ours.post(f"http://{host}/", b"", {})
    assert literal.error.startswith("refused URL: must not lead to an internal network")


async def test_name_that_the_operator_trusts_may_have_any_address() -> None:
    trusting = PUBLIC_ONLY._replace(hosts=("hooks.internal",))
    async with receiver(answering(200)) as host, sender(trusting, lookup=names(["127.0.0.1"])) as ours:
        port = host.rpartition(":")[2]
        assert (await ours.post(f"http://hooks.internal:{port}/", b"", {})).status == 200
        assert (await ours.post(f"http://hooks.example:{port}/", b"", {})).status == 0


async def test_redirect_is_an_answer_and_is_not_followed() -> None:
    calls: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with receiver(handle) as host, sender() as ours:
        answer = await ours.post(f"http://{host}/hook", b"", {})
    assert (answer.status, answer.is_success, calls) == (307, False, ["/hook"])


async def test_answer_is_cut() -> None:
    async with receiver(answering(200, "é" * ANSWER_BYTES_MAX)) as host, sender() as ours:
        answer = await ours.post(f"http://{host}/", b"", {})
    assert (answer.status, answer.excerpt) == (200, "é" * (EXCERPT_BYTES // 2))


async def test_receiver_that_never_answers_times_out() -> None:
    async with silent_receiver() as host, sender(timeout_s=0.2) as ours:
        answer = await ours.post(f"http://{host}/", b"", {})
    assert (answer.status, answer.error) == (0, "timeout")
    assert 200 <= answer.duration_ms < 10_000


async def test_receiver_that_is_not_there_refuses_the_connection() -> None:
    async with receiver(answering(200)) as host:
        pass
    async with sender() as ours:
        answer = await ours.post(f"http://{host}/", b"", {})
    assert (answer.status, answer.error) == (0, "connection refused")


async def test_name_without_an_address_is_an_answer() -> None:
    def lookup(host: str, port: int) -> Sequence[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    async with sender(lookup=lookup) as ours:
        assert (await ours.post("http://hooks.example/", b"", {})).error == "the name cannot be resolved"


async def test_answer_that_is_not_http_is_an_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-server\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, sender() as ours:
        answer = await ours.post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b"", {})
    assert answer.status == 0
    assert answer.error.startswith("malformed answer: ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), ("00000000007", 7), ("99999", 3600), ("soon", 0), ("-1", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)],
)
async def test_receiver_can_ask_to_be_left_alone(text: str, seconds: int) -> None:
    async with receiver(answering(503, Retry_After=text)) as host, sender() as ours:
        assert (await ours.post(f"http://{host}/", b"", {})).retry_after_s == seconds


@pytest.mark.parametrize(("status", "opens"), [(500, True), (429, True), (404, False)])
async def test_host_that_keeps_failing_is_left_alone(status: int, opens: bool) -> None:
    async with receiver(answering(status)) as host, sender() as ours:
        for _ in range(FAILURES_MAX):
            assert ours.busy(f"http://{host}/") == 0
            await ours.post(f"http://{host}/", b"", {})
        assert (ours.busy(f"http://{host}/") > 0, ours.open_circuits) == (opens, int(opens))


async def test_host_gets_a_limited_number_of_requests_at_a_time() -> None:
    release = asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with receiver(handle) as host, sender() as ours:
        running = []
        while not ours.busy(f"http://{host}/"):
            running.append(ours.post(f"http://{host}/", b"", {}))
        assert len(running) == PER_HOST_MAX
        assert not ours.busy("http://other.example/")
        release.set()
        assert {answer.status for answer in await asyncio.gather(*running)} == {200}
        assert not ours.busy(f"http://{host}/")


async def test_url_over_its_rate_is_busy_and_others_of_the_host_are_not() -> None:
    async with receiver(answering(200)) as host, sender(rate=Rate(60, 2)) as ours:
        for _ in range(2):
            assert ours.limited(f"http://{host}/a") == 0
            await ours.post(f"http://{host}/a", b"", {})
        assert 0 < ours.limited(f"http://{host}/a") <= ours.busy(f"http://{host}/a") <= 1000
        assert ours.busy(f"http://{host}/b") == 0


async def test_closing_ends_requests_at_once() -> None:
    async with silent_receiver() as host:
        ours = Sender(SenderOptions(DEV))
        running = ours.post(f"http://{host}/", b"", {})
        begun = time.monotonic()
        await ours.close()
        assert running.cancelled()
        assert time.monotonic() - begun < 5
        assert (await ours.post(f"http://{host}/", b"", {})) == Answer(0, "refused URL: the sender is closed")


async def test_request_that_meets_a_closed_connection_is_made_over_a_new_one() -> None:
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answers in (True, False):  # an answer that promises to keep the connection, then a close without an answer
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"POST ")
            body = await reader.readexactly(2)
            if answers:
                bodies.append(body)
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, sender() as ours:
        answers = [await ours.post(f"http://{host}/", body, {}) for body in (b"{}", b"[]", b'""')]
    assert [answer.status for answer in answers] == [204, 204, 204]
    assert bodies == [b"{}", b"[]", b'""']


async def test_receiver_that_closes_every_connection_gets_one_request_per_attempt() -> None:
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, sender() as ours:
        answer = await ours.post(f"http://{host}/", b"{}", {})
    assert (answer.status, answer.error) == (0, "connection closed without an answer")
    assert requests == 1


def raw(answer: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Returns a receiver that answers with these bytes and closes; none: it resets the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        if answer:
            writer.write(answer)
            writer.close()
        else:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    return serve


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("http", b"", "connection reset by peer"),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "the TLS handshake failed: wrong version number"),
        ("http", b"HTTP/1.1 000 Odd\r\n\r\n", "malformed answer: unknown status"),
        ("http", b"HTTP/1.1 099 Odd\r\n\r\n", "malformed answer: unknown status"),
    ],
)
async def test_error_never_names_the_url(scheme: str, answer: bytes, words: str) -> None:
    server = await asyncio.start_server(raw(answer), "127.0.0.1", 0)
    host = f"localhost:{server.sockets[0].getsockname()[1]}"
    lookup = names(["127.0.0.1"])
    async with server, sender(lookup=lookup) as ours:
        answered = await ours.post(f"{scheme}://{host}/secret", b"{}", {})
    assert (answered.status, answered.error) == (0, words)


async def test_name_that_is_no_idna_name_cannot_be_resolved() -> None:
    async with sender() as ours:
        answer = await ours.post("http://xn--/", b"{}", {})
    assert (answer.status, answer.error) == (0, "the name cannot be resolved")


@pytest.mark.parametrize("count", [INTERIM_MAX, INTERIM_MAX + 1])
async def test_number_of_interim_answers_is_limited(count: int) -> None:
    interim, answer = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"
    server = await asyncio.start_server(raw(interim * count + answer), "127.0.0.1", 0)
    async with server, sender() as ours:
        answered = await ours.post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b"{}", {})
    expected = (204, "") if count <= INTERIM_MAX else (0, "malformed answer: too many interim answers")
    assert (answered.status, answered.error) == expected


@pytest.mark.parametrize(
    ("begin", "following"),
    [
        (b"", b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"extension"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
)
async def test_answer_without_end_is_not_read_for_long(begin: bytes, following: bytes) -> None:
    written = 0
    buffered = 16 << 20  # what the sockets of both sides may hold

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begin)
        with contextlib.suppress(ConnectionError):
            while written < 2 * buffered:
                writer.write(following * (65536 // len(following)))
                await writer.drain()
                written += 65536
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, sender(timeout_s=0.5) as ours:
        answered = await ours.post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b"{}", {})
    assert (answered.status, answered.is_success) == (0, False)
    assert written < READ_BYTES_MAX + buffered


async def test_requests_begin_slowly_while_calls_keep_the_event_loop_busy() -> None:
    loop = asyncio.get_running_loop()
    async with sender(PUBLIC_ONLY) as ours:
        requests = [ours.post("http://10.0.0.1/", b"", {}) for _ in range(400)]  # ends as soon as it has begun
        started_s = loop.time()
        for _ in range(60):
            turn_s = loop.time()
            while loop.time() < turn_s + 0.005:
                pass
            await asyncio.sleep(0)
        begun = sum(request.done() for request in requests)
        assert 0 < begun < (loop.time() - started_s) * 1000 / SLOWEST_MS + 100
        assert ours._pace.spacing_ms == SLOWEST_MS
