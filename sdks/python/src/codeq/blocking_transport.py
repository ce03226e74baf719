"""Blocking gRPC calls, each on a connection of its own.

They need no thread and no lock of the SDK, so they also work in signal handlers and during interpreter shutdown.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections import deque
from typing import Final

from codeq import dialing, errors, http2, rpc
from codeq.async_transport import KEEPALIVE_ANSWER_SECONDS, KEEPALIVE_SECONDS
from codeq.dialing import Target
from codeq.rpc import Metadata
from codeq.tls import ContextSource

IDLE_MAX: Final = 16
"""Idle connections kept for later calls."""

_RECEIVE_BYTES: Final = 256 * 1024


class BlockingChannel:
    """Calls to one server. Thread-safe."""

    def __init__(self, address: str, source: ContextSource | None) -> None:
        """Creates a channel; it connects when a call is made.

        Args:
            address: The server.
            source: Of contexts for TLS; None: plaintext.
        """
        self._address = address
        self._source = source
        self._idle: deque[_Connection] = deque()  # a deque's methods are atomic, so it needs no lock
        self._busy: set[_Connection] = set()
        self._is_closed = False

    def unary(self, method: str, request: bytes, metadata: Metadata, seconds: float) -> bytes:
        """Makes a call with one request and one reply.

        Raises:
            CodeqError: The call failed.
        """
        deadline = time.monotonic() + seconds
        if (kept := self._take()) is not None:
            try:
                return self._call(kept, method, request, metadata, deadline)
            except errors.Unauthenticated as error:
                if not rpc.is_of_expired_certificate(error, metadata):
                    raise
        return self._call(self._dial(deadline), method, request, metadata, deadline)

    def _call(self, connection: _Connection, method: str, request: bytes, metadata: Metadata, deadline: float) -> bytes:
        self._busy.add(connection)
        if self._is_closed:
            connection.shut()
        try:
            reply = connection.call(method, request, metadata, deadline)
        except BaseException:
            connection.close()
            if self._is_closed:
                raise _closed() from None
            raise
        finally:
            self._busy.discard(connection)
        self._keep(connection)
        return reply

    def close(self) -> None:
        """Disconnects; calls in flight fail."""
        self._is_closed = True
        for connection in self._busy.copy():
            connection.shut()
        while (idle := self._take()) is not None:
            idle.close()

    def _take(self) -> _Connection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if connection.is_alive():
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        if len(self._idle) < IDLE_MAX and connection.is_usable:
            self._idle.append(connection)
        else:
            connection.close()
        if self._is_closed:
            self.close()

    def _dial(self, deadline: float) -> _Connection:
        try:
            target = Target.parse(self._address)
        except ValueError as error:
            raise errors.NotSent(str(error)) from None
        sock = dialing.dial(target, self._source, deadline)
        return _Connection(sock, target, "http" if self._source is None else "https")


class _Connection:
    """A connection for one call at a time."""

    def __init__(self, sock: socket.socket, target: Target, scheme: str) -> None:
        self._socket = sock
        self._target, self._scheme = target, scheme
        self._http2 = http2.Http2()
        self._is_going = False

    @property
    def is_usable(self) -> bool:
        """Whether another call can start."""
        return not self._is_going and not self._http2.is_used_up

    def is_alive(self) -> bool:
        """Handles data received while idle (pings, a GOAWAY, a close), and returns whether the connection is usable."""
        try:
            self._socket.setblocking(False)  # noqa: FBT003 - socket's own
            while True:
                if not (data := self._socket.recv(_RECEIVE_BYTES)):
                    return False
                for event in self._http2.receive(data):
                    self._is_going = self._is_going or isinstance(event, http2.GoingAway)
        except (BlockingIOError, ssl.SSLWantReadError):
            return self.is_usable
        except (OSError, http2.ProtocolError):
            return False

    def call(self, method: str, request: bytes, metadata: Metadata, deadline: float) -> bytes:
        call = rpc.Call()
        seconds = deadline - time.monotonic()
        try:
            headers = rpc.headers_of(method, self._target.authority, self._scheme, metadata, seconds)
        except ValueError as error:
            raise errors.Unauthenticated(str(error)) from None
        number = self._http2.open(headers)
        self._http2.send(number, rpc.framed(request), is_end=True)
        try:
            while True:
                self._send(deadline)
                if call.is_over:
                    break
                self._receive(number, call, deadline)
        except (OSError, http2.ProtocolError) as error:
            if not call.is_over:
                text = str(error) or type(error).__name__
                raise errors.Unavailable(f"the connection was lost: {text}") from None
        if self._http2.forget(number):  # the server answered before it had read the whole request
            self._is_going = True
        if call.error is not None:
            raise call.error
        if not call.messages:
            raise errors.ServerFault("the server sent no reply")
        return call.pop()

    def shut(self) -> None:
        """Wakes the thread that is waiting for the server."""
        with contextlib.suppress(OSError):
            # Not an SSLSocket's own method: it leaves TLS first, and the thread could still send its call in the clear.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def _send(self, deadline: float) -> None:
        if data := self._http2.take():
            self._socket.settimeout(_left(deadline))
            try:
                self._socket.sendall(data)
            except TimeoutError:
                raise _late() from None

    def _receive(self, number: int, call: rpc.Call, deadline: float) -> None:
        for event in self._http2.receive(self._received(deadline)):
            if isinstance(event, http2.GoingAway):
                self._is_going = True
                if number > event.last_stream:
                    call.fail(errors.NotSent("the server is going away"))
            elif event.stream == number:
                if isinstance(event, http2.DataReceived):
                    call.take_data(event.data, is_end=event.is_end)
                    self._http2.consumed(number, event.size)
                elif isinstance(event, http2.HeadersReceived):
                    call.take_headers(event.headers, is_end=event.is_end)
                else:
                    call.take_reset(event.code)

    def _received(self, deadline: float) -> bytes:
        """Returns the next bytes from the server; pings a server that stays silent for KEEPALIVE_SECONDS."""
        for is_asked, seconds in ((False, KEEPALIVE_SECONDS), (True, KEEPALIVE_ANSWER_SECONDS)):
            if is_asked:
                self._http2.ping()
                self._send(deadline)
            left = _left(deadline)
            self._socket.settimeout(min(left, seconds))
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError:
                if left <= seconds:
                    raise _late() from None
            else:
                if not data:
                    raise ConnectionError("the server closed the connection")
                return data
        raise ConnectionError("the server does not answer")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _late()
    return left


def _late() -> errors.DeadlineExceeded:
    return errors.DeadlineExceeded("no answer within the timeout")


def _closed() -> errors.Closed:
    return errors.Closed("the client is closed")
