"""Errors of the SDK: one tree, with one class per condition that a caller may want to handle.

CodeqError                      reason, message, violations, retryable, retry_after, metadata
├── Rejected                    the server rejected the call and changed nothing
│   ├── InvalidRequest          INVALID_BODY and other malformed requests
│   │   ├── InvalidField        INVALID_FIELD: `violations` names each field
│   │   │   ├── InvalidPolicy   INVALID_POLICY: a policy contradicts itself or a bound
│   │   │   └── PolicyViolation POLICY_VIOLATION: the policy of the command does not allow such a task
│   │   └── TooLarge            TOO_LARGE
│   ├── Unauthenticated         UNAUTHENTICATED
│   ├── PermissionDenied
│   │   ├── MissingScope        MISSING_SCOPE
│   │   ├── WrongTokenKind      WRONG_TOKEN_KIND: a producer's token for a worker's call, or vice versa
│   │   ├── NotAdmin            NOT_ADMIN
│   │   ├── NotOperator         NOT_OPERATOR: the call concerns the whole server, or another tenant
│   │   ├── NotAllowed          NOT_ALLOWED: a viewer's token for a call that changes something, or returns content
│   │   ├── InvalidTenant       INVALID_TENANT
│   │   └── CommandNotAllowed   COMMAND_NOT_ALLOWED
│   ├── NotFound
│   │   ├── TaskNotFound        TASK_NOT_FOUND
│   │   ├── ResultNotFound      RESULT_NOT_FOUND: the task has not ended yet
│   │   ├── ArtifactNotFound    ARTIFACT_NOT_FOUND: no such artifact, or it is stored elsewhere
│   │   ├── QueueNotFound       QUEUE_NOT_FOUND
│   │   ├── ScheduleNotFound    SCHEDULE_NOT_FOUND
│   │   └── TopicNotFound       TOPIC_NOT_FOUND
│   ├── LeaseLost                   the caller does not hold the lease, or lost it
│   │   ├── TaskNotClaimed      TASK_NOT_CLAIMED
│   │   ├── StaleLeaseToken     STALE_LEASE_TOKEN
│   │   └── NotLeaseOwner       NOT_LEASE_OWNER
│   ├── TaskEnded               TASK_ENDED: it is too late to cancel the task
│   ├── IdempotencyConflict     IDEMPOTENCY_CONFLICT: the key was used for another request
│   ├── TaskIdTaken             TASK_ID_TAKEN
│   ├── LimitReached            LIMIT_REACHED
│   │   ├── RateLimited         RATE_LIMITED: the token or its tenant makes such calls too often
│   │   ├── TooManyQueues       TOO_MANY_QUEUES: the tenant or the server is at its limit of queues
│   │   ├── QuotaExceeded       QUOTA_EXCEEDED: metadata names the tenant's `quota` and its `limit`
│   │   └── StorageFull         STORAGE_FULL: the server accepts no new tasks until its disk has room
│   ├── BackupNotConfigured     BACKUP_NOT_CONFIGURED: the server has no backup folder
│   ├── MembershipRefused       NOT_CLUSTERED, MEMBER_EXISTS, MEMBERSHIP_CHANGE_IN_PROGRESS, MEMBER_NOT_READY
│   ├── BadHandshake            BAD_HANDSHAKE
│   └── Unsupported             the server does not know the call
├── Unavailable                 no server was reached, or it went away
│   ├── NotSent                 there was no connection, or the server rejected the call unprocessed
│   ├── Draining                DRAINING: the server is shutting down
│   └── NotLeader               NOT_LEADER: another member leads, or the cluster has no leader right now
├── OutcomeUnknown              OUTCOME_UNKNOWN: the call may or may not have taken effect
├── DeadlineExceeded            DEADLINE_EXCEEDED
├── ServerFault                 INTERNAL, CORRUPT_DATA
├── WebhookRejected             WEBHOOK_REJECTED: a request to a webhook is not signed, by nobody known, or not just now
├── Closed                      CLOSED: the producer, worker or client was closed by its owner
└── Forked                      FORKED: the producer, worker or client was created in another process, before a fork
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from codeq import reasons

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A rejected field.

    Attributes:
        field: Path of the field, such as "tasks[3].priority".
        description: What is wrong with it, in human-readable form.
    """

    field: str
    description: str


