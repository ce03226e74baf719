"""Verdicts on tokens: the claims, or the rejection, for each kind of principal."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

from codeq.options.v1 import options_pb2

from codeq_server.auth.claims import NEVER, WORKER_SCOPES, Claims, InvalidTenantError, Token, claims_of
from codeq_server.auth.revocation import Authorization
from codeq_server.core.errors import Reason, Rejection

EXPIRED_AT: Final = "expiredAt"
"""Key of a rejection's metadata: when the token expired, in UTC. Other rejected tokens do not have it."""

_Outcome = Claims | Rejection

_NO_TOKEN: Final = Rejection(Reason.UNAUTHENTICATED, "missing bearer token")
_BAD_TOKEN: Final = Rejection(Reason.UNAUTHENTICATED, "invalid token")
_NO_EVENT_TYPES: Final = Rejection(Reason.UNAUTHENTICATED, "the worker token carries no event types")
_NO_SCOPES: Final = Rejection(Reason.UNAUTHENTICATED, "the worker token carries no scopes")
_BAD_TENANT: Final = Rejection(Reason.INVALID_TENANT, "invalid tenant claims")
_NO_TENANT: Final = Rejection(Reason.INVALID_TENANT, "the operator's token has no tenant, and the call needs one")
_NOT_PRODUCER: Final = Rejection(Reason.WRONG_TOKEN_KIND, "this is a worker's token, and the call needs a producer's")
_NOT_PRODUCER_ADMIN: Final = Rejection(
    Reason.WRONG_TOKEN_KIND, "this is a worker's token, and the call needs an administrator's"
)
_NOT_WORKER: Final = Rejection(Reason.WRONG_TOKEN_KIND, "this is a producer's token, and the call needs a worker's")
_NOT_ADMIN: Final = Rejection(Reason.NOT_ADMIN, "the token is not an administrator's")
_NOT_VIEWER: Final = Rejection(Reason.NOT_ADMIN, "the token is neither an administrator's nor a viewer's")
_NOT_OPERATOR: Final = Rejection(
    Reason.NOT_OPERATOR, "the token is not an operator's: it needs the scope codeq:operator"
)
_NOT_PRODUCER_OPERATOR: Final = Rejection(
    Reason.WRONG_TOKEN_KIND, "this is a worker's token, and the call needs an operator's"
)
_ONLY_VIEWS: Final = Rejection(Reason.NOT_ALLOWED, "the token is a viewer's, which changes nothing")
_NO_WORK: Final = (_NO_EVENT_TYPES, _NO_SCOPES, _NO_TENANT, _ONLY_VIEWS)
"""Rejections of tokens that may not work, although workers have them. A producer's token then reads as a producer's:
otherwise each token of an issuer that serves both would see the tasks of all commands."""


def expired(expires_at: float, authorization: Authorization = "") -> Rejection:
    """Returns the rejection of a token, or of a certificate, that expired at a Unix time, in seconds."""
    what = "client certificate" if isinstance(authorization, bytes) else "token"
    at = datetime.datetime.fromtimestamp(max(0.0, expires_at), datetime.UTC).isoformat(timespec="seconds")
    metadata = {EXPIRED_AT: at.replace("+00:00", "Z")}
    return Rejection(Reason.UNAUTHENTICATED, f"the {what} has expired", metadata=metadata)


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
    operator: _Outcome
    viewer: _Outcome
    expires_at: float = NEVER

    def claims(self, principal: int, scope: str) -> Claims:
        """Returns the claims of the token's holder; see `Authenticator.known`.

        Raises:
            Rejection: The token does not allow this principal, or lacks the scope.
        """
        outcome = _PICK[principal](self)
        if isinstance(outcome, Rejection):
            raise self._told(outcome.again())
        if scope:
            try:
                outcome.require(scope)
            except Rejection as rejection:
                raise self._told(rejection) from None
        return outcome

    def _told(self, rejection: Rejection) -> Rejection:
        """Returns a rejection with the caller, as far as the token says who it is."""
        for outcome in (self.either, self.producer, self.worker):
            if isinstance(outcome, Claims):
                rejection.subject, rejection.tenant = outcome.subject, outcome.tenant_id
                break
        return rejection


_PICK: Final[dict[int, Callable[[Verdict], _Outcome]]] = {
    options_pb2.PRINCIPAL_PRODUCER: attrgetter("producer"),
    options_pb2.PRINCIPAL_WORKER: attrgetter("worker"),
    options_pb2.PRINCIPAL_ANY: attrgetter("either"),
    options_pb2.PRINCIPAL_ADMIN: attrgetter("admin"),
    options_pb2.PRINCIPAL_OPERATOR: attrgetter("operator"),
    options_pb2.PRINCIPAL_VIEWER: attrgetter("viewer"),
}


