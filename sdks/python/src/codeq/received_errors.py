"""Errors as they are received: from the status of a call, and from rejected items of a batch or frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from codeq import reasons
from codeq.errors import (
    CodeqError,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    LeaseLost,
    LimitReached,
    MembershipRefused,
    NotFound,
    PermissionDenied,
    Rejected,
    ServerFault,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from codeq.v1 import error_pb2

_CODES: Final = {number: name for name, number in code_pb2.Code.items()}


def _kinds(family: type[CodeqError]) -> Iterator[type[CodeqError]]:
    for kind in family.__subclasses__():
        yield kind
        yield from _kinds(kind)


_BY_REASON: Final = {kind.default_reason: kind for kind in _kinds(CodeqError) if "default_reason" in vars(kind)}

_OF_MEMBERSHIP: Final = frozenset({"NOT_CLUSTERED", "MEMBER_EXISTS", "MEMBERSHIP_CHANGE_IN_PROGRESS"})

_BY_CODE: Final[dict[str, type[CodeqError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "FAILED_PRECONDITION": LeaseLost,
    "ALREADY_EXISTS": Rejected,
    "RESOURCE_EXHAUSTED": LimitReached,
    "UNIMPLEMENTED": Unsupported,
    "UNAVAILABLE": Unavailable,
    "CANCELLED": Unavailable,
    "ABORTED": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}


def from_reason(number: int, message: str) -> CodeqError:
    """Returns the error of a rejected item of a batch or frame.

    Args:
        number: Number of the codeq.v1.ErrorReason; a number that this SDK does not know becomes a Rejected.
        message: Human-readable text.
    """
    row = reasons.BY_NUMBER.get(number)
    if row is None:
        return Rejected(message, reason=f"REASON_{number}")
    return _class_of(row.name, row.grpc_name)(message, reason=row.name)


def from_item(item: error_pb2.ItemError) -> CodeqError:
    """Returns the error of a rejected item."""
    return from_reason(item.reason, item.message)


def from_status(number: int, message: str, details: bytes) -> CodeqError:
    """Returns the typed error of a failed call.

    Args:
        number: The gRPC status code; not 0.
        message: The status message.
        details: An encoded google.rpc.Status, as in the trailer grpc-status-details-bin; may be empty.
    """
    code = _CODES.get(number, "UNKNOWN")
    reason, violations, retry_after, metadata = None, [], None, dict[str, str]()
    for any_detail in _details_of(details):
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if any_detail.Unpack(info):
            reason = info.reason if info.domain == reasons.DOMAIN else None
            metadata = dict(info.metadata)
        elif any_detail.Unpack(bad):
            violations = [FieldViolation(each.field, each.description) for each in bad.field_violations]
        elif any_detail.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if reason is None:
        retryable = code in {"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
        kind = _BY_CODE.get(code, ServerFault)
        return kind(message, reason=code, violations=violations, retryable=retryable, retry_after=retry_after)
    kind = _class_of(reason, code)
    return kind(message, reason=reason, violations=violations, retry_after=retry_after, metadata=metadata)


def _class_of(reason: str, code: str) -> type[CodeqError]:
    if reason in _OF_MEMBERSHIP:
        return MembershipRefused
    return _BY_REASON.get(reason) or _BY_CODE.get(code, ServerFault)


def _details_of(data: bytes) -> list[Any]:
    try:
        return list(status_pb2.Status.FromString(data).details)
    except DecodeError:
        return []
