"""The HTTP client for URLs of tenants: guarded, bounded in time and size, with a circuit for each host."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import aiohttp
from yarl import URL

from codeq_server.core.buckets import Buckets
from codeq_server.core.limits import Rate
from codeq_server.webhooks.circuits import Circuits
from codeq_server.webhooks.connections import Connector
from codeq_server.webhooks.guard import URLS_KEPT, Guard, RefusedAddressError, host_of
from codeq_server.webhooks.pacing import Pace
from codeq_server.webhooks.resolving import GuardedResolver, Lookup, system_lookup

ANSWER_BYTES_MAX: Final = 64 * 1024
"""Bytes of an answer that are read; the connection of a longer one is closed."""

EXCERPT_BYTES: Final = 1024
"""Bytes of an answer that are kept."""

ERROR_CHARACTERS_MAX: Final = 256
RETRY_AFTER_MAX_S: Final = 3600
"""Longest time that a receiver can ask for by Retry-After."""

_HEADERS: Final = {"Accept-Encoding": "identity", "Content-Type": "application/json", "User-Agent": "codeq"}
_CLOSED: Final = "connection closed without an answer"
_STATUS_MIN: Final = 100
_TOO_MANY_REQUESTS: Final = 429


class Answer(NamedTuple):
    """The result of one request.

    Attributes:
        status: HTTP status; 0: there was no answer.
        error: Why there was no answer, such as "timeout" and "refused address 10.0.0.1 (private)"; empty: there was.
        duration_ms: Time from the start of the request to its end, in milliseconds.
        retry_after_s: Seconds that the receiver asks to be left alone, at most 3600; 0: it does not ask.
        excerpt: Begin of the answer's body, as text.
    """

    status: int
    error: str = ""
    duration_ms: int = 0
    retry_after_s: int = 0
    excerpt: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the receiver accepted the request."""
        return 200 <= self.status < 300


class SenderOptions(NamedTuple):
    """How requests are made.

    Attributes:
        guard: Where they may go.
        rate: Requests per URL.
        timeout_s: Longest time of a request in all, in seconds.
        proxy: URL of the proxy that makes all connections, and then resolves names; empty: none.
        lookup: Looks names up.
    """

    guard: Guard
    rate: Rate = Rate(0, 0)
    timeout_s: float = 15.0
    proxy: str = ""
    lookup: Lookup = system_lookup


class _Connection:
    """The connection of a request.

    Attributes:
        is_old: Whether an earlier request was made over it.
    """

    __slots__ = ("is_old",)

    def __init__(self) -> None:
        self.is_old = False