class CodeqError(Exception):
    """Base of every error of the SDK.

    Attributes:
        reason: Name of the reason, such as "TASK_NOT_FOUND"; if the server gave none, the name of the gRPC code.
        message: Human-readable text; not part of the API.
        violations: Rejected fields; often empty.
        retryable: Whether the same call may succeed later.
        retry_after: Seconds to wait before a retry, if the server asked for it, else None.
        metadata: Further machine-readable details from the server, by name; often empty.
    """

    default_reason: ClassVar[str] = "INTERNAL"
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[FieldViolation] = (),
        retryable: bool | None = None,
        retry_after: float | None = None,
        metadata: Mapping[str, str] = _NONE,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.violations = tuple(violations)
        row = reasons.BY_NAME.get(self.reason)
        if retryable is None:
            retryable = self.default_retryable if row is None else row.retryable
        self.retryable = retryable
        self.retry_after = retry_after
        self.metadata = metadata

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def again(self) -> Self:
        """Returns an equal error for another caller: threads that raise the same exception mix their tracebacks."""
        return type(self)(self.message, **self._told())

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.message, {**self._told(), "metadata": dict(self.metadata)})

    def _told(self) -> dict[str, Any]:
        return {
            "reason": self.reason,
            "violations": self.violations,
            "retryable": self.retryable,
            "retry_after": self.retry_after,
            "metadata": self.metadata,
        }


def _rebuilt(kind: type[CodeqError], message: str, told: dict[str, Any]) -> CodeqError:
    """Rebuilds an error from its pickle."""
    return kind(message, **told)


class Rejected(CodeqError):  # noqa: N818
    """The server rejected the call and changed nothing."""


class InvalidRequest(Rejected):
    """The request is malformed."""

    default_reason = "INVALID_BODY"


class InvalidField(InvalidRequest):
    """A field of the request is malformed or out of range."""

    default_reason = "INVALID_FIELD"


class InvalidPolicy(InvalidField):
    """The policy of a topic contradicts itself or a bound."""

    default_reason = "INVALID_POLICY"


class PolicyViolation(InvalidField):
    """The policy of the command does not allow such a task."""

    default_reason = "POLICY_VIOLATION"


class TooLarge(InvalidRequest):
    """The request, or a payload or result in it, exceeds its size limit."""

    default_reason = "TOO_LARGE"


class Unauthenticated(Rejected):
    """The token is missing, malformed or not accepted by the server."""

    default_reason = "UNAUTHENTICATED"


class PermissionDenied(Rejected):
    """The token is valid but does not allow the call."""

    default_reason = "PERMISSION_DENIED"


class MissingScope(PermissionDenied):
    """The token lacks the scope that the call needs."""

    default_reason = "MISSING_SCOPE"


class WrongTokenKind(PermissionDenied):
    """The token is a producer's but the call needs a worker's, or vice versa."""

    default_reason = "WRONG_TOKEN_KIND"


class NotAdmin(PermissionDenied):
    """The token is not an administrator's."""

    default_reason = "NOT_ADMIN"


class NotOperator(PermissionDenied):
    """The call concerns the whole server, or another tenant than the token's, and the token is not an operator's."""

    default_reason = "NOT_OPERATOR"


class NotAllowed(PermissionDenied):
    """The token is a viewer's, which changes nothing and sees no content of tasks."""

    default_reason = "NOT_ALLOWED"


class InvalidTenant(PermissionDenied):
    """The token names no tenant, or a malformed one."""

    default_reason = "INVALID_TENANT"


class CommandNotAllowed(PermissionDenied):
    """The token does not allow one of the requested commands."""

    default_reason = "COMMAND_NOT_ALLOWED"


class NotFound(Rejected):
    """The requested object does not exist in the caller's tenant."""

    default_reason = "NOT_FOUND"


class TaskNotFound(NotFound):
    """No task has this id."""

    default_reason = "TASK_NOT_FOUND"


class ResultNotFound(NotFound):
    """The task exists but did not end within the wait."""

    default_reason = "RESULT_NOT_FOUND"


class ArtifactNotFound(NotFound):
    """The task's result has no artifact of this name, or the artifact is stored elsewhere, at its URL."""

    default_reason = "ARTIFACT_NOT_FOUND"


class QueueNotFound(NotFound):
    """The command has no queue."""

    default_reason = "QUEUE_NOT_FOUND"


