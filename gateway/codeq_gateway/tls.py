"""TLS of a connection: a layer between its transport and its protocol, on the standard library's `SSLObject`.

The event loops' own TLS cannot half-close, keeps one context per listener and does not count handshakes. This layer
ends a side of a connection as TCP does, takes the newest context for each connection, and bounds handshakes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final, cast

HANDSHAKE_SECONDS = 10.0
"""Timeout of a handshake, from the connection's start."""

HANDSHAKES_MAX = 1_024
"""Handshakes in flight; one more evicts the oldest."""

HELLOS_AT_ONCE: Final = 4
"""Handshakes that begin at each turn: each costs up to a millisecond of the event loop."""

TURN_SECONDS: Final = 0.005
"""Interval between two turns."""

CONTROL_BYTES_MAX: Final = 16 * 1024
"""Answers to TLS control messages that a client may leave unread; beyond, its connection is closed."""

THIN_BYTES_MAX: Final = 64 * 1024
"""Bytes that a client may send beyond twice the content of its records; beyond, its connection is closed, because
records with next to no content cost far more than they carry."""

SLICE_BYTES: Final = 16 * 1024
"""Bytes that are decrypted at once, before their content is counted."""

LOG_SECONDS: Final = 60.0
"""Minimum interval between two lines about failed handshakes; each tells how many failed since the last one."""

_READ_BYTES: Final = 256 * 1024
_PLAIN_HTTP: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 29\r\nConnection: close\r\n\r\n"
    b"this port speaks HTTPS only.\n"
)
_REASONS: Final[Mapping[str, str]] = {
    "HTTP_REQUEST": "plain_http",
    "HTTPS_PROXY_REQUEST": "plain_http",
    "WRONG_VERSION_NUMBER": "not_tls",
    "PACKET_LENGTH_TOO_LONG": "not_tls",
    "BAD_RECORD_TYPE": "not_tls",
    "UNEXPECTED_MESSAGE": "not_tls",
    "UNSUPPORTED_PROTOCOL": "protocol",
    "VERSION_TOO_LOW": "protocol",
    "NO_SHARED_CIPHER": "protocol",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "protocol",
    "CERTIFICATE_VERIFY_FAILED": "client_certificate",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "client_certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "server_certificate_rejected",
    "SSLV3_ALERT_BAD_CERTIFICATE": "server_certificate_rejected",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "server_certificate_rejected",
}
"""Reasons of failures, as metrics show them, by OpenSSL's reason; all others are `other`."""

_LOG: Final = logging.getLogger("codeq.gateway")

Context = Callable[[], ssl.SSLContext]
"""Returns the context for the next connection."""


