"""Validates requests against the rules in the protos, and JSON against its grammar."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import protovalidate
from codeq.v1 import task_pb2, topic_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_gateway.fields import form_of, rules_of, wanted_item
from codeq_gateway.surrogates import mark_unpaired
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.core.status import Outcome

from .counts import check_counts
from .spec_fields import is_plain, is_usual

_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_TOO_LARGE_RULES = frozenset({"bytes.max_len"})
_PLAIN: Final = {
    "required": "must be set",
    "repeated.min_items": "must have at least one item",
}
"""Descriptions in place of protovalidate's."""
_NAME: Final = "start with a letter or digit, and have only letters, digits, '.', '_' and '-'"
_TENANT: Final = "be the name of a tenant: 2 to 63 lower-case letters, digits and '-', of which the first is a letter"
_PATTERNS: Final = {
    r"^(/([^~/]|~[01])*)*$": "be a JSON pointer, such as /customer/id",
    "^[A-Za-z0-9][A-Za-z0-9._-]*$": _NAME,
    "^([A-Za-z0-9][A-Za-z0-9._-]*)?$": _NAME,
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": f"{_NAME}, at most 64",
    "^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?$": f"{_NAME}, at most 64",
    "^[A-Za-z0-9][A-Za-z0-9_-]*$": "start with a letter or digit, and have only letters, digits, '_' and '-'",
    "^([a-z][a-z0-9-]{1,62})?$": _TENANT,
    "^(_default|[a-z][a-z0-9-]{1,62})$": f"{_TENANT}, or _default",
    "^[ -~]+$": "have only printable ASCII characters, at least one",
    "^[ -~]*$": "have only printable ASCII characters",
    "^[!-~]+( [!-~]+)*$": "have only printable ASCII characters, and single spaces between them",
    "^[A-Za-z0-9._-]*$": "have only letters, digits, '.', '_' and '-'",
    "^[A-Za-z0-9.+_-]*$": "have only letters, digits, '.', '+', '_' and '-'",
    "^[A-Za-z0-9_+/-]*$": "be the IANA name of a time zone, such as Europe/Berlin",
    r"^[^\x00-\x20\x7f]*$": "be a URL without spaces and control characters",
    r"^[^/\\\x00-\x1f\x7f-\x9f]+$": "be a file name without slashes and control characters",
    r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$": "be an address such as host:7000",
    "^(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}|"
    "(0[1-9a-f]|[1-9a-e][0-9a-f]|f[0-9a-e])-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?)$": "be a W3C traceparent",
    "^([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(; ?[A-Za-z0-9!#$&^_.+-]+=[A-Za-z0-9!#$&^_.+:-]+)*)?$": (
        "be a media type such as image/png"
    ),
}
"""What the patterns of fields demand, for fields whose proto does not say it in words of their own."""
_LENGTHS: Final = frozenset({"string.min_len", "string.max_len"})
_POLICY: Final = "policy."
"""Start of the paths of a policy's fields in the request that sets it."""
_is_command = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}").fullmatch
TEXT_CHARACTERS_MAX: Final = 4096
"""Maximum characters stored of an error or a reason."""
_USUAL_COMMANDS_MAX: Final = 16
"""Maximum commands of a claim on the fast path; longer lists are left to the rules."""


def _is_usual_spec(spec: task_pb2.TaskSpec) -> bool:
    return (
        0 <= spec.priority <= 9
        and len(spec.payload) <= 1 << 20
        and _is_command(spec.command) is not None
        and (is_plain(spec) or is_usual(spec))
    )


def _is_usual_create(request: pb.CreateTaskRequest) -> bool:
    return request.HasField("spec") and _is_usual_spec(request.spec)


def _is_usual_claim(request: pb.ClaimTaskRequest) -> bool:
    commands = request.commands
    return (
        0 <= request.wait_seconds <= 30
        and (1 <= request.lease_seconds <= 43_200 or not request.HasField("lease_seconds"))
        and len(commands) <= _USUAL_COMMANDS_MAX
        and all(map(_is_command, commands))
    )


def _is_usual_result(request: pb.SubmitResultRequest) -> bool:
    return (
        request.status in (task_pb2.TASK_STATUS_COMPLETED, task_pb2.TASK_STATUS_FAILED)
        and 1 <= len(request.task_id) <= 64
        and len(request.result) <= 1 << 20
        and not request.artifacts
    )


_USUAL: Final[dict[type[Message], Callable[[Any], bool]]] = {
    task_pb2.TaskSpec: _is_usual_spec,
    pb.CreateTaskRequest: _is_usual_create,
    pb.ClaimTaskRequest: _is_usual_claim,
    pb.SubmitResultRequest: _is_usual_result,
}
"""Fast checks that accept typical messages of the most frequent calls at a fraction of the cost of the rules. They
never accept a message that the rules would reject; everything else is left to the rules."""


