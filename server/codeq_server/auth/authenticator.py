"""Authenticates and authorizes callers by the authorization header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final, Protocol

from codeq.options.v1 import options_pb2

from codeq_server.auth.claims import WILDCARD, WORKER_SCOPES, Claims, InvalidTenantError, Token, claims_of
from codeq_server.core.errors import Reason, Rejection

CACHED_HEADERS_MAX: Final = 1024
"""Size of the cache of accepted headers; when it is full, it is cleared."""

HEADER_CHARS_MAX: Final = 16 * 1024
"""A longer authorization header is rejected without being parsed."""


class Validator(Protocol):
    """Validates the tokens of one kind of caller."""

    def validate(self, token: str) -> Token | None:
        """Returns the content of an accepted token, otherwise None."""
        ...


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: Reason
    message: str


_Outcome = Claims | _Refusal

_NO_TOKEN: Final = _Refusal(Reason.UNAUTHENTICATED, "missing bearer token")
_BAD_TOKEN: Final = _Refusal(Reason.UNAUTHENTICATED, "invalid token")
_NO_EVENT_TYPES: Final = _Refusal(Reason.UNAUTHENTICATED, "the worker token carries no event types")
_NO_SCOPES: Final = _Refusal(Reason.UNAUTHENTICATED, "the worker token carries no scopes")
_BAD_TENANT: Final = _Refusal(Reason.INVALID_TENANT, "invalid tenant claims")
_NOT_PRODUCER: Final = _Refusal(Reason.WRONG_TOKEN_KIND, "this is a worker's token, and the call needs a producer's")
_NOT_PRODUCER_ADMIN: Final = _Refusal(
    Reason.WRONG_TOKEN_KIND, "this is a worker's token, and the call needs an administrator's"
)
_NOT_WORKER: Final = _Refusal(Reason.WRONG_TOKEN_KIND, "this is a producer's token, and the call needs a worker's")
_NOT_ADMIN: Final = _Refusal(Reason.NOT_ADMIN, "the token is not an administrator's")


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Outcome of one header for each kind of principal."""

    producer: _Outcome
    worker: _Outcome
    either: _Outcome
    admin: _Outcome

    @property
    def is_known(self) -> bool:
        """Whether any validator accepted the token."""
        return not all(outcome in (_BAD_TOKEN, _NO_TOKEN) for outcome in (self.producer, self.worker, self.either))


_NOBODY: Final = _Verdict(_NO_TOKEN, _NO_TOKEN, _NO_TOKEN, _NO_TOKEN)

_PICK: Final[dict[int, Callable[[_Verdict], _Outcome]]] = {
    options_pb2.PRINCIPAL_PRODUCER: attrgetter("producer"),
    options_pb2.PRINCIPAL_WORKER: attrgetter("worker"),
    options_pb2.PRINCIPAL_ANY: attrgetter("either"),
    options_pb2.PRINCIPAL_ADMIN: attrgetter("admin"),
}


class Authenticator:
    """Authenticates callers by the validators of producers and workers. A token may be valid for both."""

    def __init__(self, producer: Validator, worker: Validator, *, producer_as_worker: bool = False) -> None:
        """Creates an authenticator.

        Args:
            producer: Validates tokens of producers.
            worker: Validates tokens of workers.
            producer_as_worker: Whether a token valid only for producers may also do everything a worker may.
        """
        self._producer = producer
        self._worker = worker
        self._producer_as_worker = producer_as_worker
        self._verdicts: dict[str, _Verdict] = {}

    def authenticate(self, authorization_header: str, principal: int, scope: str = "") -> Claims:
        """Returns the caller.

        Args:
            authorization_header: Value as received, such as "Bearer t0k3n"; empty if there was none.
            principal: Number of the codeq.options.v1.Principal that the RPC requires.
            scope: Scope that the token must carry; empty: none.

        Raises:
            Rejection: UNAUTHENTICATED, WRONG_TOKEN_KIND, INVALID_TENANT, MISSING_SCOPE or NOT_ADMIN.
        """
        verdict = self._verdicts.get(authorization_header)
        if verdict is None:
            verdict = self._judge(authorization_header)
        outcome = _PICK[principal](verdict)
        if isinstance(outcome, _Refusal):
            raise Rejection(outcome.reason, outcome.message)
        if scope and scope not in outcome.scopes:
            raise Rejection(Reason.MISSING_SCOPE, f"missing scope {scope}")
        return outcome

    def _judge(self, header: str) -> _Verdict:
        token = _bearer(header)
        if not token:
            return _NOBODY
        producer_token = self._producer.validate(token)
        worker_token = self._worker.validate(token)
        if worker_token is None and producer_token is not None and self._producer_as_worker:
            worker_token = replace(producer_token, scopes=WORKER_SCOPES, event_types=frozenset({WILDCARD}))
        verdict = _verdict(producer_token, worker_token)
        if verdict.is_known:  # invalid tokens must not evict valid ones
            if len(self._verdicts) >= CACHED_HEADERS_MAX:
                self._verdicts.clear()
            self._verdicts[header] = verdict
        return verdict


def _verdict(producer_token: Token | None, worker_token: Token | None) -> _Verdict:
    if worker_token is None:
        producer = _outcome(producer_token)
        no_worker = _BAD_TOKEN if producer_token is None else _NOT_WORKER
        return _Verdict(producer, no_worker, either=producer, admin=_as_admin(producer))
    worker = _worker_outcome(worker_token)
    if producer_token is None:
        return _Verdict(_NOT_PRODUCER, worker, either=worker, admin=_NOT_PRODUCER_ADMIN)
    producer = _outcome(producer_token)
    either = _outcome(worker_token) if worker_token.event_types else producer
    return _Verdict(producer, worker, either=either, admin=_as_admin(producer))


def _as_admin(producer: _Outcome) -> _Outcome:
    return _NOT_ADMIN if isinstance(producer, Claims) and not producer.is_admin else producer


def _bearer(header: str) -> str:
    if len(header) > HEADER_CHARS_MAX:
        return ""
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _outcome(token: Token | None) -> _Outcome:
    if token is None:
        return _BAD_TOKEN
    try:
        return claims_of(token)
    except InvalidTenantError:
        return _BAD_TENANT


def _worker_outcome(token: Token | None) -> _Outcome:
    if token is not None and not token.event_types:
        return _NO_EVENT_TYPES
    if token is not None and not token.scopes:
        return _NO_SCOPES
    return _outcome(token)
