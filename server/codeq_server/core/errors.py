"""Rejections of the core: values of the domain, not faults.

Rejection            a request that cannot be granted; it changed nothing
CorruptRows          stored rows contradict each other: always raised, never silently ignored
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Final

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Reason(Enum):
    """Why a request was rejected; a test checks that the names are those of codeq.v1.ErrorReason without the prefix."""

    INTERNAL = 0
    INVALID_FIELD = 1
    INVALID_BODY = 2
    TOO_LARGE = 3
    UNAUTHENTICATED = 4
    MISSING_SCOPE = 5
    NOT_ADMIN = 6
    INVALID_TENANT = 7
    COMMAND_NOT_ALLOWED = 8
    TASK_NOT_FOUND = 9
    RESULT_NOT_FOUND = 10
    QUEUE_NOT_FOUND = 11
    ROUTE_NOT_FOUND = 12
    METHOD_NOT_ALLOWED = 13
    TASK_NOT_CLAIMED = 14
    STALE_LEASE_TOKEN = 15
    NOT_LEASE_OWNER = 16
    LIMIT_REACHED = 17
    DRAINING = 18
    OUTCOME_UNKNOWN = 19
    BAD_HANDSHAKE = 20
    CORRUPT_DATA = 21
    DEADLINE_EXCEEDED = 22
    INVALID_PAGE_TOKEN = 26
    TASK_ENDED = 25
    STORAGE_FULL = 27
    BACKUP_NOT_CONFIGURED = 32
    ARTIFACT_NOT_FOUND = 28
    IDEMPOTENCY_CONFLICT = 23
    TASK_ID_TAKEN = 24
    TASK_NOT_REDRIVABLE = 29
    NOT_LEADER = 33
    NOT_CLUSTERED = 34
    MEMBER_NOT_FOUND = 35
    MEMBER_EXISTS = 36
    MEMBERSHIP_CHANGE_IN_PROGRESS = 37
    MEMBER_NOT_READY = 38
    SERVER_UNREACHABLE = 45
    NOT_IMPLEMENTED = 46
    REQUEST_TIMEOUT = 47
    TARGET_TOO_LONG = 48
    HEAD_TOO_LARGE = 49
    EXPECTATION_FAILED = 50
    HTTP_VERSION_NOT_SUPPORTED = 51
    WRONG_TOKEN_KIND = 52
    TOO_MANY_QUEUES = 53
    NOT_OPERATOR = 54
    NOT_ALLOWED = 55
    RATE_LIMITED = 56
    QUOTA_EXCEEDED = 57
    SCHEDULE_NOT_FOUND = 80
    INVALID_POLICY = 70
    POLICY_VIOLATION = 71
    TOPIC_NOT_FOUND = 72
    SUBSCRIPTION_NOT_FOUND = 65


class Rejection(Exception):  # noqa: N818 - a rejection is a normal answer, not an error of the server
    """A rejected request.

    Attributes:
        reason: Why the request was rejected.
        message: Human-readable text.
        violations: (field, description) of each malformed field.
        metadata: Further machine-readable details, by name.
        tenant: Tenant of the call; empty: unknown. For log and audit only, like the next two.
        subject: Subject of the caller's token; empty: unknown.
        task_id: Task of the call; empty: the call has no task, or many.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        violations: Sequence[tuple[str, str]] = (),
        metadata: Mapping[str, str] = _NONE,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = violations
        self.metadata = metadata
        self.tenant = ""
        self.subject = ""
        self.task_id = ""

    def about(self) -> dict[str, str]:
        """Returns the fields for the log."""
        told = {"reason": self.reason.name, "tenant": self.tenant, "task_id": self.task_id}
        return {name: value for name, value in told.items() if value}

    def again(self) -> Rejection:
        """Returns an equal rejection for another caller: one exception raised twice would keep both callers' frames."""
        return Rejection(self.reason, self.message, self.violations, self.metadata)


def invalid_field(field: str, description: str) -> Rejection:
    """Returns the rejection of one malformed field."""
    return Rejection(Reason.INVALID_FIELD, f"{field}: {description}", ((field, description),))


class CorruptRows(Exception):  # noqa: N818 - names what is corrupt
    """Stored rows contradict each other; the text names the key of the offending row."""

    def __init__(self, key: bytes, problem: str) -> None:
        super().__init__(f"row {key.hex()}: {problem}")
        self.key = key
        self.problem = problem
