"""Requests against the rules in the protos, and JSON against its grammar."""

from __future__ import annotations

import msgspec
import protovalidate
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection, invalid_field

_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_TOO_LARGE_RULES = frozenset({"bytes.max_len"})


def check_message(message: Message) -> None:
    """Checks a message against the rules of its proto.

    Raises:
        Rejection: INVALID_FIELD naming each field, or TOO_LARGE.
    """
    try:
        protovalidate.validate(message)
    except protovalidate.ValidationError as error:
        raise _rejection(error) from None


def is_json(content: bytes) -> bool:
    """Returns whether bytes are one JSON value in UTF-8."""
    try:
        _check_json(content)
        return content.isascii() or bool(content.decode())
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def check_json(content: bytes, field: str) -> None:
    """Checks that a field holds one JSON value in UTF-8.

    Raises:
        Rejection: INVALID_FIELD.
    """
    if not is_json(content):
        raise invalid_field(field, "is not one JSON value in UTF-8")


def _rejection(error: protovalidate.ValidationError) -> Rejection:
    violations = []
    too_large = False
    for violation in error.violations:
        proto = violation.proto
        path = ".".join(
            element.field_name if element.subscript is None else f"{element.field_name}[{element.subscript.value}]"
            for element in (proto.field.elements if proto.field is not None else ())
        )
        violations.append((path, proto.message))
        too_large = too_large or proto.rule_id in _TOO_LARGE_RULES
    text = "; ".join(f"{path}: {message}" if path else message for path, message in violations)
    return Rejection(Reason.TOO_LARGE if too_large else Reason.INVALID_FIELD, text, violations)
