"""Tells streams and waiting calls that their token may no longer be accepted.

A provider whose tokens have changed announces which ones: everything that relies on one of them asks again. Tokens that
did not change cost nothing, so adding one to ten thousand disturbs nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from codeq_server.core.errors import Reason, Rejection

WATCHES_PER_TURN: Final = 64
"""Streams and calls that are told in one turn of the event loop: thousands may share the token that is revoked."""

Authorization = str | bytes
"""What a caller shows: the value of the authorization header; or without one, the certificate of its connection in DER,
which the TLS handshake has verified. No client can send a header that equals a certificate: the types differ."""

Affects = Callable[[str], bool]
"""Returns whether what a provider says about a token may have changed."""

Revoke = Callable[[Affects], Awaitable[None]]
"""Has everything asked again that relies on the affected tokens."""

Upkeep = Callable[[Revoke], Awaitable[None]]
"""Keeps a validator current until it is cancelled or nothing is left to do, and announces tokens about which it has
changed its mind."""


PASSING: Final = frozenset({Reason.SERVER_UNREACHABLE, Reason.LIMIT_REACHED})
"""Reasons for which a token cannot be validated at the moment, but may be later."""


def revoked() -> Rejection:
    """Returns the rejection that ends a stream or a waiting call whose token is no longer accepted."""
    return Rejection(Reason.UNAUTHENTICATED, "the token is no longer accepted")


class Watch:
    """Someone who relies on a token, or on a certificate, until `end`."""

    __slots__ = ("_revocations", "then", "token")

    def __init__(self, revocations: Revocations, token: Authorization, then: Callable[[], None]) -> None:
        self._revocations = revocations
        self.token = token
        self.then = then

    def end(self) -> None:
        """Ends the watch; again without effect."""
        self._revocations.forget(self)


class Revocations:
    """The streams and waiting calls that rely on tokens. They are bounded by the limits of streams and calls."""

    def __init__(self) -> None:
        self._watches: dict[Authorization, dict[Watch, None]] = {}
        """The watches of each token, in the order in which they began."""

    def __len__(self) -> int:
        """Returns the number of tokens that are relied on."""
        return len(self._watches)

    def watch(self, token: Authorization, then: Callable[[], None]) -> Watch:
        """Has `then` called whenever the token may no longer be accepted, or may allow something else."""
        watch = Watch(self, token, then)
        self._watches.setdefault(token, {})[watch] = None
        return watch

    def forget(self, watch: Watch) -> None:
        """Ends a watch."""
        watches = self._watches.get(watch.token)
        if watches is not None:
            watches.pop(watch, None)
            if not watches:
                del self._watches[watch.token]

    async def announce(self, affects: Affects) -> None:
        """Calls everyone who relies on an affected token, a few in each turn of the event loop.

        Certificates are not revoked: they last until they expire.
        """
        affected = [
            watch
            for token, watches in self._watches.items()
            if isinstance(token, str) and affects(token)
            for watch in watches
        ]
        for number, watch in enumerate(affected, 1):
            if watch in self._watches.get(watch.token, ()):
                watch.then()
            if number % WATCHES_PER_TURN == 0:
                await asyncio.sleep(0)