class ScheduleNotFound(NotFound):
    """The tenant has no such schedule."""

    default_reason = "SCHEDULE_NOT_FOUND"


class TopicNotFound(NotFound):
    """The command has no policy."""

    default_reason = "TOPIC_NOT_FOUND"


class LeaseLost(Rejected):
    """The caller does not hold the lease of the task; another worker may be running it."""

    default_reason = "FAILED_PRECONDITION"


class TaskNotClaimed(LeaseLost):
    """The task is not leased: it is waiting, or it has ended."""

    default_reason = "TASK_NOT_CLAIMED"


class StaleLeaseToken(LeaseLost):
    """The task was redelivered: the token belongs to an older lease."""

    default_reason = "STALE_LEASE_TOKEN"


class NotLeaseOwner(LeaseLost):
    """The task is leased to another worker."""

    default_reason = "NOT_LEASE_OWNER"


class TaskEnded(Rejected):
    """The task has already ended, other than by a cancellation."""

    default_reason = "TASK_ENDED"


class IdempotencyConflict(Rejected):
    """The idempotency key was used for another request."""

    default_reason = "IDEMPOTENCY_CONFLICT"


class TaskIdTaken(Rejected):
    """The tenant already has a task with this id."""

    default_reason = "TASK_ID_TAKEN"


class LimitReached(Rejected):
    """A limit of the server is reached."""

    default_reason = "LIMIT_REACHED"


class RateLimited(LimitReached):
    """The token, or all tokens of its tenant together, make such calls too often: `subject` in `metadata` says which.

    Clients call again after `retry_after` seconds, as long as the call's timeout lasts, before they raise it.
    """

    default_reason = "RATE_LIMITED"


class TooManyQueues(LimitReached):
    """The tenant or the server is at its limit of queues; a retry will not succeed soon."""

    default_reason = "TOO_MANY_QUEUES"


class QuotaExceeded(LimitReached):
    """A quota of the tenant is used up."""

    default_reason = "QUOTA_EXCEEDED"


class StorageFull(LimitReached):
    """The server's disk is nearly full: it accepts no new tasks until there is room."""

    default_reason = "STORAGE_FULL"


class BackupNotConfigured(Rejected):
    """The server has no backup folder."""

    default_reason = "BACKUP_NOT_CONFIGURED"


class MembershipRefused(Rejected):
    """The cluster cannot make this change of members or leader now."""

    default_reason = "MEMBER_NOT_READY"


class BadHandshake(Rejected):
    """The stream's handshake failed."""

    default_reason = "BAD_HANDSHAKE"


class Unsupported(Rejected):
    """The server does not know the call: it is older than the SDK, or not a codeq server."""

    default_reason = "UNIMPLEMENTED"


class Unavailable(CodeqError):  # noqa: N818
    """No server was reached, or it went away; whether the call took effect is unknown."""

    default_reason = "UNAVAILABLE"
    default_retryable = True


class NotSent(Unavailable):
    """There is no connection to the server, or it rejected the call unprocessed: nothing was done."""


class Draining(Unavailable):
    """The server is shutting down."""

    default_reason = "DRAINING"


class NotLeader(Unavailable):
    """The server does not lead its cluster and changed nothing. `leaderGrpc` in `metadata` may name the leader."""

    default_reason = "NOT_LEADER"


class OutcomeUnknown(CodeqError):  # noqa: N818
    """The call may or may not have taken effect; a retry may do the work twice."""

    default_reason = "OUTCOME_UNKNOWN"


class DeadlineExceeded(CodeqError):  # noqa: N818
    """The call's deadline passed before its answer."""

    default_reason = "DEADLINE_EXCEEDED"


class ServerFault(CodeqError):  # noqa: N818
    """The server failed unexpectedly."""


class WebhookRejected(CodeqError):  # noqa: N818
    """A request to a webhook is not signed, not with a known secret, or not just now; see `codeq.webhooks`."""

    default_reason = "WEBHOOK_REJECTED"


class Closed(CodeqError):  # noqa: N818
    """The producer, worker or client was closed by its owner."""

    default_reason = "CLOSED"


class Forked(CodeqError):  # noqa: N818
    """The producer, worker or client was created before a fork, in the parent. Create one in each process."""

    default_reason = "FORKED"
