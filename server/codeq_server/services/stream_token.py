"""The token of a stream: the stream ends when it expires, unless the client sends a fresh one in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb

from codeq_server.auth.claims import NEVER, Claims
from codeq_server.auth.verdict import expired
from codeq_server.core.errors import Reason, Rejection

NOTICE_SECONDS: Final = 30.0
"""How long before its token expires a stream is notified; half of the token's remaining time if that is less."""

LOOK_SECONDS: Final = 30.0
"""Maximum time between two readings of the wall clock, which may be set."""

_PASSING: Final = frozenset({Reason.SERVER_UNREACHABLE, Reason.LIMIT_REACHED})
"""Reasons for which a token cannot be validated at the moment, but may be later."""


class StreamToken:
    """The claims of a stream's token, and their renewal.

    Attributes:
        claims: The claims of the latest token.

    Args:
        claims: The claims of the token with which the stream was opened.
        validate: Returns the claims of a fresh token for the same RPC, or raises a Rejection.
        clock: Returns the Unix time in seconds.
    """

    def __init__(
        self,
        claims: Claims,
        validate: Callable[[str], Awaitable[Claims]],
        clock: Callable[[], float],
    ) -> None:
        self.claims = claims
        self._validate = validate
        self._clock = clock
        self._renewed = asyncio.Event()

    async def renew(self, token: str) -> Claims:
        """Replaces the token with a fresh one, and returns the claims that apply from now on.

        A token that cannot be validated at the moment changes nothing but the time of the next notice.

        Raises:
            Rejection: The token is not accepted for this RPC (see `Authenticator.known`), or belongs to someone else.
        """
        try:
            claims = await self._validate(token)
        except Rejection as rejection:
            if rejection.reason not in _PASSING:
                raise
            self._renewed.set()  # the client is notified again, halfway to the expiry of the current token
            return self.claims
        if (claims.subject, claims.tenant_id) != (self.claims.subject, self.claims.tenant_id):
            raise Rejection(Reason.UNAUTHENTICATED, "the fresh token's subject or tenant differs from the stream's")
        self.claims = claims
        self._renewed.set()
        return claims

    async def watch(self, tell: Callable[[pb.StreamNotice], None]) -> None:
        """Has the client notified before the token expires; never returns.

        Args:
            tell: Sends a notice without waiting: a client that does not read must not prolong its stream.

        Raises:
            Rejection: UNAUTHENTICATED: the token has expired.
        """
        while True:
            self._renewed.clear()
            ends = self.claims.expires_at
            grace = max(0.0, min(NOTICE_SECONDS, (ends - self._clock()) / 2))
            if not await self._reaches(ends - grace):
                continue
            tell(pb.StreamNotice(reason=error_pb2.ERROR_REASON_UNAUTHENTICATED, grace_ms=int(grace * 1000)))
            if await self._reaches(ends):
                raise expired(ends)

    async def _reaches(self, at: float) -> bool:
        """Waits until a time of the clock; returns False as soon as the token is renewed."""
        while (left := at - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at == NEVER else min(left, LOOK_SECONDS)):
                    await self._renewed.wait()
                return False
        return True
