"""One HTTP/1.1 connection: reads requests and sends replies in order, with a limit on every wait and size.

Requests of a connection form a pipeline: the first is being answered, the others wait. While any wait, nothing more is
read. All timeouts use `time.perf_counter` and are checked by `expire`, so that a request needs no timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Final, cast

from codeq.frames import let_go

from codeq_gateway import origins, refusals
from codeq_gateway.app import Gateway
from codeq_gateway.connections import Connections
from codeq_gateway.dispatch import Admission, CallFailed
from codeq_gateway.exchange import CONTINUE, End, Exchange, render
from codeq_gateway.heads import Head
from codeq_gateway.request_parser import RequestParser

REQUEST_SECONDS = 60.0
"""Timeout for receiving a request, from the connection's start or the request's first byte."""

IDLE_SECONDS = 75.0
"""Timeout of a keep-alive connection without a request, and of a client that does not read its last reply."""

HALF_CLOSED_SECONDS = 0.1
"""Time for replies after the client has closed its side: most of these clients have disconnected, a few still read."""

DISCARD_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of a rejected body that are read and dropped so that its sender sees the reply; beyond, the connection ends."""

ANSWERS_AT_ONCE_MAX: Final = 8
"""Rejections that an authenticated client gets in a row before other connections have a turn; a stranger waits after
each one."""

SMALL_PIECE_BYTES: Final = 4096
"""Smaller pieces of a body are joined as they arrive."""

LINGER_SECONDS: Final = 2.0
"""Time for a client whose request was rejected midway to go on sending, so that it reads the reply."""

_LOG: Final = logging.getLogger("codeq.gateway")


