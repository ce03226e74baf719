"""Request bodies: checks of their headers, and limits on the bytes in flight in the process.

Two limits keep large requests from exhausting memory and from making the log of a cluster fall behind: one limits the
bytes held across all front ends, the other the bytes being processed. Decoding, deciding and storing a request takes a
multiple of its size in memory, so large requests take turns, first come, first served.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from codeq.v1 import error_pb2

from codeq_gateway import refusals
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.exchange import JSON_TYPE, Headers

HELD_BYTES_MAX = 128 * 1024 * 1024
"""Limit on the bytes of large requests, and of replies that clients do not read, held at once; beyond it, further large
requests are rejected."""

WORKED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Limit on the bytes of large requests being processed, from decoding to reply; further requests wait."""

LARGE_BYTES: Final = 256 * 1024
"""Size from which a request counts as large; smaller requests are not counted, but bounded by the number of calls."""

_JSON_TYPES: Final = re.compile(rb'\s*application/json\s*(;\s*(charset="?utf-8"?\s*)?)*', re.IGNORECASE)


class InFlight:
    """Counts the bytes of large requests of a process, across all its front ends.

    Attributes:
        held: Bytes held at the moment.
    """

    def __init__(self) -> None:
        self.held = 0
        self._worked = 0
        self._line: deque[tuple[asyncio.Future[None], int]] = deque()

    def has_room(self, size: int) -> bool:
        """Returns whether `size` more bytes fit within the limit."""
        return self.held + size <= HELD_BYTES_MAX

    def take(self, size: int) -> None:
        """Counts bytes that are held until their request is answered.

        Raises:
            CallFailed: The limit is reached; these bytes are not counted.
        """
        if not self.has_room(size):
            raise too_many()
        self.held += size

    def hold(self, size: int) -> None:
        """Counts bytes regardless of the limit, such as replies that the client has yet to read."""
        self.held += size

    def release(self, size: int) -> None:
        """Stops counting bytes."""
        self.held -= size

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Waits until a request of `size` bytes may be processed, and counts it during the context."""
        if self._worked and (self._line or self._worked + size > WORKED_BYTES_MAX):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line.append((turn, size))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._end(size)
                raise
        else:
            self._worked += size
        try:
            yield
        finally:
            self._end(size)

    def _end(self, size: int) -> None:
        """Ends the turn of a request and admits waiting requests that now fit."""
        self._worked -= size
        while self._line:
            turn, wanted = self._line[0]
            if not turn.done():
                if self._worked and self._worked + wanted > WORKED_BYTES_MAX:
                    return
                self._worked += wanted
                turn.set_result(None)
            self._line.popleft()


def too_many() -> CallFailed:
    """Returns the rejection of a request beyond the limit."""
    return CallFailed(error_pb2.ERROR_REASON_LIMIT_REACHED, "too many large requests in flight")


def check_head(headers: Headers, bytes_max: int) -> None:
    """Checks the body as announced by its headers.

    Args:
        headers: Headers of the request.
        bytes_max: Largest body in bytes; 0: no body allowed.

    Raises:
        CallFailed: The body would be rejected.
    """
    content_type = headers.get(b"content-type", JSON_TYPE)
    if bytes_max and content_type != JSON_TYPE and not _JSON_TYPES.fullmatch(content_type):
        raise refusals.invalid_body("the content type must be application/json")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise refusals.invalid_body("content-encoding: compressed bodies are not supported")
    if int(headers.get(b"content-length", 0)) > bytes_max:
        raise refusals.oversized_body(bytes_max)
