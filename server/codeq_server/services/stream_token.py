"""The token of a stream: the stream ends with it, unless the client sends a fresh one in time.

A stream that was opened by a certificate ends with that; a fresh token of the same subject prolongs it, too.

A token also ends when its provider no longer accepts it; then there is no notice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb

from codeq_server.auth.claims import NEVER, Claims
from codeq_server.auth.revocation import PASSING, Authorization, Revocations, Watch, revoked
from codeq_server.auth.verdict import expired
from codeq_server.core.errors import Reason, Rejection

NOTICE_SECONDS: Final = 30.0
"""How long before its token expires a stream is notified; half of the token's remaining time if that is less."""

LOOK_SECONDS: Final = 30.0
"""Maximum time between two readings of the wall clock, which may be set."""

ASK_AGAIN_SECONDS: Final = 1.0
"""How long after a failed attempt a token about which its provider has changed its mind is validated again."""


class StreamToken:
    """The claims of a stream's token, and their renewal.

    Attributes:
        claims: The claims of the latest token.
        on_change: Called when the claims have changed; may raise a Rejection, which ends the stream.

    Args:
        claims: The claims of the token with which the stream was opened.
        validate: Returns the claims of a token or certificate for the same RPC, or raises a Rejection.
        clock: Returns the Unix time in seconds.
        token: The token or certificate with which the stream was opened.
        revocations: Tells when a token may no longer be accepted; None: never.
    """

    def __init__(
        self,
        claims: Claims,
        validate: Callable[[Authorization], Awaitable[Claims]],
        clock: Callable[[], float],
        token: Authorization = "",
        revocations: Revocations | None = None,
    ) -> None:
        self.claims = claims
        self.on_change: Callable[[], None] | None = None
        self._validate = validate
        self._clock = clock
        self._token = token
        self._revocations = revocations
        self._watch: Watch | None = None
        self._is_in_doubt = revocations is not None
        """Whether the token may no longer be accepted. It may even have been revoked since its validation."""
        self._news = asyncio.Event()

    @property
    def shown(self) -> Authorization:
        """The latest token as the value of an authorization header, or the certificate."""
        return f"Bearer {self._token}" if isinstance(self._token, str) else self._token

    def again(self) -> StreamToken:
        """Returns another one for a part of the stream, which is renewed apart."""
        return StreamToken(self.claims, self._validate, self._clock, self._token, self._revocations)

    async def renew(self, token: str) -> Claims:
        """Replaces the token with a fresh one, and returns the claims that apply from now on.

        A token that cannot be validated at the moment changes nothing but the time of the next notice.

        Raises:
            Rejection: The token is not accepted for this RPC (see `Authenticator.known`), or belongs to someone else.
        """
        try:
            claims = await self._validate(token)
        except Rejection as rejection:
            if rejection.reason not in PASSING:
                raise
            self._news.set()  # the client is notified again, halfway to the end of the present token
            return self.claims
        self._token = token
        if self._watch is not None:
            self._rely_on(token)
            self._is_in_doubt = True
        self._replace(claims)
        self._news.set()
        return claims

    async def watch(self, tell: Callable[[pb.StreamNotice], None]) -> None:
        """Has the client notified before the token expires; never returns.

        Args:
            tell: Sends a notice without waiting: a client that does not read must not prolong its stream.

        Raises:
            Rejection: UNAUTHENTICATED: the token has ended; or why it is no longer accepted for this RPC.
        """
        self._rely_on(self._token)
        try:
            await self._watch_both(tell)
        finally:
            if self._watch is not None:
                self._watch.end()

    async def _watch_both(self, tell: Callable[[pb.StreamNotice], None]) -> None:
        """Watches the token's expiry and its provider."""
        while True:
            self._news.clear()
            if self._is_in_doubt:
                await self._ask_again()
            ends = self.claims.expires_at
            grace = max(0.0, min(NOTICE_SECONDS, (ends - self._clock()) / 2))
            if not await self._reaches(ends - grace):
                continue
            tell(pb.StreamNotice(reason=error_pb2.ERROR_REASON_UNAUTHENTICATED, grace_ms=int(grace * 1000)))
            if await self._reaches(ends):
                raise expired(ends, self._token)

    def _rely_on(self, token: Authorization) -> None:
        if self._watch is not None:
            self._watch.end()
        if self._revocations is not None:
            self._watch = self._revocations.watch(token, self._doubt)

    def _doubt(self) -> None:
        """Has the token validated again."""
        self._is_in_doubt = True
        self._news.set()

    async def _ask_again(self) -> None:
        """Validates the token again.

        Raises:
            Rejection: It is no longer accepted for this RPC, or belongs to someone else now.
        """
        self._is_in_doubt = False
        token = self._token
        try:
            claims = await self._validate(token)
        except Rejection as rejection:
            if token != self._token:
                return  # a fresh one has replaced it meanwhile
            if rejection.reason in PASSING:
                asyncio.get_running_loop().call_later(ASK_AGAIN_SECONDS, self._doubt)
                return
            is_gone = rejection.reason is Reason.UNAUTHENTICATED and not rejection.metadata
            raise (revoked() if is_gone else rejection) from None
        if token == self._token:
            self._replace(claims)

    def _replace(self, claims: Claims) -> None:
        """Applies the claims of the stream's token.

        Raises:
            Rejection: They are someone else's, or no longer allow what the stream does.
        """
        if (claims.subject, claims.tenant_id) != (self.claims.subject, self.claims.tenant_id):
            raise Rejection(Reason.UNAUTHENTICATED, "the token is of another subject or tenant than the stream's")
        has_changed = claims != self.claims
        self.claims = claims  # even equal ones may be of another token
        if has_changed and self.on_change is not None:
            self.on_change()

    async def _reaches(self, at: float) -> bool:
        """Waits until a time of the clock; returns False as soon as there is news of the token."""
        while (left := at - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if at == NEVER else min(left, LOOK_SECONDS)):
                    await self._news.wait()
                return False
        return True