class Handshakes:
    """The handshakes in flight on a listener: their limit, their turns and their failures.

    Attributes:
        completed: Number of completed handshakes.
        failures: Numbers of failed handshakes, by reason.
    """

    def __init__(self) -> None:
        self.completed = 0
        self.failures: dict[str, int] = {}
        self._open: dict[TlsLayer, float] = {}
        """Deadline of each handshake, the oldest first."""
        self._waiting: dict[TlsLayer, None] = {}
        self._left = HELLOS_AT_ONCE
        """Handshakes that may begin before the next turn."""
        self._turns: asyncio.TimerHandle | None = None
        self._log_after = 0.0
        self._unlogged = 0

    def __len__(self) -> int:
        """Returns the number of handshakes in flight."""
        return len(self._open)

    def begin(self, layer: TlsLayer) -> None:
        """Adds a handshake; evicts the oldest at the limit."""
        while len(self._open) >= HANDSHAKES_MAX:
            oldest = next(iter(self._open))
            self.fail(oldest, "evicted")
            oldest.abort()
        self._open[layer] = time.perf_counter() + HANDSHAKE_SECONDS

    def may_shake(self, layer: TlsLayer) -> bool:
        """Returns whether a handshake may begin now; otherwise calls its `shake` when it is its turn."""
        if self._turns is None:
            self._turns = asyncio.get_running_loop().call_later(TURN_SECONDS, self._take_turns)
        if self._left and not self._waiting:
            self._left -= 1
            return True
        self._waiting[layer] = None
        return False

    def complete(self, layer: TlsLayer) -> None:
        """Removes a handshake that has succeeded."""
        del self._open[layer]
        self.completed += 1

    def fail(self, layer: TlsLayer, reason: str) -> None:
        """Removes a handshake that has failed, unless it is removed already."""
        self._waiting.pop(layer, None)
        if self._open.pop(layer, None) is None:
            return
        self.failures[reason] = self.failures.get(reason, 0) + 1
        if reason == "closed":
            return  # port scans and health checks of load balancers
        self._unlogged += 1
        now = time.perf_counter()
        if now >= self._log_after:
            _LOG.warning("tls_handshake_failed", extra={"fields": {"reason": reason, "failures": self._unlogged}})
            self._log_after, self._unlogged = now + LOG_SECONDS, 0

    def expire(self, now: float) -> None:
        """Closes the connections whose handshake has timed out."""
        late: list[TlsLayer] = []
        for layer, deadline in self._open.items():
            if now < deadline:
                break
            late.append(layer)
        for layer in late:
            self.fail(layer, "timeout")
            layer.abort()

    def stop(self) -> None:
        """Takes no further turns."""
        if self._turns is not None:
            self._turns.cancel()

    def _take_turns(self) -> None:
        self._turns = None
        self._left = HELLOS_AT_ONCE
        while self._waiting and self._left:
            layer = next(iter(self._waiting))
            del self._waiting[layer]
            self._left -= 1
            layer.shake()
        if self._waiting and self._turns is None:
            self._turns = asyncio.get_running_loop().call_later(TURN_SECONDS, self._take_turns)


