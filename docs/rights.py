"""Writes the matrix of calls and roles in docs/security.md from the protos; `make generate` runs it.

It stands between `<!-- rights -->` and `<!-- end -->`: a row for each RPC, and a column for each kind of token. A cell
says what the caller gets: `yes`, a condition, or the reason of the rejection.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from buf.validate import validate_pb2
from codeq.options.v1 import options_pb2
from codeq_server.auth.access import METHODS
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

DOCUMENT: Final = Path(__file__).with_name("security.md")
ROLES: Final = ("producer", "worker", "viewer", "administrator", "operator")
YES: Final = "yes"
NO_CONTENT: Final = "without content"
NAMED: Final = "with `tenant`"
BOUND: Final = "its commands"
"""A producer bound to other commands gets nothing, but no error either."""

_MATRIX: Final = re.compile(r"(?P<begin><!-- rights -->\n\n).*?(?P<end>\n<!-- end -->)", re.DOTALL)
_ANY, _WORKER, _PRODUCER = options_pb2.PRINCIPAL_ANY, options_pb2.PRINCIPAL_WORKER, options_pb2.PRINCIPAL_PRODUCER
_ADMIN, _VIEWER = options_pb2.PRINCIPAL_ADMIN, options_pb2.PRINCIPAL_VIEWER
_OPERATOR: Final = options_pb2.PRINCIPAL_OPERATOR
_OF_NODE: Final = frozenset({"ClusterService", "ServerService"})
"""Services whose calls concern no tenant."""
_OF_TENANT: Final = frozenset({"GetUsage"})
"""Calls that concern a tenant as a whole, and no command."""
_OF_ALL_TENANTS: Final = frozenset({"AuditService"})
"""Services whose calls concern all tenants unless an operator names one, and always all commands."""

_SCHEDULES: Final = "ScheduleService"
"""Service whose calls name schedules, which belong to commands."""


def fresh(text: str) -> str:
    """Returns a document with the matrix as the protos give it.

    Raises:
        ValueError: It has no place for the matrix.
    """
    if _MATRIX.search(text) is None:
        raise ValueError("no place for the matrix of rights")
    return _MATRIX.sub(lambda match: match["begin"] + _table() + match["end"], text)


def rights(method: MethodDescriptor) -> dict[str, str]:
    """Returns what each kind of token gets from an RPC; "other commands": a producer that is bound to others."""
    options: Any = method.GetOptions().Extensions
    access = options[options_pb2.access]
    found = dict(zip(ROLES, _cells(method, access), strict=True))
    return found | {"other commands": _bound(method, access, found["producer"], found["administrator"])}


def _cells(method: MethodDescriptor, access: options_pb2.Access) -> tuple[str, ...]:
    """Returns the cells of ROLES. The operator's token has no tenant."""
    seen = "NOT_ALLOWED" if access.content else NO_CONTENT if _has_content(method.output_type) else YES
    operator = YES if method.containing_service.name in _OF_NODE else "INVALID_TENANT"
    named = NAMED if "tenant" in method.input_type.fields_by_name else operator
    if method.containing_service.name in _OF_ALL_TENANTS:
        named = YES
    kind = "WRONG_TOKEN_KIND"
    cells: dict[int, tuple[str, ...]] = {
        _PRODUCER: (YES, kind, "NOT_ALLOWED", YES, "INVALID_TENANT"),
        _WORKER: (kind, f"`{access.scope}`" if access.scope else YES, kind, kind, kind),
        _ANY: (YES, YES, seen, YES, named),
        _ADMIN: ("NOT_ADMIN", kind, "NOT_ADMIN", YES, named),
        _OPERATOR: ("NOT_OPERATOR", kind, "NOT_OPERATOR", "NOT_OPERATOR", YES),
        _VIEWER: ("NOT_ADMIN", kind, seen, YES, named),
    }
    return cells[access.principal]


def _bound(method: MethodDescriptor, access: options_pb2.Access, producer: str, administrator: str) -> str:
    """Returns what a producer, or an administrator where only one may call, gets for another command than its own."""
    if producer != YES and (administrator != YES or access.principal == _OPERATOR):
        return producer
    if method.containing_service.name in _OF_NODE or method.name in _OF_TENANT:
        return YES
    fields = method.input_type.fields_by_name
    if "task_id" in fields:
        return "TASK_NOT_FOUND"
    if method.containing_service.name in _OF_ALL_TENANTS:
        return "COMMAND_NOT_ALLOWED"
    if method.containing_service.name == _SCHEDULES and "name" in fields and "spec" not in fields:
        return "SCHEDULE_NOT_FOUND"
    if method.name.startswith("List") and ("command" not in fields or not _is_required(fields["command"])):
        return BOUND
    return "COMMAND_NOT_ALLOWED"


def _is_required(field: FieldDescriptor) -> bool:
    options: Any = field.GetOptions().Extensions
    return bool(options[validate_pb2.field].string.min_len)


def _has_content(message: Descriptor) -> bool:
    for field in message.fields:
        options: Any = field.GetOptions().Extensions
        if options[options_pb2.content] or (field.message_type is not None and _has_content(field.message_type)):
            return True
    return False


def _table() -> str:
    lines = [f"| call | REST | {' | '.join(ROLES)} | bound to other commands |", "|---" * (len(ROLES) + 3) + "|"]
    for method in METHODS:
        options: Any = method.GetOptions().Extensions
        rule = options[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        route = f"`{verb.upper()} {getattr(rule, verb).removeprefix('/v1/codeq')}`" if verb else "stream"
        cells = [_shown(cell) for cell in rights(method).values()]
        lines.append(f"| {method.name} | {route} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(cell: str) -> str:
    return f"`{cell}`" if cell.isupper() else cell


if __name__ == "__main__":
    DOCUMENT.write_text(fresh(DOCUMENT.read_text()))
