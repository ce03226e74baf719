"""One HTTP/1.1 connection: requests in, replies out in their order, with every wait and size bounded.

Requests of a connection stand in line: the first one is being answered, the others wait for it. While others wait,
nothing more is read. The clock of all bounds is `time.perf_counter`; `expire` looks at them, so that a request costs no
timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Final, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from codeq_gateway import header_fields, refusals
from codeq_gateway.app import Gateway
from codeq_gateway.connections import Connections
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.exchange import CONTINUE, End, Exchange, render

HEAD_BYTES_MAX: Final = 64 * 1024
"""Bytes of a request's head, or of what follows a body's last piece, that may come before it is complete; checked after
each read."""

HEADERS_MAX: Final = 100
"""Headers of a request."""

REQUEST_SECONDS: Final = 60.0
"""Time from a connection's or a request's first byte to the request's last."""

IDLE_SECONDS: Final = 75.0
"""Time a kept connection may be without a request, or take to read the last reply."""

HALF_CLOSED_SECONDS: Final = 0.1
"""Time in which calls may still be answered after the client has closed its side: most have left, few still read."""

DISCARD_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of a refused body that are read and dropped, so that its sender sees the refusal; then the connection ends."""

PIPELINED_MAX: Final = 1_024
"""Requests in line of a connection: more than come with one read are hardly ever there."""

_METHODS: Final = {name.encode(): name for name in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")}
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_LOG: Final = logging.getLogger("codeq.gateway")


class Connection(asyncio.Protocol):
    """A client's connection, as its transport and its parser see it.

    Args:
        gateway: Answers the requests.
        connections: Where the connection stands while it is open or its call runs.
    """

    def __init__(self, gateway: Gateway, connections: Connections[Connection]) -> None:
        self._gateway = gateway
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._line: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        """Answers the first in line."""
        self._deadline = 0.0
        """When the connection ends, unless a call runs."""
        self._is_writable = True
        self._is_paused = False
        self._is_deaf = False
        """Whether what comes is no request any more: the connection ends after the replies to those in line."""
        self._is_ending = False
        """Whether the next reply is the last."""
        self._is_lost = False
        self._is_known = False
        """Whether a call of it came with a token that is accepted."""
        # What is being read:
        self._is_reading = False
        self._progressed = False
        """Whether the last read held part of a body or the end of a request."""
        self._head_bytes = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._incoming: Exchange | None = None
        """The request whose body comes."""
        self._pieces: list[bytes] = []
        self._body_bytes = 0
        self._pending_bytes = 0
        """Bytes of the body that are counted as on their way."""

    # -- what the transport tells --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection, or closes it where there is no place for it."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._deadline = time.perf_counter() + REQUEST_SECONDS
        if not self._connections.admit(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """Cancels the call that runs, and lets go of everything."""
        self._is_lost = self._is_deaf = True
        self._incoming = None
        self._drop_body()
        if self._task is None:
            self._connections.discard(self)
        else:
            self._cancel(End.DISCONNECTED)
            self._line.popleft()
        self._give_up_line()

    def eof_received(self) -> bool:
        """Gives a client that closed its side the replies that come soon; returns whether there are any to come."""
        self._is_deaf = True
        if not self._line or self._line[-1] is self._incoming:
            return False
        self._loop.call_later(HALF_CLOSED_SECONDS, self._transport.abort)
        return True

    def pause_writing(self) -> None:
        """Answers nothing more until the client has read."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """Goes on."""
        self._is_writable = True
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of requests."""
        if self._is_deaf:
            return
        self._progressed = False
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # its request is answered as any other, and was the last
        except HttpParserError as error:
            if isinstance(error, HttpParserCallbackError):
                _LOG.exception("bytes of a request were not understood")
            self._break_off("the bytes are no HTTP request")
        if self._is_reading and not self._is_deaf:
            self._keep_bounds(len(data))

    # -- what the parser tells -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begins to read a request."""
        self._is_reading = True
        self._deadline = time.perf_counter() + REQUEST_SECONDS
        self._head_bytes = 0
        self._url = b""

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header; those that follow a body have no meaning here."""
        if self._incoming is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Begins a request."""
        headers, self._headers = self._headers, []
        if self._is_deaf or self._is_ending:
            return
        if len(headers) > HEADERS_MAX or len(self._line) >= PIPELINED_MAX:
            self._break_off(f"more than {HEADERS_MAX} headers or {PIPELINED_MAX} requests at a time")
            return
        path, _, query = self._url.partition(b"?")
        if path[:1] != b"/" or b"#" in self._url:
            try:
                url = parse_url(self._url)
            except HttpParserError:
                self._break_off("the target of the request is malformed")
                return
            path, query = url.path or b"/", url.query or b""
        parser = self._parser
        if not parser.should_keep_alive() and parser.get_http_version() not in _VERSIONS:
            self._break_off("the version of HTTP is none that is served")
            return
        named = dict(headers)
        if len(named) < len(headers) and (twice := header_fields.repeated(headers)):
            self._break_off(f"the header {twice} is given more than once")
            return
        if named.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            self._break_off("transfer-encoding: none but chunked is served")
            return
        method = parser.get_method()
        # A connection of HTTP/1.0 would have to be told that it is kept.
        keep_alive = parser.should_keep_alive() and (
            b"connection" not in named or (parser.get_http_version() == "1.1" and not parser.should_upgrade())
        )
        exchange = self._gateway.open(
            _METHODS.get(method) or method.decode(), path, query, named, keep_alive=keep_alive
        )
        self._incoming = exchange
        self._body_bytes = 0
        self._line.append(exchange)
        if len(self._line) == 1:
            self._advance()
        elif not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Takes a piece of a body."""
        self._progressed = True
        self._head_bytes = 0
        exchange = self._incoming
        if exchange is None:
            return
        self._body_bytes += len(body)
        if exchange.reply is not None:
            if self._body_bytes > DISCARD_BYTES_MAX:
                self._transport.abort()
        elif self._body_bytes > exchange.body_bytes_max:
            self._refuse(exchange, refusals.oversized_body(exchange.body_bytes_max))
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Ends the reading of a request."""
        self._is_reading = False
        self._progressed = True
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            return
        self._is_deaf = self._is_deaf or not exchange.keep_alive
        if exchange.reply is None:
            pieces = self._pieces
            if pieces:
                exchange.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                self._drop_body()
            exchange.is_complete = True
            if self._line[0] is exchange:
                self._advance()
        elif not self._line:  # it was answered before its end
            if self._is_ending:
                self._transport.close()
            self._deadline = time.perf_counter() + IDLE_SECONDS

    # -- bounds --------------------------------------------------------------------------------------------------------

    def _keep_bounds(self, size: int) -> None:
        """Bounds a request of which `size` more bytes have come, and not its end."""
        if not self._progressed:
            self._head_bytes += size
            if self._head_bytes > HEAD_BYTES_MAX:
                self._break_off("the head of the request is too large")
                return
        exchange = self._incoming
        if exchange is not None and exchange.reply is None and self._body_bytes > self._pending_bytes:
            try:
                self._gateway.bodies.take(self._body_bytes - self._pending_bytes)
            except CallFailed as failed:
                self._refuse(exchange, failed)
            else:
                self._pending_bytes = self._body_bytes

    def expire(self, now: float) -> None:
        """Cancels the call, or ends the connection, whose time is over."""
        if self._task is None:
            if now >= self._deadline:
                self._transport.abort()
        elif not self._is_lost and now >= self._line[0].deadline and self._line[0].end is None:
            self._cancel(End.TIMED_OUT)

    def _refuse(self, exchange: Exchange, failed: CallFailed) -> None:
        """Refuses a request whose body comes; the rest of it is dropped."""
        self._drop_body()
        self._body_bytes = 0
        self._gateway.refuse(exchange, failed)
        if self._line[0] is exchange:
            self._advance()

    def _drop_body(self) -> None:
        self._pieces = []
        if self._pending_bytes:
            self._gateway.bodies.release(self._pending_bytes)
            self._pending_bytes = 0

    def _break_off(self, message: str) -> None:
        """Refuses bytes that are no request, in the place of the request that they should be; hears nothing more."""
        if self._is_deaf:
            return  # what follows the last request
        self._is_deaf = True
        self._drop_body()
        exchange, self._incoming = self._incoming, None
        refusal = self._gateway.malformed(message)
        if exchange is None:
            self._line.append(refusal)
        elif exchange.reply is None:
            exchange.reply, exchange.keep_alive = refusal.reply, False
        if self._line:
            self._advance()
        else:
            self._transport.close()

    # -- answering -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Does what can be done for the first in line, and for those that follow when it is answered."""
        while self._line and self._task is None and self._is_writable:
            exchange = self._line[0]
            if exchange.reply is not None:
                self._send(exchange)
            elif exchange.is_complete:
                if not self._is_known:
                    self._connections.busy(self)
                self._task = self._loop.create_task(self._answer(exchange))
            else:
                if exchange.headers.get(b"expect", b"").lower() == b"100-continue" and not self._body_bytes:
                    self._transport.write(CONTINUE)
                break
        if self._is_paused and len(self._line) <= 1 and not self._is_lost:
            self._is_paused = False
            self._transport.resume_reading()

    async def _answer(self, exchange: Exchange) -> None:
        await self._gateway.answer(exchange)
        self._answered(exchange)

    def _answered(self, exchange: Exchange) -> None:
        self._task = None
        if self._is_lost:
            exchange.reply = None
            self._connections.discard(self)
            self._note(exchange, time.perf_counter())
            return
        if not self._is_known:
            self._meet(exchange)
        self._advance()

    def _meet(self, exchange: Exchange) -> None:
        """Notes whether the call that has ended came with a token: without one it does not succeed."""
        self._is_known = exchange.operation is not None and exchange.reply is not None and exchange.reply.status < 400
        if not self._is_known:
            self._connections.idle(self)

    def _send(self, exchange: Exchange) -> None:
        """Sends the reply to the first in line."""
        assert exchange.reply is not None
        self._line.popleft()
        if not exchange.keep_alive or (self._is_deaf and not self._line):
            self._is_ending = True
        self._transport.write(render(exchange.reply, exchange, close=self._is_ending))
        now = time.perf_counter()
        self._deadline = now + (REQUEST_SECONDS if self._is_reading else IDLE_SECONDS)
        self._note(exchange, now)
        if self._is_ending:
            self._give_up_line()
            if self._incoming is not exchange:  # else the rest of its body is dropped first
                self._is_deaf = True
                self._incoming = None
                self._transport.close()

    def _give_up_line(self) -> None:
        """Forgets requests that get no reply."""
        now = time.perf_counter()
        while self._line:
            exchange = self._line.popleft()
            exchange.reply = None
            self._note(exchange, now)

    def _note(self, exchange: Exchange, now: float) -> None:
        if exchange.route:
            self._gateway.note(exchange, now)

    def _cancel(self, end: End) -> None:
        task, exchange = self._task, self._line[0]
        assert task is not None
        exchange.end = end
        task.cancel()

        def settle(_: asyncio.Task[None]) -> None:
            if self._task is task:  # it was cancelled before it began
                self._gateway.cancelled(exchange)
                self._answered(exchange)

        task.add_done_callback(settle)

    # -- stopping ------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Ends the connection after the next reply; without a request, at once."""
        self._is_ending = True
        if not self._line:
            self._transport.close()

    def cut(self) -> None:
        """Tells the client that its request will not be carried out, and ends the connection."""
        if self._is_lost:
            return
        if self._task is not None:
            self._cancel(End.STOPPED)
        elif self._line and self._line[0].reply is None:
            self._incoming = None
            self._line[0].end = End.STOPPED
            self._gateway.cancelled(self._line[0])
            self._advance()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._transport.abort()
