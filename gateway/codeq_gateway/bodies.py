"""Reading request bodies: each within its limit, all that are on their way within one bound."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from codeq.v1 import error_pb2

from codeq_gateway import refusals
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.watch import Receive

JSON_TYPE: Final = b"application/json"
"""Content type of bodies."""

PENDING_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of bodies that have come in part; nobody has shown a token for them yet."""

_JSON_TYPES: Final = re.compile(rb'\s*application/json\s*(;\s*(charset="?utf-8"?\s*)?)*', re.IGNORECASE)

Headers = Mapping[bytes, bytes]
"""Headers of a request by their lower-case names."""


class ClientLeftError(Exception):
    """The client closed the connection before it got its reply."""


class BodyReader:
    """Reads the bodies of all requests."""

    def __init__(self) -> None:
        self._pending_bytes = 0

    async def read(self, receive: Receive, headers: Headers, bytes_max: int) -> bytes:
        """Returns a request's body; what the head shows to be wrong is refused before any of it is read.

        Args:
            receive: Events of the request.
            headers: Its headers.
            bytes_max: Bytes the body may have; 0: there must be none.

        Raises:
            CallFailed: The head is refused, the body is too large, or too much is being read already.
            ClientLeftError: The body did not come to its end.
        """
        _check_head(headers, bytes_max)
        pieces: list[bytes] = []
        size = 0
        try:
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientLeftError
                piece: bytes = event.get("body", b"")
                if size + len(piece) > bytes_max:
                    raise refusals.oversized_body(bytes_max)
                if not event.get("more_body", False):
                    return b"".join((*pieces, piece)) if pieces else piece
                if self._pending_bytes + len(piece) > PENDING_BYTES_MAX:
                    raise CallFailed(error_pb2.ERROR_REASON_LIMIT_REACHED, "too many large bodies at a time")
                pieces.append(piece)
                size += len(piece)
                self._pending_bytes += len(piece)
        finally:
            self._pending_bytes -= size


def _check_head(headers: Headers, bytes_max: int) -> None:
    if b"idempotency-key" in headers:
        raise refusals.invalid_field("Idempotency-Key", "idempotency keys are not supported")
    content_type = headers.get(b"content-type", JSON_TYPE)
    if bytes_max and content_type != JSON_TYPE and not _JSON_TYPES.fullmatch(content_type):
        raise refusals.invalid_body("the content type must be application/json")
    if int(headers.get(b"content-length", 0)) > bytes_max:
        raise refusals.oversized_body(bytes_max)
