"""Encodes protobuf as JSON: one encoder per message type, compiled from its descriptor at startup."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from codeq_gateway import fields

Encode = Callable[[Message], bytes]
"""Returns a message as a line of JSON."""

_SECONDS_CACHED: Final = 4_096
"""Size of the cache of formatted seconds: task times cluster around the present."""

_MILLIS: Final = [f".{millis:03d}Z" for millis in range(1000)]
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, written with a Z
_ENCODE: Final = msgspec.json.Encoder().encode


def compile_encoder(descriptor: Descriptor) -> Encode:
    """Returns the encoder of a message: one line of JSON, including the final line feed.

    Fields without presence are always written; fields with presence, and lists with the option `omit_empty`, only when
    set. Signed 64-bit integers become numbers, unsigned 64-bit integers become strings, enums become their short names,
    and times are in UTC with three decimals. Embedded JSON is written byte for byte; an empty field without presence
    becomes null.

    Raises:
        TypeError: A field's type has no JSON form.
    """
    build = _compile(descriptor)
    return lambda message: _ENCODE(build(message)) + b"\n"


def _compile(descriptor: Descriptor) -> Callable[[Message], dict[str, Any]]:
    """Returns a function that converts a message to a dict for the JSON encoder."""
    plan = [
        (field.json_name, field.name, field.has_presence, _shown(field))
        for field in descriptor.fields
        if not fields.is_omitted_empty(field)
    ]
    rare = [
        (field.json_name, field.name, _shown(field)) for field in descriptor.fields if fields.is_omitted_empty(field)
    ]

    def build(message: Message) -> dict[str, Any]:
        shown = {}
        has = message.HasField
        for key, name, has_presence, show in plan:
            if not has_presence or has(name):
                value = getattr(message, name)
                shown[key] = value if show is None else show(value)
        for key, name, show in rare:
            if values := getattr(message, name):
                shown[key] = list(values) if show is None else show(values)
        return shown

    return build


def _shown(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    """Returns the function that converts a field's value for the encoder; None: no conversion needed."""
    show = _shown_one(field)
    if not field.is_repeated:
        return show
    if show is None:
        return list
    return lambda values: [show(value) for value in values]


def _shown_one(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    if fields.is_embedded(field):
        return _embedded
    if fields.is_timestamp(field):
        return _timestamp
    if fields.is_nested(field):
        return _compile(fields.message_of(field))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return fields.json_names(fields.enum_names(fields.enum_of(field)))
    if field.type in {FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64}:
        return str
    fields.scalar(field)  # rejects types without a JSON form
    return None


def _embedded(value: bytes) -> msgspec.Raw:
    return msgspec.Raw(value or b"null")


def _timestamp(value: timestamp_pb2.Timestamp) -> str:
    return _second(value.seconds) + _MILLIS[value.nanos // 1_000_000]


@functools.lru_cache(maxsize=_SECONDS_CACHED)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()
