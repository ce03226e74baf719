"""Request bodies: what their heads may announce, and bounds for all that are in the process.

Two bounds keep large requests from filling the memory, and the log of a cluster from falling behind: one for the bytes
that are held, on every front, and one for the bytes that are worked at. To decode, decide and store a request takes a
multiple of its size; so those that are large wait in line for it, in the order in which they came.
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

HELD_BYTES_MAX: Final = 128 * 1024 * 1024
"""Bytes of large requests that are held at a time, and of replies that their clients do not read; then further large
requests are refused."""

WORKED_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of large requests that are worked at, from their decoding to their reply; further ones wait."""

LARGE_BYTES: Final = 256 * 1024
"""Bytes from which on a request is large: smaller ones pass uncounted, bounded by the number of calls."""

_JSON_TYPES: Final = re.compile(rb'\s*application/json\s*(;\s*(charset="?utf-8"?\s*)?)*', re.IGNORECASE)


class InFlight:
    """Counts the bytes of large requests of a process, over all its fronts.

    Attributes:
        held: Bytes that are held at the moment.
    """

    def __init__(self) -> None:
        self.held = 0
        self._worked = 0
        self._line: deque[tuple[asyncio.Future[None], int]] = deque()

    def has_room(self, size: int) -> bool:
        """Returns whether so many more bytes may be held."""
        return self.held + size <= HELD_BYTES_MAX

    def take(self, size: int) -> None:
        """Counts bytes that are held until their request is answered.

        Raises:
            CallFailed: Too many are held already; these are not counted.
        """
        if not self.has_room(size):
            raise too_many()
        self.held += size

    def hold(self, size: int) -> None:
        """Counts bytes that are there, whether there is room or not: replies that wait for their reader."""
        self.held += size

    def release(self, size: int) -> None:
        """Forgets bytes that were counted."""
        self.held -= size

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Waits until a request of so many bytes may be worked at, and counts it while it is."""
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
        """Ends the turn of a request, and begins those that have room now."""
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
    """Returns the refusal of a request for which there is no room."""
    return CallFailed(error_pb2.ERROR_REASON_LIMIT_REACHED, "too many large requests at a time")


def check_head(headers: Headers, bytes_max: int) -> None:
    """Checks what a head says of the body to come.

    Args:
        headers: Headers of the request.
        bytes_max: Bytes the body may have; 0: there must be none.

    Raises:
        CallFailed: The body would be refused.
    """
    content_type = headers.get(b"content-type", JSON_TYPE)
    if bytes_max and content_type != JSON_TYPE and not _JSON_TYPES.fullmatch(content_type):
        raise refusals.invalid_body("the content type must be application/json")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise refusals.invalid_body("content-encoding: bodies are not unpacked")
    if int(headers.get(b"content-length", 0)) > bytes_max:
        raise refusals.oversized_body(bytes_max)
