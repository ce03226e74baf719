"""Web pages of other origins: what tells a browser that it may let them call (CORS, as the Fetch Standard has it)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from codeq_gateway.exchange import Headers

PREFLIGHT_SECONDS: Final = 600
"""How long a browser may go by what it was told before a call."""

_Fields = tuple[tuple[bytes, bytes], ...]

_REQUEST_HEADERS: Final = b"Authorization, Content-Type, Idempotency-Key, X-CodeQ-Forward, X-Request-Id"
_REPLY_HEADERS: Final = b"Content-Disposition, Location, Retry-After, X-CodeQ-Consistency, X-Request-Id"
_VARY: Final = (b"vary", b"Origin")
"""Replies differ by origin: what keeps them must not show one origin's to another."""


class Cors:
    """Tells browsers of the origins whose pages may call.

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
        """Returns what stands in each reply to a request with these headers."""
        return self._allowed.get(headers.get(b"origin", b""), (_VARY,))

    def preflight_fields(self, headers: Headers, methods: bytes) -> _Fields:
        """Returns what a browser is told besides that asks before a call of a path with these methods."""
        if b"access-control-request-method" not in headers or headers.get(b"origin") not in self._allowed:
            return ()
        return (
            (b"access-control-allow-methods", methods),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        )
