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

from codeq.frames import let_go

from codeq_gateway import refusals
from codeq_gateway.app import Gateway
from codeq_gateway.connections import Connections
from codeq_gateway.dispatch import Admission, CallFailed
from codeq_gateway.exchange import CONTINUE, End, Exchange, render
from codeq_gateway.heads import Head
from codeq_gateway.request_parser import RequestParser

REQUEST_SECONDS: Final = 60.0
"""Time from a connection's or a request's first byte to the request's last."""

IDLE_SECONDS: Final = 75.0
"""Time a kept connection may be without a request, or take to read the last reply."""

HALF_CLOSED_SECONDS: Final = 0.1
"""Time in which calls may still be answered after the client has closed its side: most have left, few still read."""

DISCARD_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of a refused body that are read and dropped, so that its sender sees the refusal; then the connection ends."""

ANSWERS_AT_ONCE_MAX: Final = 8
"""Requests of a known client that are refused one after the other before others have their turn; a stranger waits
after each."""

SMALL_PIECE_BYTES: Final = 4096
"""Pieces of a body that are smaller are put together at once."""

LINGER_SECONDS: Final = 2.0
"""Time in which a client that is cut off in the middle of a request may still send, so that it reads why."""

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
        self._parser = RequestParser(self)
        self._transport: asyncio.Transport
        self._line: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        """Answers the first in line."""
        self._admission: asyncio.Task[None] | None = None
        """Finds out whether the sender of the body that comes may make the call; until then no more is read."""
        self._deadline = 0.0
        """When the connection ends, unless a call runs."""
        self._is_writable = True
        self._is_paused = False
        self._is_deaf = False
        """Whether what comes is no request any more: the connection ends after the replies to those in line."""
        self._is_ending = False
        """Whether the next reply is the last."""
        self._is_broken = False
        """Whether the client is cut off in the middle of what it sends."""
        self._is_lost = False
        self._is_known = False
        """Whether a call of it came with a token that is accepted."""
        self._head_bytes = 0
        """Bytes of an unfinished head that are counted among those of strangers."""
        self._is_reading = False
        self._answers_at_once = 0
        """Replies that were there with their heads, since others had their turn."""
        self._incoming: Exchange | None = None
        """The request whose body comes."""
        self._pieces: list[bytes | bytearray] = []
        self._body_bytes = 0
        self._discarded_bytes = 0
        self._is_waiting = False
        self._is_parsing = False
        self._pending_bytes = 0
        """Bytes of the body that are counted as on their way."""
        self._unread_bytes = 0
        """Bytes of replies that the client has yet to read, once they are many."""

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
        self._forget_unread()
        if self._admission is not None:
            self._admission.cancel()
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
        self._forget_unread()
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of requests."""
        if self._is_deaf:
            if self._is_broken:
                self._discard(len(data))
                self._wait()
            return
        if not self._is_waiting:
            self._answers_at_once = 0
        self._read(data)
        if self._incoming is not None and self._incoming.reply is not None:
            self._wait()
        self._listen()

    def _read(self, data: bytes) -> None:
        """Has the parser read on. Parts of what it reads never have it read more: it goes on by itself."""
        self._is_parsing = True
        try:
            self._parser.feed(data)
        except CallFailed as failed:
            self._break_off(failed)
        except Exception:  # noqa: BLE001 - a defect must not leave the connection without a reply
            _LOG.exception("bytes of a request were not understood")
            self._break_off(refusals.malformed("the bytes were not understood"))
        finally:
            self._is_parsing = False
        if not self._is_known and self._head_bytes != self._parser.unread_bytes:
            self._head_bytes = self._parser.unread_bytes
            self._connections.hold(self, self._head_bytes)
        if self._incoming is not None:
            self._count_body(self._incoming)

    # -- what the parser tells -----------------------------------------------------------------------------------------

    def on_begin(self) -> None:
        """Begins to read a request."""
        self._is_reading = True
        self._deadline = time.perf_counter() + REQUEST_SECONDS

    def on_head(self, head: Head) -> None:
        """Begins a request."""
        if self._is_ending:
            self._hear_nothing_more()
            return
        exchange = self._gateway.open(head)
        self._incoming = exchange
        self._body_bytes = self._discarded_bytes = 0
        self._line.append(exchange)
        if len(self._line) > 1 or self._is_waiting:
            self._stop_parser()
        elif exchange.reply is not None and self._answers_at_once >= ANSWERS_AT_ONCE_MAX:
            self._wait()
        else:
            self._answers_at_once += exchange.reply is not None
            self._advance()

    # -- turns ---------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Neither answers nor parses more until others have had their turn: strangers stand in line for theirs."""
        if self._is_waiting:
            return
        self._is_waiting = True
        if self._incoming is not None and self._incoming.reply is not None:
            self._listen()  # what has come of a refused body is dropped at once
        else:
            self._stop_parser()
        if self._is_known:
            self._loop.call_soon(self._go_on)
        else:
            self._connections.in_turn(self, self._go_on)

    def _go_on(self) -> None:
        """Takes the connection's turn."""
        self._is_waiting = False
        self._answers_at_once = 0
        if not self._is_lost:
            self._advance()
            self._listen()

    def _stop_parser(self) -> None:
        self._is_paused = True
        self._parser.pause()
        self._listen()

    def _listen(self) -> None:
        """Has the transport read, unless that would only be kept; who waits is heard, so that its end is noticed."""
        is_full = len(self._line) > 1 or self._incoming is not None or self._is_broken or self._parser.unread_bytes
        if self._admission is not None or ((self._is_paused or self._is_waiting) and is_full):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Takes a piece of a body."""
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
        else:  # each object has a size of its own: a body in tiny chunks would take many times what is counted
            self._pieces.append(bytearray(body))

    def on_end(self) -> None:
        """Ends the reading of a request."""
        self._is_reading = False
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            return
        if not exchange.keep_alive:
            self._hear_nothing_more()
        if exchange.reply is None:
            pieces = self._pieces
            if pieces:
                exchange.body = b"".join(pieces)
                exchange.held_bytes, self._pending_bytes = self._pending_bytes, 0
                self._drop_body()
            exchange.is_complete = True
            if self._line[0] is exchange:
                self._advance()
        elif not self._line:  # it was answered before its end
            if self._is_ending:
                self._transport.close()
            self._deadline = time.perf_counter() + IDLE_SECONDS

    # -- bounds --------------------------------------------------------------------------------------------------------

    def _count_body(self, exchange: Exchange) -> None:
        """Counts what has come of a body whose end has not."""
        if exchange.reply is None and exchange.admission is not None:
            check, exchange.admission = exchange.admission, None
            self._admission = self._loop.create_task(self._admit(exchange, check))
            self._listen()
        if exchange.reply is None and self._body_bytes > self._pending_bytes:
            try:
                self._gateway.bodies.take(self._body_bytes - self._pending_bytes)
            except CallFailed as failed:
                self._refuse(exchange, failed)
            else:
                self._pending_bytes = self._body_bytes

    async def _admit(self, exchange: Exchange, check: Admission) -> None:
        """Refuses a request whose sender may not make the call, and reads on."""
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
                self._listen()

    def expire(self, now: float) -> None:
        """Cancels the call, or ends the connection, whose time is over."""
        if self._task is None:
            if now < self._deadline:
                return
            if self._is_reading and self._is_writable and not self._is_deaf:
                self._break_off(refusals.request_timeout(REQUEST_SECONDS))
            else:
                self._transport.abort()
        elif not self._is_lost and now >= self._line[0].deadline and self._line[0].end is None:
            self._cancel(End.TIMED_OUT)

    def _refuse(self, exchange: Exchange, failed: CallFailed) -> None:
        """Refuses a request whose body comes; the rest of it is dropped."""
        self._drop_body()
        self._gateway.refuse(exchange, failed)
        if self._line[0] is exchange:
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
        """Counts bytes that are dropped."""
        self._discarded_bytes += size
        if self._discarded_bytes > DISCARD_BYTES_MAX:
            self._transport.abort()

    def _hear_nothing_more(self) -> None:
        self._is_deaf = True
        self._parser.pause()

    def _break_off(self, failed: CallFailed) -> None:
        """Refuses bytes that are no request, in the place of the request that they should be; hears nothing more."""
        if self._is_deaf:
            return  # what follows the last request
        self._hear_nothing_more()
        self._is_broken = True
        self._drop_body()
        exchange, self._incoming = self._incoming, None
        if exchange is None:
            self._line.append(self._gateway.malformed(failed))
        elif exchange.reply is None:
            self._gateway.refuse(exchange, failed)
            exchange.keep_alive = False
        if self._line:
            self._advance()
        else:
            self._close()

    def _close(self) -> None:
        """Ends the connection. Who is cut off may send on for a while: else the reply would be lost on its way."""
        if not self._is_broken:
            self._transport.close()
            return
        self._deadline = time.perf_counter() + LINGER_SECONDS
        self._transport.write_eof()

    # -- answering -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Does what can be done for the first in line, and for those that follow when it is answered."""
        while self._line and self._task is None and self._is_writable and not self._is_waiting:
            exchange = self._line[0]
            if exchange.reply is not None:
                self._send(exchange)
            elif exchange.is_complete:
                if not self._is_known:
                    self._connections.busy(self)
                self._task = self._loop.create_task(self._answer(exchange))
            else:
                is_admitted = exchange.admission is None and self._admission is None
                if exchange.expects_continue and is_admitted and not self._body_bytes:
                    self._transport.write(CONTINUE)
                break
        if self._is_paused and len(self._line) <= 1 and not self._is_waiting and not self._is_lost:
            self._is_paused = False
            if not self._is_deaf:
                self._parser.resume()
                if not self._is_parsing:
                    self._read(b"")
            self._listen()

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
        """Notes whether the call that has ended came with a token that was accepted."""
        status = 0 if exchange.operation is None or exchange.reply is None else exchange.reply.status
        self._is_known = 0 < status < 400 or status in {404, 409}  # what is or is not there, only who may call is told
        if self._is_known:
            self._connections.hold(self, 0)
        else:
            self._connections.idle(self)

    def _send(self, exchange: Exchange) -> None:
        """Sends the reply to the first in line."""
        assert exchange.reply is not None
        self._line.popleft()
        is_unheard = exchange is self._incoming and exchange.expects_continue and not self._body_bytes
        if not exchange.keep_alive or is_unheard or (self._is_deaf and not self._line):
            self._is_ending = True
        content = render(exchange.reply, exchange, close=self._is_ending)
        self._transport.write(content)
        if not self._is_writable:
            self._unread_bytes += len(content)
            self._gateway.bodies.hold(len(content))
        now = time.perf_counter()
        self._deadline = now + (REQUEST_SECONDS if self._is_reading else IDLE_SECONDS)
        self._note(exchange, now)
        if exchange.reply.status >= 400 and not self._is_known and exchange.page is None and not self._is_ending:
            self._wait()
        if self._is_ending:
            self._give_up_line()
            self._is_broken = self._is_broken or is_unheard  # its body may come or not
            if is_unheard or self._incoming is not exchange:  # else the rest of its body is dropped first
                self._hear_nothing_more()
                self._incoming = None
                self._close()

    def _give_up_line(self) -> None:
        """Forgets requests that get no reply."""
        now = time.perf_counter()
        while self._line:
            exchange = self._line.popleft()
            exchange.reply = None
            self._note(exchange, now)

    def _note(self, exchange: Exchange, now: float) -> None:
        if exchange.held_bytes:
            self._gateway.bodies.release(exchange.held_bytes)
            exchange.held_bytes = 0
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
        if self._is_waiting:
            self._connections.leave_line(self)
            self._go_on()
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
