"""Protobuf messages as the REST API's JSON, in which embedded JSON is {"raw": text} to keep its bytes."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

_EMBEDDED = frozenset({"payload", "result", "progress", "before", "after", "payload_schema"})
"""Fields whose text is one JSON value."""

_TIMESTAMP = "google.protobuf.Timestamp"
_UNSIGNED_64 = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)


def to_json(message: Message) -> dict[str, Any]:
    """Returns a message as JSON: enums by their short names, unsigned 64-bit integers as strings."""
    shown: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            shown[field.json_name] = [_shown(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            shown[field.json_name] = _shown(field, value)
    return shown


def fill(message: Message, told: dict[str, Any]) -> None:
    """Writes JSON into a message.

    Raises:
        ValueError: A field is unknown, or its value has the wrong type.
    """
    names = {field.json_name: field for field in message.DESCRIPTOR.fields}
    names |= {field.name: field for field in message.DESCRIPTOR.fields}
    for key, value in told.items():
        if (field := names.get(key)) is None:
            raise ValueError(f"{message.DESCRIPTOR.name} has no field {key}")
        if value is None:
            continue
        try:
            _set(message, field, value)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{key}: {error}") from None


def embedded(value: Any) -> bytes:
    """Returns the bytes of embedded JSON: those of {"raw": text} as they are, else the compact JSON of the value."""
    if isinstance(value, dict) and value.keys() == {"raw"}:
        return str(value["raw"]).encode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return _time(value) if field.message_type.full_name == _TIMESTAMP else to_json(value)
    if field.enum_type is not None:
        return _short_names(field.enum_type).get(value, value)
    if field.name in _EMBEDDED and field.type in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
        return {"raw": value.decode() if isinstance(value, bytes) else value}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if field.type in _UNSIGNED_64 else value


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.message_type is not None and field.message_type.full_name == _TIMESTAMP:
        getattr(message, field.name).FromDatetime(datetime.fromisoformat(value))
    elif field.message_type is not None and field.is_repeated:
        for each in value:
            fill(getattr(message, field.name).add(), each)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
        fill(getattr(message, field.name), value)
    elif field.is_repeated:
        values = [value] if isinstance(value, str) else value
        getattr(message, field.name).extend(_scalar(field, each) for each in values)
    else:
        setattr(message, field.name, _scalar(field, value))


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        numbers = {name: number for number, name in _short_names(field.enum_type).items()}
        numbers |= {each.name: each.number for each in field.enum_type.values}
        return numbers[value]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return embedded(value) if field.name in _EMBEDDED else base64.b64decode(value)
    is_number = isinstance(value, str) and field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    return int(value) if is_number else value


def _short_names(enum: EnumDescriptor) -> dict[int, str]:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix) for value in enum.values}


def _time(value: Any) -> str:
    return value.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
