"""The OpenAPI 3.1 document: schemas and limits from the descriptors, texts from documents generated at build time.

The generated documents carry the comments of the protos, which descriptors lack at run time. Their schemas follow the
standard JSON mapping, not this server's, so schemas are rebuilt from the descriptors that the gateway itself uses.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, Final

import msgspec
from buf.validate import validate_pb2
from codeq import reasons
from codeq.options.v1 import options_pb2
from codeq.v1 import error_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from codeq_gateway import fields
from codeq_gateway.header_fields import FORWARD, header_of
from codeq_gateway.json_names import in_json, words_of
from codeq_gateway.parameters import CONSISTENCIES, CONSISTENCY
from codeq_gateway.routes import Operation

Json = dict[str, Any]

_ERROR: Final = "Error"
_TASK: Final = "codeq.v1.Task"
_TASK_ID: Final = "task_id"
_REF: Final = "#/components/schemas/"

_TEXTS: Final = ("summary", "description")
_LIMITS: Final = {
    "min_len": "minLength",
    "max_len": "maxLength",
    "pattern": "pattern",
    "gte": "minimum",
    "gt": "exclusiveMinimum",
    "lte": "maximum",
    "lt": "exclusiveMaximum",
    "min_items": "minItems",
    "max_items": "maxItems",
}
"""JSON Schema keyword for each protovalidate rule that has one."""

_NUMBERS: Final[dict[int, Json]] = {
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.TYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
}
_ZEROS: Final[Json] = {"integer": 0, "number": 0, "boolean": False}
"""Default values of fields without presence, by JSON type."""

_SCOPES: Final[dict[int, tuple[str, ...]]] = {
    options_pb2.PRINCIPAL_ADMIN: ("codeq:admin", "codeq:operator"),
    options_pb2.PRINCIPAL_OPERATOR: ("codeq:operator",),
    options_pb2.PRINCIPAL_VIEWER: ("codeq:admin", "codeq:operator", "codeq:viewer"),
}
"""Scopes of which a token needs one, by principal; for the others it needs the scope of the option, if any."""

_INT32_BOUNDS: Final[Json] = {"minimum": -(2**31), "maximum": 2**31 - 1}
"""Bounds of 32-bit numbers in requests, spelled out because few tools derive them from the format."""

_CONSISTENCY: Final[Json] = {
    "name": CONSISTENCY,
    "in": "query",
    "required": False,
    "description": "`stale`: a follower may answer from its own state, which may lag behind the leader's.",
    "schema": {"type": "string", "enum": list(CONSISTENCIES)},
}

_FORWARD: Final[Json] = {
    "name": FORWARD,
    "in": "header",
    "required": False,
    "description": "1: a follower forwards the call to the leader instead of answering 307.",
    "schema": {"type": "string", "enum": ["0", "1"]},
}


def document(operations: Sequence[Operation], version: str) -> bytes:
    """Returns the OpenAPI document of the operations as JSON."""
    methods = [operation.descriptor for operation in operations]
    words = _Words(words_of(message for each in methods for message in (each.input_type, each.output_type)))
    schemas = _Schemas(words)
    paths: dict[str, Json] = {}
    links = _links(operations)
    for operation in operations:
        paths.setdefault(operation.template, {})[operation.http_method.lower()] = _operation(
            operation, words, schemas, links
        )
    used = {tag for path in paths.values() for described in path.values() for tag in described["tags"]}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "codeq", "version": version, "license": {"name": "MIT", "identifier": "MIT"}},
            "servers": [{"url": "/", "description": "The server that serves this document."}],
            "security": [{"bearer": []}],
            "tags": [tag for tag in words.tags if tag["name"] in used],
            "paths": paths,
            "components": {
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
                "schemas": {**schemas.built, _ERROR: _error_schema()},
            },
        }
    )


class _Words:
    """Comments of the protos, from the generated documents, with fields renamed to JSON.

    Attributes:
        tags: Services and their descriptions.
    """

    def __init__(self, json_names: Mapping[str, str]) -> None:
        self.tags: list[Json] = []
        self._paths: dict[str, Json] = {}
        self._schemas: dict[str, Json] = {}
        for file in sorted(
            _files(importlib.resources.files("codeq_gateway") / "openapi"), key=lambda found: found.name
        ):
            generated = _reworded(msgspec.json.decode(file.read_bytes()), json_names)
            self.tags += generated["tags"]
            self._paths |= generated["paths"]
            self._schemas |= generated["components"]["schemas"]

    def operation(self, operation: Operation) -> Json:
        """Returns the generated part for an operation; empty for additional bindings."""
        found: Json = self._paths.get(operation.template, {}).get(operation.http_method.lower(), {})
        return found

    def of_message(self, full_name: str) -> str:
        """Returns the comment of a message or enum."""
        text: str = self._schemas.get(full_name, {}).get("description", "")
        return text

    def of_fields(self, full_name: str) -> Json:
        """Returns the generated property of each field of a message."""
        found: Json = self._schemas.get(full_name, {}).get("properties", {})
        return found


def _reworded(value: Any, json_names: Mapping[str, str]) -> Any:
    """Returns a part of a generated document with the fields in its texts renamed to JSON."""
    if isinstance(value, list):
        return [_reworded(part, json_names) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        key: in_json(part, json_names) if key in _TEXTS and isinstance(part, str) else _reworded(part, json_names)
        for key, part in value.items()
    }


def _files(folder: Traversable) -> Iterator[Traversable]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry)
        elif entry.name.endswith(".openapi.json"):
            yield entry


def _operation(operation: Operation, words: _Words, schemas: _Schemas, links: Json) -> Json:
    said = words.operation(operation)
    said_of = {parameter["name"]: parameter.get("description", "") for parameter in said.get("parameters", [])}
    method = operation.descriptor
    built: Json = {
        "operationId": _operation_id(operation),
        "tags": [method.containing_service.name],
        "summary": said.get("summary", ""),
        "security": _security(method),
        "parameters": [
            {
                "name": parameter.name,
                "in": "path" if parameter in operation.path_parameters else "query",
                "required": parameter in operation.path_parameters,
                "description": (f"The same as {parameter.name} in the body." if parameter.in_body else "")
                or said_of.get(parameter.name, ""),
                "schema": schemas.field(parameter.field, is_input=True),
            }
            for parameter in (*operation.path_parameters, *operation.query.values())
        ]
        + list(_headers(operation, schemas))
        + ([_CONSISTENCY] if operation.reads else [])
        + [_FORWARD],
    }
    if operation.body_bytes_max:
        body = _body(operation, said, schemas)
        built["requestBody"] = {
            "description": f"At most {operation.body_bytes_max} bytes.",
            "required": schemas.needs(body),
            "content": _content(body),
        }
    shown = method.output_type
    if operation.response_field:
        shown = fields.message_of(shown.fields_by_name[operation.response_field])
    file = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("application/octet-stream", "*/*")}
    replies = {
        str(operation.status): {
            "description": "Success.",
            "content": file if operation.download else _content(schemas.reference(shown, is_input=False)),
        }
    }
    if operation.status_if_field is not None:
        name, status = operation.status_if_field
        replies[str(status)] = {
            "description": f"Success, with {shown.fields_by_name[name].json_name} set.",
            "content": _content(schemas.reference(shown, is_input=False)),
        }
    if shown.full_name == _TASK:
        for reply in replies.values():
            reply["links"] = links
    if operation.empty_status is not None:
        replies[str(operation.empty_status)] = {"description": "Success without content."}
    replies["307"] = {
        "description": "Another server leads.",
        "headers": {"Location": {"schema": {"type": "string"}, "description": "The same request at that server."}},
        "content": _content({"$ref": _REF + _ERROR}),
    }
    replies["default"] = {"description": "Failure.", "content": _content({"$ref": _REF + _ERROR})}
    return built | {"responses": replies}


def _headers(operation: Operation, schemas: _Schemas) -> Iterator[Json]:
    """Yields the headers that may carry fields of the body."""
    for field in operation.header_fields.values():
        text = f"The same as {field.json_name} in the body."
        yield _header(header_of(field), text, schemas.field(field, is_input=True))
    for field in operation.trace_fields:
        text = f"Fills {field.json_name} if the body has no trace context; ignored if malformed."
        yield _header(field.name, text, {"type": "string"})


def _header(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _security(method: MethodDescriptor) -> list[Json]:
    """Returns the alternatives of what a token needs. Roles that stand for a scope are not listed."""
    access: options_pb2.Access = method.GetOptions().Extensions[options_pb2.access]  # type: ignore[index]
    scopes = _SCOPES.get(access.principal, (access.scope,))
    return [{"bearer": [scope] if scope else []} for scope in scopes]


def _links(operations: Iterable[Operation]) -> Json:
    """Returns links from a task in a reply to the operations whose path needs only its id."""
    return {
        operation.descriptor.name: {
            "operationId": _operation_id(operation),
            "parameters": {_TASK_ID: "$response.body#/id"},
        }
        for operation in operations
        if [parameter.name for parameter in operation.path_parameters] == [_TASK_ID]
    }


def _operation_id(operation: Operation) -> str:
    return f"{operation.descriptor.containing_service.name}_{operation.descriptor.name}"


def _body(operation: Operation, said: Json, schemas: _Schemas) -> Json:
    request = operation.descriptor.input_type
    if operation.body_field:
        return schemas.reference(fields.message_of(request.fields_by_name[operation.body_field]), is_input=True)
    said_of = said.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    without = {parameter.field.name for parameter in operation.path_parameters}
    return schemas.message(request, said_of.get("properties", {}), without, is_input=True)


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


class _Schemas:
    """Schemas of messages, each built on first reference.

    Attributes:
        built: Schemas by name.
    """

    def __init__(self, words: _Words) -> None:
        self.built: dict[str, Json] = {}
        self._is_input: dict[str, bool] = {}
        """Whether the schema with a message's own name is that of requests."""
        self._words = words

    def reference(self, message: Descriptor, *, is_input: bool) -> Json:
        """Returns a reference to the schema of a message; one used in both requests and replies has two."""
        name, full_name = message.name, message.full_name
        if self._is_input.setdefault(name, is_input) is not is_input:
            name += "Input" if is_input else "Output"
        if name not in self.built:
            self.built[name] = {}
            schema = self.message(message, self._words.of_fields(full_name), (), is_input=is_input)
            self.built[name] = {"description": self._words.of_message(full_name)} | schema
        return {"$ref": _REF + name}

    def needs(self, schema: Json) -> bool:
        """Returns whether this schema, or the one it refers to, has a required field."""
        return bool(self.built.get(schema.get("$ref", "").removeprefix(_REF), schema).get("required"))

    def message(self, message: Descriptor, said_of: Json, without: Collection[str], *, is_input: bool) -> Json:
        """Returns the schema of a message without the fields in `without`."""
        described = [field for field in message.fields if field.name not in without]
        schema: Json = {
            "type": "object",
            "properties": {
                field.json_name: (self._sent(field) if is_input else self.field(field, is_input=False))
                | {"description": said_of.get(field.json_name, {}).get("description", "")}
                for field in described
            },
        }
        needed = [field.json_name for field in described if (_is_needed(field) if is_input else _is_always_told(field))]
        if needed:
            schema["required"] = needed
        if is_input:
            schema["additionalProperties"] = False
        return schema

    def _sent(self, field: FieldDescriptor) -> Json:
        """Returns the schema of a field of a request body: null means absent, if the field is optional."""
        schema = self.field(field, is_input=True)
        if "$ref" in schema and not _is_needed(field):
            return {"anyOf": [schema, {"type": "null"}]}
        if _is_needed(field) or "type" not in schema:
            return schema
        if not field.has_presence and not field.is_repeated and schema["type"] in _ZEROS:
            schema["default"] = _ZEROS[schema["type"]]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        return schema | {"type": [schema["type"], "null"]}

    def field(self, field: FieldDescriptor, *, is_input: bool) -> Json:
        """Returns the schema of a field."""
        rules = _rules(field)
        if not field.is_repeated:
            return self._value(field, rules, is_input=is_input)
        items = self._value(field, rules.repeated.items, is_input=is_input)
        return {"type": "array", "items": items} | _limits(rules.repeated)

    def _value(self, field: FieldDescriptor, rules: validate_pb2.FieldRules, *, is_input: bool) -> Json:
        if fields.is_embedded(field) or fields.is_ignored(field):
            return {}
        if fields.is_timestamp(field):
            return {"type": "string", "format": "date-time"}
        if fields.is_nested(field):
            return self.reference(fields.message_of(field), is_input=is_input)
        if field.type == FieldDescriptor.TYPE_ENUM:
            numbers = getattr(rules.enum, "in")
            names = fields.enum_names(fields.enum_of(field)).items()
            taken = [name for number, name in names if _is_told(field, number) and (number in numbers or not numbers)]
            return {"type": "string", "enum": taken}
        if field.type == FieldDescriptor.TYPE_UINT64:
            return {"type": "string", "pattern": "^[0-9]{1,20}$"}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        kind = rules.WhichOneof("type")
        bounds = _INT32_BOUNDS if is_input and field.type == FieldDescriptor.TYPE_INT32 else {}
        limits = _limits(getattr(rules, kind)) if kind else {}
        return _NUMBERS.get(field.type, {"type": "string"}) | bounds | limits


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    return field.GetOptions().Extensions[validate_pb2.field]  # type: ignore[index]


