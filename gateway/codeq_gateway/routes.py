"""REST operations, read from the google.api.http annotations of the services."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from codeq.options.v1 import options_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from codeq_gateway import downloads, fields, header_fields, parameters, trace_headers
from codeq_gateway.encode import Encode, compile_encoder
from codeq_gateway.items import Refused, answers_of, compile_body, correct
from codeq_gateway.json_names import JsonNames
from codeq_gateway.parameters import Parameter
from codeq_gateway.router import VARIABLE

_ROOM: Final = 64 * 1024
"""Bytes allowed in a body in addition to its payloads."""

BODY_BYTES_MAX: Final = 1024 * 1024 + _ROOM
"""Largest body in bytes; a payload is at most 1 MiB."""

BATCH_BODY_BYTES_MAX: Final = 8 * 1024 * 1024 + _ROOM
"""Largest body in bytes if it carries a list of messages."""

CALL_SECONDS = 30.0
"""Timeout of a call, on top of the time that it asks to wait."""

_WAIT_FIELD: Final = "wait_seconds"
"""Field in which a request asks to wait; the service checks its bounds."""

_IDEMPOTENCY_KEY: Final = b"idempotency-key"
"""Header of the field that makes repeated requests idempotent."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+|\{[a-z][a-z0-9_]*\}")


@dataclass(frozen=True, slots=True)
class Operation:
    """One HTTP rule of one RPC.

    Attributes:
        call_name: Full name of the RPC, such as "/codeq.v1.TaskService/CreateTask".
        descriptor: The RPC.
        http_method: HTTP method.
        template: Path with its variables, such as "/v1/codeq/tasks/{task_id}".
        path_parameters: Variables of the path, in order.
        query: Query parameters by name.
        body_field: Field that the body fills; empty: the request itself.
        body_bytes_max: Largest body in bytes; 0: the operation takes no body.
        response_field: Field that becomes the reply's body; empty: the response itself.
        status: HTTP status of a reply.
        empty_status: HTTP status of a reply without content; None: the same as with content.
        status_if_field: A boolean field of the reply's body and the HTTP status to use when it is true; None: no such
            field.
        download: The fields of a reply that is a file; None: the reply is JSON.
        names: JSON names of the request's fields.
        header_fields: Fields of the body that may also be sent as a header, by the header's name in lower case.
        trace_fields: Fields of the body that are taken from the headers of their names if the body has neither.
    """

    call_name: str
    descriptor: MethodDescriptor
    http_method: str
    template: str
    path_parameters: tuple[Parameter, ...]
    query: Mapping[str, Parameter]
    body_field: str
    body_bytes_max: int
    response_field: str
    status: int
    empty_status: int | None
    status_if_field: tuple[str, int] | None
    download: options_pb2.Download | None
    names: JsonNames
    header_fields: Mapping[bytes, FieldDescriptor]
    trace_fields: tuple[FieldDescriptor, ...]
    _new_request: Callable[[], Message]
    _decode: Callable[[bytes, Message], Refused | None] | None
    _encode: Encode | None
    _answers: str
    _waits: bool

    @property
    def segments(self) -> list[str]:
        """Segments of the template in the router's form."""
        return [VARIABLE if part.startswith("{") else part for part in self.template.split("/")[1:]]

    @property
    def reads(self) -> bool:
        """Whether the operation only reads."""
        return self.http_method == "GET"

    def is_repeatable(self, request: Message) -> bool:
        """Returns whether the request is safe to repeat: it only reads, or it has an idempotency key."""
        if self.reads:
            return True
        key = self.header_fields.get(_IDEMPOTENCY_KEY)
        return key is not None and self._body(request).HasField(key.name)

    def _body(self, request: Message) -> Message:
        """Returns the part of a request that the body fills."""
        body: Message = getattr(request, self.body_field) if self.body_field else request
        return body

    def request(
        self, path_values: Iterable[str], query_string: bytes, body: bytes, headers: Mapping[bytes, bytes]
    ) -> tuple[Message, Refused]:
        """Returns the request message of an HTTP request, and the items of its list that could not be decoded.

        Raises:
            CallFailed: The body, headers, query or path is malformed; the error names the field.
        """
        message, refused = self._new_request(), None
        if self._decode is not None:
            target = message
            if self.body_field:
                target = getattr(message, self.body_field)
                target.SetInParent()
            refused = self._decode(body, target)
            header_fields.fill(target, self.header_fields, headers)
            if self.trace_fields:
                trace_headers.fill(target, headers)
        if query_string:
            parameters.read_query(query_string, self.query, message)
        for parameter, value in zip(self.path_parameters, path_values, strict=True):
            parameter.fill(message, [value])
        return message, refused or ()

    def reply(
        self, message: Message, refused: Refused = ()
    ) -> tuple[int, bytes] | tuple[int, bytes, bytes, Iterable[tuple[bytes, bytes]]]:
        """Returns the HTTP status and JSON body of a response message; for a file also its content type and headers.

        Args:
            message: The response.
            refused: Items of the request that could not be decoded.
        """
        if self.download is not None:
            return downloads.reply(self.status, self.download, message)
        assert self._encode is not None
        if self._answers:
            correct(getattr(message, self._answers), refused, self.names.text)
        if self.response_field:
            if self.empty_status is not None and not message.HasField(self.response_field):
                return self.empty_status, b""
            shown = getattr(message, self.response_field)
            return self._status_of(shown), self._encode(shown)
        if self.empty_status is not None and not message.ByteSize():
            return self.empty_status, b""
        return self._status_of(message), self._encode(message)

    def _status_of(self, shown: Message) -> int:
        """Returns the HTTP status of a reply with this message as its body."""
        if self.status_if_field is not None and getattr(shown, self.status_if_field[0]):
            return self.status_if_field[1]
        return self.status

    def timeout_seconds(self, request: Message) -> float:
        """Returns the call's timeout."""
        return CALL_SECONDS + (max(0, getattr(request, _WAIT_FIELD)) if self._waits else 0)


