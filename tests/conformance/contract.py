"""What the protos of the public API declare: calls, messages, and the reasons that each call may fail with.

Descriptors have no comments, so the reasons are read from the text of the protos: those after "Errors:" in the comment
of an RPC, those of the RPCs that the comment refers to, and those that the comment of its service says of every RPC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from codeq import reasons
from codeq.options.v1 import options_pb2
from codeq.v1 import (
    audit_service_pb2,
    cluster_service_pb2,
    producer_service_pb2,
    queue_service_pb2,
    schedule_service_pb2,
    server_service_pb2,
    subscription_service_pb2,
    task_service_pb2,
    tenant_service_pb2,
    topic_service_pb2,
    webhook_service_pb2,
    worker_service_pb2,
)
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

PROTOS: Final = Path(__file__).resolve().parents[2] / "proto" / "api" / "codeq" / "v1"
FILES: Final = (
    task_service_pb2,
    producer_service_pb2,
    worker_service_pb2,
    queue_service_pb2,
    tenant_service_pb2,
    topic_service_pb2,
    audit_service_pb2,
    schedule_service_pb2,
    subscription_service_pb2,
    webhook_service_pb2,
    cluster_service_pb2,
    server_service_pb2,
)

METHODS: Final[Mapping[str, MethodDescriptor]] = {
    method.name: method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every public RPC by its name, which is unique."""

STREAMS: Final = frozenset({"Produce", "Work"})
UNARY: Final = tuple(name for name in METHODS if name not in STREAMS)
REASONS: Final = frozenset(reasons.BY_NAME)

_RPC: Final = re.compile(r"((?:^ *//[^\n]*\n)+) *rpc (\w+)\(", re.MULTILINE)
_SERVICE: Final = re.compile(r"((?:^//[^\n]*\n)+)service (\w+) \{(.*?)^\}", re.MULTILINE | re.DOTALL)
_REASON: Final = re.compile(r"\b[A-Z][A-Z]+(?:_[A-Z]+)+\b|\bDRAINING\b|\bUNAUTHENTICATED\b")
_REFERENCE: Final = re.compile(r"(?:those|the errors) of (\w+)")


@dataclass(frozen=True, slots=True)
class Route:
    """The REST form of an RPC.

    Attributes:
        verb: HTTP method.
        path: Path with the JSON names of fields in braces.
        body: Name of the field that the body holds; "*": all that the path does not; "": no body.
        response: Name of the field that the reply shows; "": all.
    """

    verb: str
    path: str
    body: str
    response: str


@cache
def route(name: str) -> Route:
    """Returns the REST form of a unary RPC."""
    rule: Any = METHODS[name].GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]
    verb = rule.WhichOneof("pattern")
    fields = METHODS[name].input_type.fields_by_name
    path = re.sub(r"\{(\w+)\}", lambda at: "{" + fields[at[1]].json_name + "}", getattr(rule, verb))
    return Route(verb.upper(), path, rule.body, rule.response_body)


def access(name: str) -> Any:
    """Returns who may call an RPC."""
    return METHODS[name].GetOptions().Extensions[options_pb2.access]  # type: ignore[index]


def is_embedded(field: FieldDescriptor) -> bool:
    """Whether a field of bytes is one JSON value, shown as such over REST."""
    options: Any = field.GetOptions().Extensions
    return bool(options[options_pb2.json_embedded])


def fields_by_json_name(message: Descriptor) -> dict[str, FieldDescriptor]:
    """Returns the fields of a message."""
    return {field.json_name: field for field in message.fields}


@cache
def declared() -> Mapping[str, frozenset[str]]:
    """Returns the reasons that the protos declare for each RPC and that a rule of the descriptors does not exclude."""
    own: dict[str, set[str]] = {}
    refers: dict[str, set[str]] = {}
    for text in (path.read_text() for path in sorted(PROTOS.glob("*_service.proto"))):
        for service in _SERVICE.finditer(text):
            general = set(_REASON.findall(_plain(service[1]))) & REASONS
            for comment, name in _RPC.findall(service[3]):
                told = _errors_of(_plain(comment))
                own[name] = (set(_REASON.findall(told)) & REASONS) | {each for each in general if _applies(name, each)}
                refers[name] = {each for each in _REFERENCE.findall(told) if each in METHODS}
    return {name: frozenset(own[name].union(*(own[each] for each in refers[name]))) for name in own}


def checked_fields(message: Descriptor, value: Any) -> Iterator[tuple[str, str]]:
    """Yields message and field for every field that a value, given as JSON or as an expectation, mentions."""
    if isinstance(value, list):
        for each in value:
            yield from checked_fields(message, each)
    if not isinstance(value, dict):
        return
    known = fields_by_json_name(message)
    for key, each in value.items():
        if key.startswith("$"):
            yield from checked_fields(message, each)
        elif key in known and each != "$absent":
            yield message.name, known[key].name
            if known[key].message_type is not None:
                yield from checked_fields(known[key].message_type, each)


def _plain(comment: str) -> str:
    return re.sub(r"\s*//\s?", " ", comment)


def _errors_of(comment: str) -> str:
    """Returns what a comment says about errors: all from the first mention on."""
    found = re.search(r"Errors:|Errors that end the call:", comment)
    return comment[found.start() :] if found else ""


def _applies(name: str, reason: str) -> bool:
    """Whether a reason that a service declares for every RPC can concern this one."""
    option, request = access(name), METHODS[name].input_type.fields_by_name
    match reason:
        case "MISSING_SCOPE":
            return bool(option.scope)
        case "NOT_ALLOWED":  # for viewers; a worker's call asks for another kind of token
            return option.principal == options_pb2.PRINCIPAL_PRODUCER or option.content
        case "COMMAND_NOT_ALLOWED":
            return bool({"command", "commands", "spec", "tasks"} & set(request))
        case "NOT_OPERATOR":
            return "tenant" in request
    # "Tasks of such commands are TASK_NOT_FOUND" names what an RPC says itself.
    return reason != "TASK_NOT_FOUND"