async def _note_old(_session: object, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.is_old = True


class Sender:
    """Makes the requests of a process; created and used in one event loop.

    Callers limit how many requests they make at a time; the sender limits those to one host, and begins requests at a
    pace that leaves the event loop to calls.

    Args:
        options: How requests are made.
        mono_ms: The time, in milliseconds of a monotonic clock.
    """

    def __init__(self, options: SenderOptions, mono_ms: Callable[[], int] | None = None) -> None:
        self._options = options
        self._mono_ms = mono_ms or _monotonic_ms
        self._circuits = Circuits()
        self._rates = Buckets()
        self._check_url = lru_cache(URLS_KEPT)(options.guard.check_url)
        self._target = lru_cache(URLS_KEPT)(partial(URL, encoded=True))
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """Sessions, by whether the guard checks their connections."""

        self._resolvers: list[GuardedResolver] = []
        self._requests: set[asyncio.Task[Answer]] = set()
        self._pace = Pace()
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Requests that have not begun."""
        self._closed = False

    @property
    def open_circuits(self) -> int:
        """Number of hosts that are left alone because they keep failing."""
        return self._circuits.open

    def busy(self, url: str) -> int:
        """Returns the milliseconds until a request to the URL may begin; 0: now.

        It may not while its host's circuit is open, while the host has as many requests as it may have, or while the
        URL is over its rate limit.
        """
        return max(self._circuits.wait_ms(host_of(url), self._mono_ms()), self.limited(url))

    def left_alone_ms(self, host: str) -> int:
        """Returns the milliseconds for which a host is still left alone because it keeps failing; 0: it is not."""
        until_ms = self._circuits.left_alone_until_ms(host)
        return max(1, until_ms - self._mono_ms()) if until_ms else 0

    def probe_now(self, host: str) -> None:
        """Has a host that is left alone tried with the next request, and not only when it is time for that."""
        self._circuits.probe_now(host, self._mono_ms())

    def limited(self, url: str) -> int:
        """Returns the milliseconds until the rate limit allows the URL another request; 0: now."""
        rate = self._options.rate
        return self._rates.get(url, rate, self._mono_ms()).wait_ms(1, 0) if rate.limits else 0

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> asyncio.Task[Answer]:
        """Begins a request, which counts from now on; `busy` says whether it should.

        The task never fails because of what the network or the receiver does. Redirects are not followed.

        Args:
            url: URL that `Guard.check_url` has accepted.
            body: The body, JSON.
            headers: Further headers.
        """
        host = host_of(url)
        self._circuits.begin(host)
        if self._options.rate.limits:
            self._rates.get(url, self._options.rate, self._mono_ms()).take(1)
        task = asyncio.get_running_loop().create_task(self._post(url, body, headers))
        self._requests.add(task)

        def ended(task: asyncio.Task[Answer]) -> None:
            self._requests.discard(task)
            failed = None if task.cancelled() or task.exception() is not None else _is_failure(task.result())
            self._circuits.end(host, self._mono_ms(), failed=failed)

        task.add_done_callback(ended)
        return task

    async def close(self) -> None:
        """Cancels all requests and closes all connections."""
        self._closed = True
        for task in self._requests:
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        for session in self._sessions.values():
            await session.close()
        for resolver in self._resolvers:
            await resolver.close()
        self._sessions.clear()

    async def _turn(self) -> None:
        """Waits until the pace allows another request."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            self._expect_turns(loop)
        await turn

    def _expect_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        wait_s = self._pace.wait_ms(now_s * 1000) / 1000
        loop.call_later(wait_s, self._give_turns, loop, now_s + wait_s)

    def _give_turns(self, loop: asyncio.AbstractEventLoop, expected_s: float) -> None:
        now_ms = loop.time() * 1000
        self._pace.note_turn(now_ms - expected_s * 1000)
        while self._waiting and not self._pace.wait_ms(now_ms):
            turn = self._waiting.popleft()
            if not turn.done():
                self._pace.begin(now_ms)
                turn.set_result(None)
        if self._waiting:
            self._expect_turns(loop)

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        await self._turn()
        started = self._mono_ms()
        problem = "the sender is closed" if self._closed else self._check_url(url)
        if problem:
            return Answer(0, f"refused URL: {problem}"[:ERROR_CHARACTERS_MAX])
        try:
            async with asyncio.timeout(self._options.timeout_s):
                answer = await self._answer(url, body, headers)
        except TimeoutError:
            answer = Answer(0, "timeout")
        except Exception as error:  # noqa: BLE001 - nothing that a receiver sends may fail more than its request
            answer = Answer(0, _words(error))
        return answer._replace(duration_ms=self._mono_ms() - started)

    async def _answer(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        async with await self._response(self._target(url), body, headers) as response:
            excerpt, length = bytearray(), 0
            async for chunk in response.content.iter_any():
                excerpt += chunk[: EXCERPT_BYTES - len(excerpt)]
                length += len(chunk)
                if length > ANSWER_BYTES_MAX:
                    response.close()
                    break
            if response.status < _STATUS_MIN:
                return Answer(0, "malformed answer: unknown status")
            text = excerpt.decode("utf-8", "replace")
            return Answer(
                response.status, retry_after_s=_retry_after(response.headers.get("Retry-After")), excerpt=text
            )

    async def _response(self, target: URL, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Makes a request, over another connection if it was made over one that the receiver no longer wanted.

        Receivers close connections that they have kept open whenever they like. A request that meets such a close says
        nothing about its receiver.
        """
        session, proxy = self._session(target.host or ""), self._options.proxy or None
        while True:
            connection = _Connection()
            try:
                return await session.post(
                    target,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                    proxy=proxy,
                    trace_request_ctx=connection,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not connection.is_old:
                    raise

    def _session(self, host: str) -> aiohttp.ClientSession:
        """Returns the session for a host; the connections of names that the operator trusts are not checked."""
        options = self._options
        is_checked = not options.proxy and not options.guard.trusts(host)
        session = self._sessions.get(is_checked)
        if session is None:
            resolver = GuardedResolver(options.guard if is_checked else None, options.lookup)
            self._resolvers.append(resolver)
            tracing = aiohttp.TraceConfig()
            tracing.on_connection_reuseconn.append(_note_old)
            session = self._sessions[is_checked] = aiohttp.ClientSession(
                connector=Connector(
                    limit=0,
                    resolver=resolver,
                    socket_factory=self._checked_socket if is_checked else None,
                    ssl=ssl.create_default_context(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
                trace_configs=[tracing],
            )
        return session

    def _checked_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Returns a socket for an address that is about to be connected to: literal ones never pass the resolver."""
        family, kind, protocol, _, address = info
        self._options.guard.check_addresses([str(address[0])])
        return socket.socket(family, kind, protocol)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _is_failure(answer: Answer) -> bool:
    """Returns whether an answer says that the host is in trouble."""
    return answer.status == 0 or answer.status >= 500 or answer.status == _TOO_MANY_REQUESTS


def _words(error: Exception) -> str:
    """Describes why there was no answer, in words of its own.

    The texts of libraries name the URL, which not all who see the answer may see.
    """
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, RefusedAddressError):
            return str(inner)
        inner = inner.__cause__ or getattr(inner, "os_error", None)
    if isinstance(error, aiohttp.ClientResponseError):
        return f"malformed answer: {error.message.partition(chr(10))[0].removesuffix(':')}"[:ERROR_CHARACTERS_MAX]
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "the certificate is not valid"
    if isinstance(error, (aiohttp.ClientConnectorDNSError, UnicodeError)):
        return "the name cannot be resolved"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer is not complete"
    if isinstance(error, OSError):
        return _words_of_system(getattr(error, "os_error", error))
    closed = isinstance(error, aiohttp.ServerDisconnectedError)
    return _CLOSED if closed else f"no answer: {type(error).__name__}"


def _words_of_system(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed: {(error.reason or 'no reason given').lower().replace('_', ' ')}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return os.strerror(error.errno).lower() if error.errno else _CLOSED


def _retry_after(text: str | None) -> int:
    """Returns the seconds of a Retry-After header, at most RETRY_AFTER_MAX_S; 0: there is none."""
    if text is None:
        return 0
    if text.isascii() and text.isdigit():
        return min(int(text.lstrip("0")[:9] or "0"), RETRY_AFTER_MAX_S)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0
    return min(max(0, int(seconds)), RETRY_AFTER_MAX_S)