def check_message(message: Message) -> None:
    """Checks a message against the rules of its proto.

    Raises:
        Rejection: INVALID_FIELD naming each field, or TOO_LARGE; INVALID_POLICY for fields of a policy.
    """
    is_usual = _USUAL.get(type(message))
    if is_usual is not None and is_usual(message):
        return
    try:
        check_counts(message)
        try:
            protovalidate.validate(message)
        except protovalidate.ValidationError as error:
            raise _rejection(message, error) from None
    except Rejection as rejection:
        raise _of_policy(message, rejection) from None


def _of_policy(message: Message, rejection: Rejection) -> Rejection:
    """Returns the rejection of a message, as one of a policy if only the policy in it is wrong."""
    of_policy = all(field.startswith(_POLICY) for field, _ in rejection.violations)
    if not of_policy or not isinstance(message, topic_service_pb2.PutTopicRequest):
        return rejection
    return Rejection(Reason.INVALID_POLICY, rejection.message, rejection.violations)


def is_json(content: bytes) -> bool:
    """Returns whether bytes are one JSON value in UTF-8, nested no deeper than the parser allows: about 900 levels."""
    try:
        try:
            _check_json(content)
        except msgspec.DecodeError:
            marked, mark = mark_unpaired(content)
            if not mark:
                return False
            _check_json(marked)
        return content.isascii() or bool(content.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def check_json(content: bytes, field: str) -> None:
    """Checks that a field holds one JSON value in UTF-8.

    Raises:
        Rejection: INVALID_FIELD.
    """
    if not is_json(content):
        raise invalid_field(field, "must be one JSON value in UTF-8, not nested too deeply")


def kept_text(text: str) -> str:
    """Returns a human-readable text, such as an error, as stored: truncated with an ellipsis if it is too long."""
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"


def _rejection(message: Message, error: protovalidate.ValidationError) -> Rejection:
    violations: dict[str, str] = {}
    too_large = False
    for violation in error.violations:
        proto = violation.proto
        path = ".".join(
            element.field_name if element.subscript is None else f"{element.field_name}[{element.subscript.value}]"
            for element in (proto.field.elements if proto.field is not None else ())
        )
        described = _described(message, path, proto.rule_id, proto.message)
        violations.setdefault(path, described)  # the first of several violations of a field is enough
        too_large = too_large or proto.rule_id in _TOO_LARGE_RULES
    text = "; ".join(f"{path}: {text}" if path else text for path, text in violations.items())
    return Rejection(Reason.TOO_LARGE if too_large else Reason.INVALID_FIELD, text, list(violations.items()))


def _described(message: Message, path: str, rule: str, text: str) -> str:
    """Returns the description of a violation in plain words; `text` is protovalidate's own."""
    kind, _, name = rule.partition(".")
    if rule in _PLAIN:
        return _PLAIN[rule]
    if name == "pattern":
        field = _field_at(message, path)
        form = form_of(field)
        return f"must be {form}" if form else f"must {_PATTERNS[pattern_of(field)]}"
    if rule in _LENGTHS:
        rules = rules_of(_field_at(message, path))
        lengths = (rules.repeated.items if rules.HasField("repeated") else rules).string
        if lengths.min_len > 1:
            return f"must have {lengths.min_len} to {lengths.max_len} characters"
        return "must not be empty" if name == "min_len" else text
    if rule == "string.in":
        return "must be " + " or ".join(filter(None, getattr(rules_of(_field_at(message, path)).string, "in")))
    return wanted_item(_field_at(message, path)) if kind in {"int32", "int64", "enum"} else text


def pattern_of(field: Any) -> str:
    """Returns the pattern of a field, or of its items."""
    rules = rules_of(field)
    return str((rules.repeated.items if rules.HasField("repeated") else rules).string.pattern)


def _field_at(message: Message, path: str) -> Any:
    """Returns the descriptor of the field at a path of `_rejection`."""
    descriptor: Any = message.DESCRIPTOR
    for part in path.split("."):
        field = descriptor.fields_by_name[part.partition("[")[0]]
        descriptor = field.message_type
    return field


def check_ending(outcome: Outcome, result: bytes | None, error: str) -> None:
    """Checks what the rules in the protos cannot express about an outcome.

    Raises:
        Rejection: INVALID_FIELD.
    """
    if result is not None:
        if outcome is not Outcome.COMPLETED:
            raise invalid_field("result", "is allowed only for COMPLETED")
        check_json(result, "result")
    if outcome is Outcome.FAILED and not error.strip():
        raise invalid_field("error", "must not be blank for FAILED")
    if error and outcome is Outcome.COMPLETED:
        raise invalid_field("error", "is not allowed for COMPLETED")
