"""CORS: headers that allow web pages of other origins to call (as in the Fetch Standard)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from codeq_gateway.exchange import Headers

PREFLIGHT_SECONDS: Final = 600
"""How long a browser may cache the reply to a preflight request."""

_Fields = tuple[tuple[bytes, bytes], ...]

_REQUEST_HEADERS: Final = (
    b"Authorization, Content-Type, Idempotency-Key, Traceparent, Tracestate, X-CodeQ-Forward, X-Request-Id"
)
_REPLY_HEADERS: Final = b"Content-Disposition, Location, Retry-After, X-CodeQ-Consistency, X-Request-Id"
_VARY: Final = (b"vary", b"Origin")
"""Replies differ by origin: a cache must not serve one origin's reply to another."""


class Cors:
    """Adds the CORS headers for the origins whose pages may call.

    Args:
        origins: Origins as browsers write them, such as "https://console.example".
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._allowed: dict[bytes, _Fields] = {
            origin.encode(): (
                _VARY,
                (b"access-control-allow-origin", origin.encode()),
                (b"access-control-expose-headers", _REPLY_HEADERS),
            )
            for origin in origins
        }

    def fields(self, headers: Headers) -> _Fields:
        """Returns the headers of any reply to a request with these headers."""
        return self._allowed.get(headers.get(b"origin", b""), (_VARY,))

    def preflight_fields(self, headers: Headers, methods: bytes) -> _Fields:
        """Returns the additional headers of a reply to a preflight request; `methods` are the path's methods."""
        if b"access-control-request-method" not in headers or headers.get(b"origin") not in self._allowed:
            return ()
        return (
            (b"access-control-allow-methods", methods),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        )
