"""The error table, read from the options of the enum codeq.v1.ErrorReason: reason, gRPC code, HTTP status, retryable.

Server, gateway and SDK share this module; nothing else maps reasons to codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor
from google.rpc import code_pb2

from codeq.options.v1 import options_pb2
from codeq.v1 import error_pb2

DOMAIN: Final = "codeq"
"""Domain of google.rpc.ErrorInfo in every failed call."""

_PREFIX: Final = "ERROR_REASON_"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row of the error table.

    Attributes:
        number: Number of the enum value.
        name: Name without its prefix, such as "TASK_NOT_FOUND"; "INTERNAL" for the unspecified reason.
        grpc_code: Number of the gRPC status code.
        grpc_name: Name of the gRPC status code, such as "NOT_FOUND".
        http_status: HTTP status.
        retryable: Whether the same call may succeed later.
    """

    number: int
    name: str
    grpc_code: int
    grpc_name: str
    http_status: int
    retryable: bool


def table_of(enum: EnumDescriptor) -> dict[int, Reason]:
    """Returns the reasons of an enum by number; takes codeq.v1.ErrorReason of this or of another version."""
    table = {}
    for value in enum.values:
        options: Any = value.GetOptions()  # the stubs do not type extensions precisely
        code = options.Extensions[options_pb2.grpc_code]
        name = value.name.removeprefix(_PREFIX)
        table[value.number] = Reason(
            number=value.number,
            name="INTERNAL" if name == "UNSPECIFIED" else name,
            grpc_code=code,
            grpc_name=code_pb2.Code.Name(code),
            http_status=options.Extensions[options_pb2.http_status],
            retryable=options.Extensions[options_pb2.retryable],
        )
    return table


BY_NUMBER: Final[dict[int, Reason]] = table_of(error_pb2.ErrorReason.DESCRIPTOR)
"""Every reason by the number of its enum value."""

BY_NAME: Final[dict[str, Reason]] = {reason.name: reason for reason in BY_NUMBER.values()}
"""Every reason by its name without prefix, as in google.rpc.ErrorInfo and HTTP error bodies."""

INTERNAL: Final = BY_NUMBER[error_pb2.ERROR_REASON_UNSPECIFIED]
"""The reason of unexpected failures."""
