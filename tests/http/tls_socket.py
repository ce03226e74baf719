"""A TLS connection with the methods of a socket. Unlike `ssl.SSLSocket` it can end one side and go on reading."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Self

PIECE_BYTES = 65_536


class TlsSocket:
    """A client's end of a connection; its handshake is complete."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, host: str | None) -> None:
        self._socket = connection
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._received, self._sent, server_hostname=host)
        self._unsent = b""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()
            except ssl.SSLError:
                self._flush()
                raise
            else:
                break
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Returns the descriptor, for select."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """See `socket.socket`."""
        self._socket.setblocking(flag)

    def setsockopt(self, level: int, name: int, value: int) -> None:
        """See `socket.socket`."""
        self._socket.setsockopt(level, name, value)

    def sendall(self, data: bytes) -> None:
        """Sends bytes."""
        self.tls.write(data)
        self._flush()

    def send(self, data: bytes) -> int:
        """Takes bytes if everything before is sent, and sends what the system takes; returns the number of bytes."""
        taken = 0 if self._unsent else self.tls.write(data)
        self._unsent += self._sent.read()
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        return taken

    def recv(self, size: int) -> bytes:
        """Returns some bytes; empty: the server has ended its side. A connection that ends otherwise is an error."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                self._flush()
                self._receive()

    def shutdown(self, how: int) -> None:
        """Ends this side."""
        assert how == socket.SHUT_WR
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self._flush()
        self._socket.shutdown(how)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent + self._sent.read(), b""
        if unsent:
            self._socket.sendall(unsent)

    def _receive(self) -> None:
        if data := self._socket.recv(PIECE_BYTES):
            self._received.write(data)
        else:
            self._received.write_eof()