def _limits(rules: Any) -> Json:
    limits = {_LIMITS[rule.name]: value for rule, value in rules.ListFields() if rule.name in _LIMITS}
    one_of = list(getattr(rules, "in", ()))
    return limits | ({"enum": one_of} if one_of else {})


def _is_told(field: FieldDescriptor, number: int) -> bool:
    """Returns whether an enum value appears in JSON; the unspecified one does only for error reasons."""
    return number != 0 or fields.enum_of(field).full_name == error_pb2.ErrorReason.DESCRIPTOR.full_name


def _is_always_told(field: FieldDescriptor) -> bool:
    """Returns whether a reply always contains the field."""
    return not field.has_presence and not fields.is_omitted_empty(field)


def _is_needed(field: FieldDescriptor) -> bool:
    """Returns whether the field is required: its rules reject the value that absence means."""
    rules = _rules(field)
    if field.has_presence:
        return rules.required
    if field.is_repeated:
        return rules.repeated.min_items > 0
    text = rules.string
    if text.min_len > 0 or (text.pattern and not re.search(text.pattern, "")):
        return True
    one_of = getattr(rules.enum, "in")
    return rules.int32.gte > 0 or bool(one_of and 0 not in one_of)


def _error_schema() -> Json:
    codes = sorted({reason.grpc_name for reason in reasons.BY_NUMBER.values()})
    detail = {
        "type": "object",
        "properties": {
            "field": {"type": "string", "description": "Field, parameter or header, such as tasks[3].priority."},
            "description": {"type": "string", "description": "What is wrong with it, human-readable."},
        },
        "required": ["field", "description"],
    }
    return {
        "type": "object",
        "description": "Body of every failed call.",
        "properties": {
            "error": {"type": "string", "description": "Human-readable message; not part of the contract."},
            "code": {"type": "string", "enum": codes, "description": "gRPC code of the reason."},
            "reason": {"type": "string", "enum": list(reasons.BY_NAME), "description": "What went wrong."},
            "details": {"type": "array", "items": detail, "description": "Malformed fields, if any."},
            "leader": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("name", "http", "grpc")},
                "description": "What is known about the leader, with the reason NOT_LEADER.",
            },
            **{
                name: {"type": "string", "description": f"{text}, with the reason RATE_LIMITED."}
                for name, text in (
                    ("scope", "Rate limit: producer, worker or admin"),
                    ("operation", "The call, such as create_task"),
                    ("subject", "Whose rate it is: token or tenant"),
                )
            },
            "quota": {"type": "string", "description": "Name of the quota, with QUOTA_EXCEEDED or TOO_MANY_QUEUES."},
            "limit": {"type": "integer", "format": "int64", "description": "What that quota allows."},
            "retryAfterSeconds": {"type": "integer", "description": "As Retry-After, with the reason RATE_LIMITED."},
        },
        "required": ["error", "code", "reason", "details"],
    }