def refusing(rejection: Rejection) -> Verdict:
    """Returns the verdict that rejects every caller with this rejection."""
    return Verdict(rejection, rejection, rejection, rejection, rejection, rejection)


NOBODY: Final = refusing(_NO_TOKEN)
"""Verdict on a header without a token."""


def verdict_of(
    producer_token: Token | None,
    worker_token: Token | None,
    *,
    producer_as_worker: bool = False,
    admins_operate: bool = False,
) -> Verdict:
    """Returns the verdict on a token.

    Args:
        producer_token: Content of the token as a producer's; None: it is not a producer's token.
        worker_token: Content of the token as a worker's; None: it is not a worker's token.
        producer_as_worker: Whether a token valid only for producers may also do everything a worker may, for its
            commands.
        admins_operate: Whether administrators may do everything that an operator may for the server.
    """
    ends = min((token.expires_at for token in (producer_token, worker_token) if token is not None), default=NEVER)
    producer = _outcome(producer_token, sees_all=False)
    if producer_token is None and worker_token is not None:
        return _of_worker(worker_token, ends)
    if worker_token is not None:
        worker = _worker_outcome(worker_token)
    else:
        worker = _BAD_TOKEN if producer_token is None else _lent(producer) if producer_as_worker else _NOT_WORKER
    return Verdict(
        producer=_acting(producer),
        worker=worker,
        either=producer if worker_token is None or worker in _NO_WORK else _either(producer, worker),
        admin=_where(producer, lambda claims: claims.is_admin or claims.is_operator, _NOT_ADMIN),
        operator=_where(
            producer, lambda claims: claims.is_operator or (admins_operate and claims.is_admin), _NOT_OPERATOR
        ),
        viewer=_where(producer, lambda claims: claims.is_admin or claims.is_operator or claims.is_viewer, _NOT_VIEWER),
        expires_at=ends,
    )


def _either(producer: _Outcome, worker: _Outcome) -> _Outcome:
    """Returns the outcome of a token of both kinds for calls of anyone: the worker's, and an operator's rights."""
    if isinstance(producer, Claims) and isinstance(worker, Claims):
        return replace(worker, is_operator=producer.is_operator)
    return worker


def _of_worker(token: Token, ends: float) -> Verdict:
    """Returns the verdict on a token that only workers have."""
    worker = _worker_outcome(token)
    return Verdict(
        producer=_NOT_PRODUCER,
        worker=worker,
        either=_outcome(token, sees_all=True) if worker is _ONLY_VIEWS else worker,
        admin=_NOT_PRODUCER_ADMIN,
        operator=_NOT_PRODUCER_OPERATOR,
        viewer=_NOT_PRODUCER_ADMIN,
        expires_at=ends,
    )


def _where(outcome: _Outcome, allows: Callable[[Claims], bool], otherwise: Rejection) -> _Outcome:
    """Returns an outcome, or another rejection for claims that are not allowed."""
    return otherwise if isinstance(outcome, Claims) and not allows(outcome) else outcome


def _acting(outcome: _Outcome) -> _Outcome:
    """Returns the outcome for calls that change tasks: viewers may not, and each task has a tenant."""
    if isinstance(outcome, Claims) and outcome.is_viewer:
        return _ONLY_VIEWS
    return _where(outcome, lambda claims: bool(claims.tenant_id), _NO_TENANT)


def _lent(producer: _Outcome) -> _Outcome:
    """Returns the outcome for a producer who may work, for the commands of its token."""
    outcome = _acting(producer)
    if isinstance(outcome, Claims):
        return replace(outcome, scopes=WORKER_SCOPES, event_types=outcome.commands)
    return outcome


def _outcome(token: Token | None, *, sees_all: bool) -> _Outcome:
    """Returns the outcome of a token.

    Args:
        token: Its content; None: it is not accepted.
        sees_all: Whether the holder sees tasks of other commands than those of the token, unless a viewer.
    """
    if token is None:
        return _BAD_TOKEN
    try:
        claims = claims_of(token)
    except InvalidTenantError:
        return _BAD_TENANT
    if not token.event_types or (sees_all and not claims.is_viewer):
        return claims
    return replace(claims, commands=token.event_types)


def _worker_outcome(token: Token) -> _Outcome:
    outcome = _acting(_outcome(token, sees_all=True))
    if outcome is _ONLY_VIEWS:
        return outcome
    if not token.event_types:
        return _NO_EVENT_TYPES
    if not token.scopes:
        return _NO_SCOPES
    # The scope of an operator counts on a producer's token only.
    return replace(outcome, is_operator=False) if isinstance(outcome, Claims) else outcome
