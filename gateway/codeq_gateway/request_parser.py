"""Splits the bytes of a connection into requests.

Parsing can be paused at any point and resumed later, so that at most one of a client's pipelined requests is read
ahead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol

from codeq.v1 import error_pb2

from codeq_gateway import refusals
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.heads import CHUNKED, Head, check_trailers, read_head

HEAD_BYTES_MAX: Final = 64 * 1024
"""Largest head of a request, and largest trailers of a body, in bytes."""

CHUNK_LINE_BYTES_MAX: Final = 4_096
"""Largest chunk header in bytes, extensions included."""

CHUNK_FRAMING_BYTES_MAX: Final = 64 * 1024
"""Maximum bytes by which a body's chunk framing may exceed its content, because many tiny chunks cost more than they
carry."""

_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[\t ]*;[\t -~\x80-\xff]*)?")
_NEVER_IN_LINES: Final = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r(?=[^\n])|(?<!\r)\n")
"""Bytes not allowed in a head: control characters, and a carriage return or line feed on its own."""


class Receiver(Protocol):
    """Receives the requests of a connection, part by part."""

    def on_begin(self) -> None:
        """A request begins."""

    def on_head(self, head: Head) -> None:
        """The head of the request is complete."""

    def on_body(self, body: bytes) -> None:
        """A piece of the body has arrived."""

    def on_end(self) -> None:
        """The request is complete."""


class RequestParser:
    """Parses the bytes of a connection.

    Args:
        receiver: Receives the requests.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._step: Callable[[bytes, int], int] = self._read_head
        """Parses bytes from a position on; returns the position after them, or -1 if it needs more."""
        self._data = b""
        """Buffer; the part from `_at` on is not parsed yet."""
        self._at = 0
        self._scanned = 0
        """Bytes from `_at` on that are known not to contain the end of a block of lines."""
        self._is_paused = False
        self._has_begun = False
        self._has_skipped = False
        """Whether an empty line before the request was skipped."""
        self._left = 0
        """Remaining bytes of the body or the chunk."""
        self._framing_bytes = 0

    def feed(self, data: bytes) -> None:
        """Parses bytes, after any that are buffered, and reports the parts to the receiver.

        Raises:
            CallFailed: The bytes are not a request. The rest of the connection cannot be parsed.
        """
        if data:
            self._data = self._data[self._at :] + data if self._data else data
            self._at = 0
        data = self._data
        while self._at < len(data) and not self._is_paused:
            after = self._step(data, self._at)
            if after < 0:
                break
            self._at = after
            self._scanned = 0
        if self._at == len(data):
            self._data, self._at = b"", 0
        elif self._at > len(data) - self._at:  # so that the buffer is not much larger than the counted bytes
            self._data, self._at = data[self._at :], 0

    @property
    def unread_bytes(self) -> int:
        """Number of buffered bytes: of an incomplete part, or received during a pause."""
        return len(self._data) - self._at

    def pause(self) -> None:
        """Stops after the part being reported until `resume`; bytes that arrive in between are buffered."""
        self._is_paused = True

    def resume(self) -> None:
        """Makes the next `feed` continue."""
        self._is_paused = False

    def _read_head(self, data: bytes, at: int) -> int:
        if data[at] == 0x0D and not self._has_skipped:  # some clients send an empty line after a body
            if len(data) == at + 1:
                return -1
            if data[at + 1] == 0x0A:
                self._has_skipped = True
                return at + 2
        if not self._has_begun:
            self._has_begun = True
            self._receiver.on_begin()
        end = self._find_lines(data, at)
        if end < 0:
            return end
        head = read_head(data[at:end])
        self._left = head.length
        self._framing_bytes = 0
        self._step = self._read_chunk_line if head.length == CHUNKED else self._read_body
        self._receiver.on_head(head)
        if not head.length:
            self._end()
        return end + 2

    def _read_body(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self._receiver.on_body(piece)
        if not self._left:
            self._end()
        return at + len(piece)

    def _read_chunk_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at, at + CHUNK_LINE_BYTES_MAX + 2)
        if end < 0:
            if len(data) - at > CHUNK_LINE_BYTES_MAX:
                raise refusals.malformed("the chunk header is too long")
            return -1
        line = _CHUNK_LINE.fullmatch(data, at, end)
        if line is None:
            raise refusals.malformed("the chunk header is malformed")
        self._left = int(line[1], 16)
        self._framing_bytes = max(0, self._framing_bytes + end - at + 4 - self._left)
        if self._framing_bytes > CHUNK_FRAMING_BYTES_MAX:
            raise refusals.malformed("the chunks are too small")
        self._step = self._read_chunk if self._left else self._read_trailers
        return end + 2

    def _read_chunk(self, data: bytes, at: int) -> int:
        piece = data[at : at + self._left]
        self._left -= len(piece)
        self._receiver.on_body(piece)
        if not self._left:
            self._step = self._read_chunk_end
        return at + len(piece)

    def _read_chunk_end(self, data: bytes, at: int) -> int:
        if not b"\r\n".startswith(data[at : at + 2]):
            raise refusals.malformed("a chunk is longer than its declared size")
        if len(data) == at + 1:
            return -1
        self._step = self._read_chunk_line
        return at + 2

    def _read_trailers(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._end()
            return at + 2
        end = self._find_lines(data, at)
        if end < 0:
            return end
        check_trailers(data[at:end])
        self._end()
        return end + 2

    def _find_lines(self, data: bytes, at: int) -> int:
        """Returns the position of the empty line that ends a block of lines, or -1 if it has not arrived."""
        end = data.find(b"\r\n\r\n", max(at, at + self._scanned - 3))
        size = (len(data) if end < 0 else end + 4) - at
        if size > HEAD_BYTES_MAX:
            if self._step == self._read_head and data.find(b"\r\n", at, at + HEAD_BYTES_MAX) < 0:
                raise CallFailed(error_pb2.ERROR_REASON_TARGET_TOO_LONG, "the request target is too long")
            raise CallFailed(error_pb2.ERROR_REASON_HEAD_TOO_LARGE, f"the head is larger than {HEAD_BYTES_MAX} bytes")
        if end < 0:
            if _NEVER_IN_LINES.search(data, max(at, at + self._scanned - 1)):
                raise refusals.malformed("the bytes are not an HTTP request")
            self._scanned = size
            return -1
        return end + 2

    def _end(self) -> None:
        self._step = self._read_head
        self._has_begun = self._has_skipped = False
        self._receiver.on_end()
