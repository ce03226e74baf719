from codeq.options.v1 import options_pb2 as _options_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_BODY: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_MISSING_SCOPE: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_ADMIN: _ClassVar[ErrorReason]
    ERROR_REASON_WRONG_TOKEN_KIND: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_TENANT: _ClassVar[ErrorReason]
    ERROR_REASON_COMMAND_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_RESULT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ROUTE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_METHOD_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_IMPLEMENTED: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_TIMEOUT: _ClassVar[ErrorReason]
    ERROR_REASON_TARGET_TOO_LONG: _ClassVar[ErrorReason]
    ERROR_REASON_HEAD_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_EXPECTATION_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_HTTP_VERSION_NOT_SUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_NOT_CLAIMED: _ClassVar[ErrorReason]
    ERROR_REASON_STALE_LEASE_TOKEN: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_LEASE_OWNER: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_REACHED: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_QUEUES: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_OUTCOME_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_HANDSHAKE: _ClassVar[ErrorReason]
    ERROR_REASON_CORRUPT_DATA: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_IDEMPOTENCY_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_ID_TAKEN: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_PAGE_TOKEN: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_ENDED: _ClassVar[ErrorReason]
    ERROR_REASON_ARTIFACT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_BACKUP_NOT_CONFIGURED: _ClassVar[ErrorReason]
    ERROR_REASON_STORAGE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_SERVER_UNREACHABLE: _ClassVar[ErrorReason]
    ERROR_REASON_TASK_NOT_REDRIVABLE: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_LEADER: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_CLUSTERED: _ClassVar[ErrorReason]
    ERROR_REASON_MEMBER_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_MEMBER_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_MEMBERSHIP_CHANGE_IN_PROGRESS: _ClassVar[ErrorReason]
    ERROR_REASON_MEMBER_NOT_READY: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_OPERATOR: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_QUOTA_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_SUBSCRIPTION_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_URL_NOT_ALLOWED: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_INVALID_BODY: ErrorReason
ERROR_REASON_TOO_LARGE: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_MISSING_SCOPE: ErrorReason
ERROR_REASON_NOT_ADMIN: ErrorReason
ERROR_REASON_WRONG_TOKEN_KIND: ErrorReason
ERROR_REASON_INVALID_TENANT: ErrorReason
ERROR_REASON_COMMAND_NOT_ALLOWED: ErrorReason
ERROR_REASON_TASK_NOT_FOUND: ErrorReason
ERROR_REASON_RESULT_NOT_FOUND: ErrorReason
ERROR_REASON_QUEUE_NOT_FOUND: ErrorReason
ERROR_REASON_ROUTE_NOT_FOUND: ErrorReason
ERROR_REASON_METHOD_NOT_ALLOWED: ErrorReason
ERROR_REASON_NOT_IMPLEMENTED: ErrorReason
ERROR_REASON_REQUEST_TIMEOUT: ErrorReason
ERROR_REASON_TARGET_TOO_LONG: ErrorReason
ERROR_REASON_HEAD_TOO_LARGE: ErrorReason
ERROR_REASON_EXPECTATION_FAILED: ErrorReason
ERROR_REASON_HTTP_VERSION_NOT_SUPPORTED: ErrorReason
ERROR_REASON_TASK_NOT_CLAIMED: ErrorReason
ERROR_REASON_STALE_LEASE_TOKEN: ErrorReason
ERROR_REASON_NOT_LEASE_OWNER: ErrorReason
ERROR_REASON_LIMIT_REACHED: ErrorReason
ERROR_REASON_TOO_MANY_QUEUES: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_OUTCOME_UNKNOWN: ErrorReason
ERROR_REASON_BAD_HANDSHAKE: ErrorReason
ERROR_REASON_CORRUPT_DATA: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_IDEMPOTENCY_CONFLICT: ErrorReason
ERROR_REASON_TASK_ID_TAKEN: ErrorReason
ERROR_REASON_INVALID_PAGE_TOKEN: ErrorReason
ERROR_REASON_TASK_ENDED: ErrorReason
ERROR_REASON_ARTIFACT_NOT_FOUND: ErrorReason
ERROR_REASON_BACKUP_NOT_CONFIGURED: ErrorReason
ERROR_REASON_STORAGE_FULL: ErrorReason
ERROR_REASON_SERVER_UNREACHABLE: ErrorReason
ERROR_REASON_TASK_NOT_REDRIVABLE: ErrorReason
ERROR_REASON_NOT_LEADER: ErrorReason
ERROR_REASON_NOT_CLUSTERED: ErrorReason
ERROR_REASON_MEMBER_NOT_FOUND: ErrorReason
ERROR_REASON_MEMBER_EXISTS: ErrorReason
ERROR_REASON_MEMBERSHIP_CHANGE_IN_PROGRESS: ErrorReason
ERROR_REASON_MEMBER_NOT_READY: ErrorReason
ERROR_REASON_NOT_OPERATOR: ErrorReason
ERROR_REASON_NOT_ALLOWED: ErrorReason
ERROR_REASON_RATE_LIMITED: ErrorReason
ERROR_REASON_QUOTA_EXCEEDED: ErrorReason
ERROR_REASON_SUBSCRIPTION_NOT_FOUND: ErrorReason
ERROR_REASON_URL_NOT_ALLOWED: ErrorReason

class ItemError(_message.Message):
    __slots__ = ("index", "reason", "message")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: ErrorReason
    message: str
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ...) -> None: ...
