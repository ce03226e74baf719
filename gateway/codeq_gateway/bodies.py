"""Request bodies: what their heads may announce, and one bound for all that are on their way."""

from __future__ import annotations

import re
from typing import Final

from codeq.v1 import error_pb2

from codeq_gateway import refusals
from codeq_gateway.dispatch import CallFailed
from codeq_gateway.exchange import JSON_TYPE, Headers

PENDING_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of bodies that have come in part; nobody has shown a token for them yet."""

_JSON_TYPES: Final = re.compile(rb'\s*application/json\s*(;\s*(charset="?utf-8"?\s*)?)*', re.IGNORECASE)


class PendingBodies:
    """Counts the bodies of all requests that have come in part."""

    def __init__(self) -> None:
        self._pending_bytes = 0

    def take(self, size: int) -> None:
        """Counts bytes that are kept until their body is complete.

        Raises:
            CallFailed: Too many are kept already; these are not counted.
        """
        if self._pending_bytes + size > PENDING_BYTES_MAX:
            raise CallFailed(error_pb2.ERROR_REASON_LIMIT_REACHED, "too many large bodies at a time")
        self._pending_bytes += size

    def release(self, size: int) -> None:
        """Forgets bytes that were counted."""
        self._pending_bytes -= size


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
