"""gRPC calls on an event loop: calls and streams share one connection to a server."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Final, Self, cast

from codeq import dialing, errors, http2, rpc
from codeq.dialing import Target
from codeq.rpc import Metadata
from codeq.tls import ContextSource

KEEPALIVE_SECONDS: Final = 15.0
"""Time without data from a server, during a call, after which the client pings the server."""

KEEPALIVE_ANSWER_SECONDS: Final = 5.0
"""Timeout of the ping's answer, so that a server that vanished silently is noticed within 20 s."""


FAREWELL_SECONDS_MAX: Final = 1.0
"""Maximum wait until the last bytes of a connection are sent."""

REFUSALS_MAX: Final = 10
"""Attempts of a call that the server rejects unprocessed, for example at its stream limit, before one last attempt."""

REFUSAL_SECONDS: Final = 0.01
"""Wait after the first of these rejections; it doubles with each one."""

REFUSAL_SECONDS_MAX: Final = 0.2
"""Upper limit of this wait."""


class CallEnded(Exception):  # noqa: N818 - not a failure: reading tells how the call ended
    """The call is over, so nothing more can be written."""


class AsyncCall:
    """A stream of messages in both directions. One task reads, one writes."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._call = rpc.Call()
        self._number = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._owed = 0

    def done(self) -> bool:
        """Returns whether the call has ended."""
        return self._call.is_over

    async def write(self, message: bytes, *, is_last: bool = False) -> None:
        """Sends a message; returns once the server's window and the socket have accepted it.

        Raises:
            CallEnded: The call is over; `read` raises the reason.
        """
        if self._call.is_over:
            raise CallEnded
        self._connection.send(self._number, rpc.framed(message), is_end=is_last)
        while self._connection.is_blocked(self._number) and not self._call.is_over:
            self._writer = self._connection.loop.create_future()
            await self._writer
        if self._call.is_over:
            raise CallEnded

    async def done_writing(self) -> None:
        """Half-closes the call: no further messages follow."""
        if not self._call.is_over:
            self._connection.send(self._number, b"", is_end=True)

    async def read(self) -> bytes | None:
        """Returns the next message; None after the last one.

        Raises:
            CodeqError: The call failed.
        """
        call = self._call
        while not call.messages:
            if call.is_over:
                if call.error is not None:
                    raise call.error.again()
                return None
            self._reader = self._connection.loop.create_future()
            await self._reader
        message = call.pop()
        if self._owed and call.unread < http2.WINDOW_BYTES:
            self._connection.consumed(self._number, self._owed)
            self._owed = 0
        return message

    def cancel(self) -> None:
        """Cancels the call, if it has not ended."""
        self.fail(errors.Unavailable("the call was cancelled"))

    def begin(self, method: str, metadata: Metadata, seconds: float | None) -> None:
        """Sends the headers; called once, by the connection."""
        self._number = self._connection.open(self, method, metadata, seconds)

    def fail(self, error: errors.CodeqError) -> None:
        """Ends the call from this side, with an error."""
        if not self._call.is_over:
            self._call.fail(error)
            self._connection.end(self._number, is_reset=True)
            self._wake()

    def take(self, event: http2.Event) -> None:
        """Handles an event from the server; called by the connection."""
        call = self._call
        if isinstance(event, http2.DataReceived):
            call.take_data(event.data, is_end=event.is_end)
            if call.unread < http2.WINDOW_BYTES:
                self._connection.consumed(self._number, event.size)
            else:  # nobody is reading: withhold the window so that the server waits
                self._owed += event.size
        elif isinstance(event, http2.HeadersReceived):
            call.take_headers(event.headers, is_end=event.is_end)
        elif isinstance(event, http2.StreamReset):
            call.take_reset(event.code)
        elif self._number > event.last_stream:
            call.fail(errors.NotSent("the server is going away"))
        if call.is_over:
            self._connection.end(self._number, is_reset=not isinstance(event, http2.StreamReset))
        self._wake()

    def wake_writer(self) -> None:
        """Wakes a blocked write to check whether it is done."""
        if (waiting := self._writer) is not None:
            self._writer = None
            if not waiting.done():
                waiting.set_result(None)

    def _wake(self) -> None:
        if self._call.is_over:
            self.wake_writer()
        if (waiting := self._reader) is not None:
            self._reader = None
            if not waiting.done():
                waiting.set_result(None)


class _Connection(asyncio.Protocol):
    """The HTTP/2 connection that carries the calls."""

    def __init__(self, target: Target, scheme: str) -> None:
        self.loop = asyncio.get_running_loop()
        self._target, self._scheme = target, scheme
        self._http2 = http2.Http2()
        self._calls: dict[int, AsyncCall] = {}
        self._waiting: list[asyncio.Future[None]] = []  # for another stream to end
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._is_going = False
        self._heard_at = self.loop.time()
        self._is_asked = False
        self._alarm: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] = self.loop.create_future()
        self._greeting: asyncio.Future[None] = self.loop.create_future()

    @property
    def is_usable(self) -> bool:
        """Whether new calls can begin."""
        return self._transport is not None and not self._is_going and not self._http2.is_used_up

    async def greeted(self) -> None:
        """Waits for the server's settings, which include its limit of streams.

        Raises:
            NotSent: The server does not speak HTTP/2, or sends nothing.
        """
        try:
            async with asyncio.timeout(dialing.CONNECT_SECONDS_MAX):
                await self._greeting
        except TimeoutError:
            raise errors.NotSent(f"{self._target.authority} accepts the connection but sends nothing") from None
        except ConnectionError as error:
            raise errors.NotSent(f"{self._target.authority} accepts the connection, but: {error}") from None

    async def call(self, method: str, metadata: Metadata, seconds: float | None) -> AsyncCall:
        """Starts a call; waits while the connection is at the server's stream limit."""
        while len(self._calls) >= self._http2.streams_max and self.is_usable:
            waiting = self.loop.create_future()
            self._waiting.append(waiting)
            await waiting
        if not self.is_usable:
            raise errors.NotSent("the connection is going away")
        call = AsyncCall(self)
        call.begin(method, metadata, seconds)
        return call

    def open(self, call: AsyncCall, method: str, metadata: Metadata, seconds: float | None) -> int:
        try:
            headers = rpc.headers_of(method, self._target.authority, self._scheme, metadata, seconds)
        except ValueError as error:
            raise errors.Unauthenticated(str(error)) from None
        number = self._http2.open(headers)
        self._calls[number] = call
        if self._alarm is None:
            self._heard_at = self.loop.time()
            self._alarm = self.loop.call_later(KEEPALIVE_SECONDS, self._check_life)
        return number  # the headers go out with the first message

    def send(self, number: int, data: bytes, *, is_end: bool) -> None:
        self._http2.send(number, data, is_end=is_end)
        self._flush()

    def is_blocked(self, number: int) -> bool:
        return self._is_paused or self._http2.queued(number) > 0

    def consumed(self, number: int, size: int) -> None:
        self._http2.consumed(number, size)
        self._flush()

    def end(self, number: int, *, is_reset: bool) -> None:
        """Forgets a call that is over."""
        if self._calls.pop(number, None) is None:
            return
        if self._http2.forget(number) and is_reset:
            self._http2.reset(number)
            self._flush()
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
        if self._is_going and not self._calls:
            self.close()

    def retire(self) -> None:
        """Takes no further calls, and disconnects once the last one has ended."""
        self._is_going = True
        if not self._calls:
            self.close()

    def close(self) -> None:
        """Disconnects once everything written so far is sent."""
        self._is_going = True
        for call in list(self._calls.values()):
            call.cancel()
        if self._transport is not None and not self._transport.is_closing():
            self._http2.leave()
            self._flush()
            self._transport.close()

    async def closed(self) -> None:
        """Waits until everything written is sent and the socket is closed, for at most FAREWELL_SECONDS_MAX."""
        if self._transport is not None:
            await asyncio.wait((self._lost,), timeout=FAREWELL_SECONDS_MAX)
            self.abort()

    def abort(self) -> None:
        """Drops the connection along with all unsent data."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._heard_at, self._is_asked = self.loop.time(), False
        try:
            events = self._http2.receive(data)
        except http2.ProtocolError as error:
            self._lose(str(error))
            return
        if not self._greeting.done() and self._http2.is_greeted:
            self._greeting.set_result(None)
        for event in events:
            if isinstance(event, http2.GoingAway):
                self._is_going = True
                for call in list(self._calls.values()):
                    call.take(event)
            elif (found := self._calls.get(event.stream)) is not None:
                found.take(event)
        self._flush()
        self._wake_writers()
        if self._is_going and not self._calls:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._alarm is not None:
            self._alarm.cancel()
        self._lose(str(exc) if exc else "the server closed the connection")
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._wake_writers()

    def _wake_writers(self) -> None:
        for call in self._calls.values():
            call.wake_writer()

    def _lose(self, why: str) -> None:
        self._is_going = True
        if not self._greeting.done():
            self._greeting.set_exception(ConnectionError(why))
            self._greeting.exception()  # mark as retrieved, in case nobody waits
        for call in list(self._calls.values()):
            call.fail(errors.Unavailable(f"the connection was lost: {why}"))
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self.abort()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and (data := self._http2.take()):
            self._transport.write(data)

    def _check_life(self) -> None:
        """Pings a silent server while calls are open, and drops the connection if it does not answer."""
        self._alarm = None
        if not self._calls or self._transport is None:
            return
        quiet = self.loop.time() - self._heard_at
        if self._is_asked and quiet >= KEEPALIVE_SECONDS:
            self._lose("the server does not answer")
            return
        following = KEEPALIVE_SECONDS - quiet
        if following <= 0:
            self._is_asked = True
            self._http2.ping()
            self._flush()
            following = KEEPALIVE_ANSWER_SECONDS
        self._alarm = self.loop.call_later(following, self._check_life)


class AsyncChannel:
    """Calls to one server. Connects on the first call, and reconnects when the connection is lost."""

    def __init__(self, address: str, source: ContextSource | None) -> None:
        """Creates a channel on the running event loop.

        Args:
            address: The server.
            source: Of contexts for TLS; None: plaintext.
        """
        self._address = address
        self._source = source
        self._connection: _Connection | None = None
        self._dialing: asyncio.Task[_Connection] | None = None
        self.loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def unary(self, method: str, request: bytes, metadata: Metadata, seconds: float) -> bytes:
        """Makes a call with one request and one reply.

        Raises:
            CodeqError: The call failed.
        """
        try:
            async with asyncio.timeout(seconds):
                kept = self._connection
                for attempt in range(REFUSALS_MAX):
                    call = await self.stream(method, metadata, seconds)
                    try:
                        return await _answer(call, request)
                    except errors.Unauthenticated as error:
                        if kept is None or not rpc.is_of_expired_certificate(error, metadata):
                            raise
                        kept.retire()  # the next connection shows the certificate that the files hold by now
                        kept = None
                    except errors.NotSent:  # rejected unprocessed, most likely shortly before another call ended
                        await asyncio.sleep(min(REFUSAL_SECONDS_MAX, REFUSAL_SECONDS * 2**attempt))
                return await _answer(await self.stream(method, metadata, seconds), request)
        except TimeoutError:
            raise errors.DeadlineExceeded("no answer within the timeout") from None

    async def stream(self, method: str, metadata: Metadata, seconds: float | None = None) -> AsyncCall:
        """Starts a call.

        Raises:
            NotSent: No connection could be made.
        """
        if self._connection is None or not self._connection.is_usable:
            if self._dialing is None:
                self._dialing = self.loop.create_task(self._dial(), name="codeq-dial")
                self._dialing.add_done_callback(_retrieve)
            # Several calls share one connection attempt: cancelling one of them must not abort it.
            connection = await asyncio.shield(self._dialing)
        else:
            connection = self._connection
        return await connection.call(method, metadata, seconds)

    async def close(self) -> None:
        """Disconnects; calls in flight fail. Does nothing on any loop but the channel's."""
        if self.loop is not asyncio.get_running_loop():
            return
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.gather(self._dialing, return_exceptions=True)
        if (connection := self._connection) is not None:
            self._connection = None
            connection.close()
            await connection.closed()

    async def _dial(self) -> _Connection:
        try:
            target = Target.parse(self._address)
            scheme = "http" if self._source is None else "https"
            _, made = await dialing.dial_async(target, self._source, lambda: _Connection(target, scheme))
            connection = cast("_Connection", made)
            try:
                await connection.greeted()
            except BaseException:
                connection.abort()
                raise
        except ValueError as error:
            raise errors.NotSent(str(error)) from None
        else:
            self._connection = connection  # here, as the calls that wait for it may have timed out
            return connection
        finally:
            self._dialing = None


def _retrieve(dialing: asyncio.Task[_Connection]) -> None:
    """Marks the error of a connection attempt as retrieved, in case no call waits for it any more."""
    if not dialing.cancelled():
        dialing.exception()


async def _answer(call: AsyncCall, request: bytes) -> bytes:
    """Sends the one request of a call and returns its one reply."""
    try:
        with contextlib.suppress(CallEnded):
            await call.write(request, is_last=True)
        reply = await call.read()
        if reply is None:
            raise errors.ServerFault("the server sent no reply")
        while await call.read() is not None:
            pass
        return reply
    finally:
        call.cancel()