def read_operations(services: Iterable[ServiceDescriptor]) -> Iterator[Operation]:
    """Yields the operations of every unary RPC that has an HTTP rule.

    Raises:
        TypeError: A field's type has no JSON form.
        ValueError: A rule is malformed or not supported.
    """
    for service in services:
        for method in service.methods:
            if method.client_streaming or method.server_streaming:
                continue
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                if binding.WhichOneof("pattern"):
                    yield _operation(method, binding)


def _operation(method: MethodDescriptor, rule: http_pb2.HttpRule) -> Operation:
    verb = rule.WhichOneof("pattern")
    template = getattr(rule, verb)
    if verb == "custom" or not template.startswith("/"):
        raise ValueError(f"{method.full_name}: unsupported HTTP rule: {verb} {template}")
    request = method.input_type
    variables = []
    for segment in template.split("/")[1:]:
        if not _SEGMENT.fullmatch(segment):
            raise ValueError(f"{method.full_name}: unsupported path segment: {segment}")
        if segment.startswith("{"):
            variables.append(parameters.compile_parameter(_singular(request, segment[1:-1]), segment[1:-1]))
    in_path = {parameter.field.name for parameter in variables}
    body_field = "" if rule.body == "*" else rule.body
    whole = rule.body == "*"
    query = {
        field.json_name: parameters.compile_parameter(field, field.json_name, in_body=whole)
        for field in request.fields
        if field.name not in in_path | {body_field} and not fields.is_nested(field)
        if not whole or parameters.is_in_query(field)
    }
    body = _message_field(request, body_field) if body_field else request
    shown = _message_field(method.output_type, rule.response_body) if rule.response_body else method.output_type
    rest_reply: options_pb2.RestReply = method.GetOptions().Extensions[options_pb2.rest_reply]  # type: ignore[index]
    download = rest_reply.download if rest_reply.HasField("download") else None
    return Operation(
        call_name=f"/{method.containing_service.full_name}/{method.name}",
        descriptor=method,
        http_method=verb.upper(),
        template=template,
        path_parameters=tuple(variables),
        query=query,
        body_field=body_field,
        body_bytes_max=_body_bytes_max(body) if rule.body else 0,
        status=rest_reply.status or 200,
        empty_status=rest_reply.empty_status or None,
        status_if_field=_status_if_field(shown, rest_reply),
        download=download,
        header_fields=header_fields.of_message(body) if rule.body else {},
        trace_fields=trace_headers.of_message(body) if rule.body else (),
        _new_request=message_factory.GetMessageClass(request),
        names=JsonNames(request, body_field),
        _decode=compile_body(body, () if body_field else in_path) if rule.body else None,
        _answers=answers_of(shown),
        _encode=compile_encoder(shown) if download is None else None,
        response_field=rule.response_body,
        _waits=_WAIT_FIELD in request.fields_by_name,
    )


def _status_if_field(shown: Descriptor, rest_reply: options_pb2.RestReply) -> tuple[str, int] | None:
    if not rest_reply.HasField("status_if_field"):
        return None
    return _singular(shown, rest_reply.status_if_field.field).name, rest_reply.status_if_field.status


def _body_bytes_max(body: Descriptor) -> int:
    carries_list = any(field.is_repeated and fields.is_nested(field) for field in body.fields)
    return BATCH_BODY_BYTES_MAX if carries_list else BODY_BYTES_MAX


def _singular(message: Descriptor, name: str) -> FieldDescriptor:
    field = message.fields_by_name.get(name)
    if field is None or field.is_repeated:
        raise ValueError(f"{message.full_name} has no single field {name}, which an HTTP rule names")
    return field


def _message_field(message: Descriptor, name: str) -> Descriptor:
    return fields.message_of(_singular(message, name))