class Connection(asyncio.Protocol):
    """A client's connection: the protocol of its transport and the receiver of its parser.

    Args:
        gateway: Answers the requests.
        connections: Lists the connection while it is open or its call runs.
    """

    def __init__(self, gateway: Gateway, connections: Connections[Connection]) -> None:
        self._gateway = gateway
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self)
        self._transport: asyncio.Transport
        self._origin: str
        self._pipeline: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        """Answers the first request of the pipeline."""
        self._admission: asyncio.Task[None] | None = None
        """Checks whether the sender of the arriving body may make the call; reading stops until then."""
        self._deadline = 0.0
        """Time at which the connection is closed, unless a call is running."""
        self._is_writable = True
        self._is_paused = False
        self._ignores_input = False
        """Whether unparsable input has arrived; the connection ends after the replies to its pipeline."""
        self._is_ending = False
        """Whether the next reply is the last."""
        self._is_broken = False
        """Whether the client's request was rejected midway."""
        self._is_lost = False
        self._is_stranger = True
        """Whether none of its calls has had an accepted token yet."""
        self._head_bytes = 0
        """Bytes of an unfinished head, as counted towards the limit of strangers."""
        self._is_reading = False
        self._answers_at_once = 0
        """Requests rejected by their heads since other connections had a turn."""
        self._incoming: Exchange | None = None
        """The request whose body is arriving."""
        self._pieces: list[bytes | bytearray] = []
        self._body_bytes = 0
        self._discarded_bytes = 0
        self._is_waiting = self._is_parsing = False
        self._pending_bytes = 0
        """Bytes of the body that are counted as in flight."""
        self._unread_bytes = 0
        """Bytes of replies that the client has yet to read, counted while writing is paused."""

    # -- callbacks of the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admits a connection, or closes it at the limit."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not derive from it
        self._origin = origins.of_socket(transport.get_extra_info("peername"))
        self._deadline = time.perf_counter() + REQUEST_SECONDS
        if not self._connections.admit(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        """Cancels the running call and releases everything held."""
        self._is_lost = self._ignores_input = True
        self._incoming = None
        self._drop_body()
        self._forget_unread()
        if self._admission is not None:
            self._admission.cancel()
        if self._task is None:
            self._connections.discard(self)
        else:
            self._cancel(End.DISCONNECTED)
            self._pipeline.popleft()
        self._drop_pipeline()

    def eof_received(self) -> bool:
        """Lets a client that closed its side get replies that are ready soon; returns whether any are due."""
        self._ignores_input = True
        if not self._pipeline or self._pipeline[-1] is self._incoming:
            return False
        self._loop.call_later(HALF_CLOSED_SECONDS, self._transport.abort)
        return True

    def pause_writing(self) -> None:
        """Holds replies back until the client has read."""
        self._is_writable = False

    def resume_writing(self) -> None:
        """Sends the replies that were held back."""
        self._is_writable = True
        self._forget_unread()
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Parses bytes of requests, or drops those that follow the last one."""
        if self._ignores_input:
            if self._is_broken:
                self._discard(len(data))
                self._wait()
            return
        if not self._is_waiting:
            self._answers_at_once = 0
        self._read(data)
        if self._incoming is not None and self._incoming.reply is not None:
            self._wait()
        self._update_reading()

    def _read(self, data: bytes) -> None:
        """Feeds the parser. Its callbacks never feed it again, because it continues by itself."""
        self._is_parsing = True
        try:
            self._parser.feed(data)
        except CallFailed as failed:
            self._break_off(failed)
        except Exception:  # noqa: BLE001 - a defect must not leave the connection without a reply
            _LOG.exception("request_not_parsed")
            self._break_off(refusals.malformed("the request could not be parsed"))
        finally:
            self._is_parsing = False
        if self._is_stranger and self._head_bytes != self._parser.unread_bytes:
            self._head_bytes = self._parser.unread_bytes
            self._connections.hold(self, self._head_bytes)
        if self._incoming is not None:
            self._count_body(self._incoming)

    # -- callbacks of the parser ---------------------------------------------------------------------------------------

    def on_begin(self) -> None:
        """Starts the timeout of a request."""
        self._is_reading = True
        self._deadline = time.perf_counter() + REQUEST_SECONDS

    def on_head(self, head: Head) -> None:
        """Adds a request to the pipeline."""
        if self._is_ending:
            self._ignore_input()
            return
        exchange = self._gateway.open(head, self._transport, self._origin)
        self._incoming = exchange
        self._body_bytes = self._discarded_bytes = 0
        self._pipeline.append(exchange)
        if len(self._pipeline) > 1 or self._is_waiting:
            self._stop_parser()
        elif exchange.reply is not None and self._answers_at_once >= ANSWERS_AT_ONCE_MAX:
            self._wait()
        else:
            self._answers_at_once += exchange.reply is not None
            self._advance()

    # -- turns ---------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Stops answering and parsing until other connections have had a turn; strangers queue for theirs."""
        if self._is_waiting:
            return
        self._is_waiting = True
        if self._incoming is not None and self._incoming.reply is not None:
            self._update_reading()  # a rejected body is dropped as it arrives, so none of it is held
        else:
            self._stop_parser()
        if self._is_stranger:
            self._connections.wait_turn(self, self._resume)
        else:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        """Continues when it is the connection's turn."""
        self._is_waiting = False
        self._answers_at_once = 0
        if not self._is_lost:
            self._advance()
            self._update_reading()

    def _stop_parser(self) -> None:
        self._is_paused = True
        self._parser.pause()
        self._update_reading()

    def _update_reading(self) -> None:
        """Resumes reading unless input would only be buffered. A waiting connection reads on, to notice its end."""
        is_full = len(self._pipeline) > 1 or self._incoming is not None or self._is_broken or self._parser.unread_bytes
        if self._admission is not None or ((self._is_paused or self._is_waiting) and is_full):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Stores a piece of a body, or drops it if the request was rejected."""
        exchange = self._incoming
        if exchange is None:
            return
        if exchange.reply is not None:
            self._discard(len(body))
            return
        self._body_bytes += len(body)
        if self._body_bytes > exchange.body_bytes_max:
            self._refuse(exchange, refusals.oversized_body(exchange.body_bytes_max))
        elif len(body) >= SMALL_PIECE_BYTES or not self._pieces:
            self._pieces.append(body)
        elif isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += body
        else:  # every object has overhead: a body in tiny chunks would take many times the counted bytes
            self._pieces.append(bytearray(body))

    def on_end(self) -> None:
        """Answers a request that is complete."""
        self._is_reading = False
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            return
        if not exchange.keep_alive:
            self._ignore_input()
        if exchange.reply is None:
            pieces = self._pieces
            if pieces:
                exchange.body = b"".join(pieces)
                exchange.held_bytes, self._pending_bytes = self._pending_bytes, 0
                self._drop_body()
            exchange.is_complete = True
            if self._pipeline[0] is exchange:
                self._advance()
        elif not self._pipeline:  # the request was answered before it was complete
            if self._is_ending:
                self._transport.close()
            self._deadline = time.perf_counter() + IDLE_SECONDS

    # -- bounds --------------------------------------------------------------------------------------------------------

    def _count_body(self, exchange: Exchange) -> None:
        """Counts the bytes of an incomplete body, and starts the check of its sender."""
        if exchange.reply is None and exchange.admission is not None:
            check, exchange.admission = exchange.admission, None
            self._admission = self._loop.create_task(self._admit(exchange, check))
            self._update_reading()
        if exchange.reply is None and self._body_bytes > self._pending_bytes:
            try:
                self._gateway.bodies.take(self._body_bytes - self._pending_bytes)
            except CallFailed as failed:
                self._refuse(exchange, failed)
            else:
                self._pending_bytes = self._body_bytes

    async def _admit(self, exchange: Exchange, check: Admission) -> None:
        """Rejects a request whose sender may not make the call, then resumes reading."""
        try:
            await check()
        except CallFailed as failed:
            if self._incoming is exchange:
                self._refuse(exchange, failed)
            let_go(failed)
        finally:
            self._admission = None
            if not self._is_lost:
                self._advance()
                if exchange.reply is not None and self._incoming is exchange:
                    self._wait()
                self._update_reading()

    def expire(self, now: float) -> None:
        """Cancels a call or closes a connection that has timed out."""
        if self._task is None:
            if now < self._deadline:
                return
            if self._is_reading and self._is_writable and not self._ignores_input:
                self._break_off(refusals.request_timeout(REQUEST_SECONDS))
            else:
                self._transport.abort()
        elif not self._is_lost and now >= self._pipeline[0].deadline and self._pipeline[0].end is None:
            self._cancel(End.TIMED_OUT)

    def _refuse(self, exchange: Exchange, failed: CallFailed) -> None:
        """Rejects a request whose body is arriving; the rest of it is dropped."""
        self._drop_body()
        self._gateway.refuse(exchange, failed)
        if self._pipeline[0] is exchange:
            self._advance()

    def _forget_unread(self) -> None:
        self._gateway.bodies.release(self._unread_bytes)
        self._unread_bytes = 0

    def _drop_body(self) -> None:
        self._pieces = []
        if self._pending_bytes:
            self._gateway.bodies.release(self._pending_bytes)
            self._pending_bytes = 0

    def _discard(self, size: int) -> None:
        """Counts dropped bytes; aborts the connection at the limit."""
        self._discarded_bytes += size
        if self._discarded_bytes > DISCARD_BYTES_MAX:
            self._transport.abort()

    def _ignore_input(self) -> None:
        self._ignores_input = True
        self._parser.pause()

    def _break_off(self, failed: CallFailed) -> None:
        """Rejects bytes that are not a request, in their place in the pipeline; ignores further input."""
        if self._ignores_input:
            return  # the bytes follow the last request
        self._ignore_input()
        self._is_broken = True
        self._drop_body()
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            self._pipeline.append(self._gateway.malformed(failed))
        elif exchange.reply is None:
            self._gateway.refuse(exchange, failed)
            exchange.keep_alive = False
        if self._pipeline:
            self._advance()
        else:
            self._close()

    def _close(self) -> None:
        """Closes the connection. A client rejected midway may send a while longer, or its reply would be lost."""
        if not self._is_broken:
            self._transport.close()
            return
        self._deadline = time.perf_counter() + LINGER_SECONDS
        self._transport.write_eof()

    # -- answering -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Answers the requests of the pipeline in order, as far as possible now."""
        while self._pipeline and self._task is None and self._is_writable and not self._is_waiting:
            exchange = self._pipeline[0]
            if exchange.reply is not None:
                self._send(exchange)
            elif exchange.is_complete:
                if self._is_stranger:
                    self._connections.busy(self)
                self._task = self._loop.create_task(self._answer(exchange))
            else:
                is_admitted = exchange.admission is None and self._admission is None
                if exchange.expects_continue and is_admitted and not self._body_bytes:
                    self._transport.write(CONTINUE)
                break
        if self._is_paused and len(self._pipeline) <= 1 and not self._is_waiting and not self._is_lost:
            self._is_paused = False
            if not self._ignores_input:
                self._parser.resume()
                if not self._is_parsing:
                    self._read(b"")
            self._update_reading()

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
        if self._is_stranger:
            self._learn(exchange)
        self._advance()

    def _learn(self, exchange: Exchange) -> None:
        """Learns from a reply whether the call had an accepted token."""
        status = 0 if exchange.operation is None or exchange.reply is None else exchange.reply.status
        # Only permitted callers learn whether something exists.
        self._is_stranger = not (0 < status < 400 or status in {404, 409})
        if self._is_stranger:
            self._connections.idle(self)
        else:
            self._connections.hold(self, 0)

    def _send(self, exchange: Exchange) -> None:
        """Sends the reply to the first request of the pipeline."""
        assert exchange.reply is not None
        self._pipeline.popleft()
        is_unread = exchange is self._incoming and exchange.expects_continue and not self._body_bytes
        if not exchange.keep_alive or is_unread or (self._ignores_input and not self._pipeline):
            self._is_ending = True
        content = render(exchange.reply, exchange, close=self._is_ending)
        self._transport.write(content)
        if not self._is_writable:
            self._unread_bytes += len(content)
            self._gateway.bodies.hold(len(content))
        now = time.perf_counter()
        self._deadline = now + (REQUEST_SECONDS if self._is_reading else IDLE_SECONDS)
        self._note(exchange, now)
        if exchange.reply.status >= 400 and self._is_stranger and exchange.page is None and not self._is_ending:
            self._wait()
        if self._is_ending:
            self._drop_pipeline()
            self._is_broken = self._is_broken or is_unread  # its body may or may not arrive
            if is_unread or self._incoming is not exchange:  # otherwise the rest of its body is dropped first
                self._ignore_input()
                self._incoming = None
                self._close()

    def _drop_pipeline(self) -> None:
        """Drops the requests that get no reply."""
        now = time.perf_counter()
        while self._pipeline:
            exchange = self._pipeline.popleft()
            exchange.reply = None
            self._note(exchange, now)

    def _note(self, exchange: Exchange, now: float) -> None:
        if exchange.held_bytes:
            self._gateway.bodies.release(exchange.held_bytes)
            exchange.held_bytes = 0
        if exchange.route:
            self._gateway.note(exchange, now)

    def _cancel(self, end: End) -> None:
        task, exchange = self._task, self._pipeline[0]
        assert task is not None
        exchange.end = end
        task.cancel()

        def finish(_: asyncio.Task[None]) -> None:
            if self._task is task:  # the call was cancelled before it started
                self._gateway.cancelled(exchange)
                self._answered(exchange)

        task.add_done_callback(finish)

    # -- stopping ------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Closes the connection after the next reply; without a request, at once."""
        self._is_ending = True
        if self._is_waiting:
            self._connections.leave_queue(self)
            self._resume()
        if not self._pipeline:
            self._transport.close()

    def cut(self) -> None:
        """Rejects the first request because the server stops, and closes the connection."""
        if self._is_lost:
            return
        if self._task is not None:
            self._cancel(End.STOPPED)
        elif self._pipeline and self._pipeline[0].reply is None:
            self._incoming = None
            self._pipeline[0].end = End.STOPPED
            self._gateway.cancelled(self._pipeline[0])
            self._advance()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._transport.abort()