class TlsLayer(asyncio.Protocol):
    """Encrypts one connection: the protocol of its transport, and the transport of its protocol.

    Args:
        protocol: Reads and writes plain bytes. It is told of the connection before the handshake, so that its limits
            count it, and it gets no byte before the handshake has succeeded.
        context: Certificate and rules.
        handshakes: Counts the handshake.
    """

    def __init__(self, protocol: asyncio.Protocol, context: ssl.SSLContext, handshakes: Handshakes) -> None:
        self._protocol = protocol
        self._handshakes = handshakes
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._sent, server_side=True)
        self._transport: asyncio.Transport
        self._has_begun = False
        self._is_open = False
        """Whether the handshake has succeeded."""
        self._is_ended = False
        """Whether the client has ended its side."""
        self._is_shut = False
        """Whether this side is ended."""
        self._stays = False
        """Whether the connection stays open after the client has ended its side, as the protocol decided."""
        self._is_writable = True
        self._unread_bytes = 0
        """Bytes of control messages written since the client last read."""
        self._thin_bytes = 0
        """Bytes received beyond twice their content."""

    # -- callbacks of the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the handshake's timeout."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not derive from it
        self._handshakes.begin(self)
        self._protocol.connection_made(cast("asyncio.BaseTransport", self))

    def connection_lost(self, exc: Exception | None) -> None:
        """Passes the end on."""
        self._handshakes.fail(self, "closed")
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Decrypts bytes; those that follow the end of this side are only counted."""
        if self._is_shut or self._is_ended:
            if self._is_open:
                self._protocol.data_received(data)
            return
        if self._is_open:
            self._deliver(data)
            return
        self._received.write(data)
        if self._has_begun or self._handshakes.may_shake(self):
            self.shake()
        else:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Handles the end of the client's side, with or without the alert that should announce it."""
        if not self._is_open:
            return False
        if not self._is_ended:
            self._is_ended = True
            self._stays = bool(self._protocol.eof_received())
        return self._stays

    def pause_writing(self) -> None:
        """Passes the pause on."""
        self._is_writable = False
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Passes the end of the pause on."""
        self._is_writable = True
        self._unread_bytes = 0
        self._protocol.resume_writing()

    # -- handshake and input -------------------------------------------------------------------------------------------

    def shake(self) -> None:
        """Continues the handshake with the bytes received so far."""
        if not self._has_begun:
            self._has_begun = True
            self._transport.resume_reading()
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except (ssl.SSLError, ValueError) as error:
            self._fail(error)
            return
        self._is_open = True
        self._handshakes.complete(self)
        self._flush()
        self._deliver(self._received.read())

    def _fail(self, error: Exception) -> None:
        """Ends a connection whose handshake failed; the client learns why, as far as TLS tells it."""
        reason = _REASONS.get(str(getattr(error, "reason", "")), "other")
        self._handshakes.fail(self, reason)
        if reason == "plain_http":
            self._sent.read()
            self._transport.write(_PLAIN_HTTP)
        self._flush()
        self._is_shut = True
        self._transport.close()

    def _deliver(self, data: bytes) -> None:
        """Decrypts bytes, and passes their content on; closes the connection if they have too little of it."""
        pieces: list[bytes] = []
        is_end = False
        try:
            for at in range(0, len(data) or 1, SLICE_BYTES):
                part = data[at : at + SLICE_BYTES]
                self._received.write(part)
                content, is_end = self._decrypt(pieces)
                self._thin_bytes = max(0, self._thin_bytes + len(part) - 2 * content)
                if is_end or self._thin_bytes > THIN_BYTES_MAX:
                    break
        except ssl.SSLError:
            self._flush()
            self._transport.abort()
            return
        if self._thin_bytes > THIN_BYTES_MAX:
            self._transport.abort()
            return
        if self._sent.pending:
            self._unread_bytes += self._sent.pending
            self._flush()
            if not self._is_writable and self._unread_bytes > CONTROL_BYTES_MAX:
                self._transport.abort()
                return
            if self._is_writable:
                self._unread_bytes = 0
        if pieces:
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if is_end and not self.eof_received():
            self.close()

    def _decrypt(self, pieces: list[bytes]) -> tuple[int, bool]:
        """Appends the content of the received records; returns its length, and whether the client has ended its side.

        Raises:
            ssl.SSLError: A record is malformed.
        """
        content, is_first = 0, True
        try:
            while is_first or self._received.pending or self._tls.pending():
                is_first = False
                piece = self._tls.read(_READ_BYTES)
                if not piece:
                    return content, True
                content += len(piece)
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        return content, False

    def _flush(self) -> None:
        if self._sent.pending:
            self._transport.write(self._sent.read())

    # -- the transport of the protocol ---------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Returns the SSLObject as `ssl_object`, and what the connection below tells; see `asyncio.BaseTransport`."""
        found: object = self._tls if name == "ssl_object" else self._transport.get_extra_info(name, default)
        return found

    def write(self, data: bytes) -> None:
        """Encrypts and sends bytes."""
        if self._is_shut or not self._is_open:
            return
        left = memoryview(data)
        try:
            while left:
                count = self._tls.write(left)  # apart: mypyc evaluates the bounds of such a slice twice
                left = left[count:]
        except ssl.SSLError:
            self._transport.abort()
            return
        self._flush()

    def write_eof(self) -> None:
        """Ends this side of the connection; the client can go on sending."""
        self._shut()
        self._transport.write_eof()

    def close(self) -> None:
        """Closes the connection once everything is sent."""
        self._shut()
        self._transport.close()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stops receiving."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receives again."""
        self._transport.resume_reading()

    def _shut(self) -> None:
        """Announces the end of this side, once."""
        if self._is_shut:
            return
        self._is_shut = True
        if self._is_open:
            with contextlib.suppress(ssl.SSLError):  # the client's own end has yet to arrive, or will not
                self._tls.unwrap()
            self._flush()
