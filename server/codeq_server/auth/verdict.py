"""Verdicts on tokens: the claims, or the rejection, for each kind of principal."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from codeq.options.v1 import options_pb2

from codeq_server.auth.claims import NEVER, Claims, InvalidTenantError, Token, claims_of
from codeq_server.core.errors import Reason, Rejection

EXPIRED_AT: Final = "expiredAt"
"""Key of a rejection's metadata: when the token expired, in UTC. Other rejected tokens do not have it."""

_Outcome = Claims | Rejection

_NO_TOKEN: Final = Rejection(Reason.UNAUTHENTICATED, "missing bearer token")
_BAD_TOKEN: Final = Rejection(Reason.UNAUTHENTICATED, "invalid token")
_NO_EVENT_TYPES: Final = Rejection(Reason.UNAUTHENTICATED, "the worker token carries no event types")
_NO_SCOPES: Final = Rejection(Reason.UNAUTHENTICATED, "the worker token carries no scopes")
_BAD_TENANT: Final = Rejection(Reason.INVALID_TENANT, "invalid tenant claims")
_NOT_PRODUCER: Final = Rejection(Reason.WRONG_TOKEN_KIND, "this is a worker's token, and the call needs a producer's")
_NOT_PRODUCER_ADMIN: Final = Rejection(
    Reason.WRONG_TOKEN_KIND, "this is a worker's token, and the call needs an administrator's"
)
_NOT_WORKER: Final = Rejection(Reason.WRONG_TOKEN_KIND, "this is a producer's token, and the call needs a worker's")
_NOT_ADMIN: Final = Rejection(Reason.NOT_ADMIN, "the token is not an administrator's")


def expired(expires_at: float) -> Rejection:
    """Returns the rejection of a token that expired at a Unix time, in seconds."""
    at = datetime.datetime.fromtimestamp(max(0.0, expires_at), datetime.UTC).isoformat(timespec="seconds")
    return Rejection(Reason.UNAUTHENTICATED, "the token has expired", metadata={EXPIRED_AT: at.replace("+00:00", "Z")})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of one token for each kind of principal.

    Attributes:
        expires_at: When the verdict expires, in seconds of Unix time; NEVER if it does not.
    """

    producer: _Outcome
    worker: _Outcome
    either: _Outcome
    admin: _Outcome
    expires_at: float = NEVER

    def claims(self, principal: int, scope: str) -> Claims:
        """Returns the claims of the token's holder; see `Authenticator.known`.

        Raises:
            Rejection: The token does not allow this principal, or lacks the scope.
        """
        outcome = _PICK[principal](self)
        if isinstance(outcome, Rejection):
            raise outcome.again()
        if scope:
            outcome.require(scope)
        return outcome


_PICK: Final[dict[int, Callable[[Verdict], _Outcome]]] = {
    options_pb2.PRINCIPAL_PRODUCER: attrgetter("producer"),
    options_pb2.PRINCIPAL_WORKER: attrgetter("worker"),
    options_pb2.PRINCIPAL_ANY: attrgetter("either"),
    options_pb2.PRINCIPAL_ADMIN: attrgetter("admin"),
}


def refusing(rejection: Rejection) -> Verdict:
    """Returns the verdict that rejects every caller with this rejection."""
    return Verdict(rejection, rejection, rejection, rejection)


NOBODY: Final = refusing(_NO_TOKEN)
"""Verdict on a header without a token."""


def verdict_of(producer_token: Token | None, worker_token: Token | None) -> Verdict:
    """Returns the verdict on a token.

    Args:
        producer_token: Content of the token as a producer's; None: it is not a producer's token.
        worker_token: Content of the token as a worker's; None: it is not a worker's token.
    """
    ends = min((token.expires_at for token in (producer_token, worker_token) if token is not None), default=NEVER)
    if worker_token is None:
        producer = _outcome(producer_token)
        no_worker = _BAD_TOKEN if producer_token is None else _NOT_WORKER
        return Verdict(producer, no_worker, either=producer, admin=_as_admin(producer), expires_at=ends)
    worker = _worker_outcome(worker_token)
    if producer_token is None:
        return Verdict(_NOT_PRODUCER, worker, either=worker, admin=_NOT_PRODUCER_ADMIN, expires_at=ends)
    producer = _outcome(producer_token)
    either = _outcome(worker_token) if worker_token.event_types else producer
    return Verdict(producer, worker, either=either, admin=_as_admin(producer), expires_at=ends)


def _as_admin(producer: _Outcome) -> _Outcome:
    return _NOT_ADMIN if isinstance(producer, Claims) and not producer.is_admin else producer


def _outcome(token: Token | None) -> _Outcome:
    if token is None:
        return _BAD_TOKEN
    try:
        return claims_of(token)
    except InvalidTenantError:
        return _BAD_TENANT


def _worker_outcome(token: Token) -> _Outcome:
    if not token.event_types:
        return _NO_EVENT_TYPES
    if not token.scopes:
        return _NO_SCOPES
    return _outcome(token)
