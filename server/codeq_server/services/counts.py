"""Limits on the items a message may list, checked before validation and, for large messages, before parsing.

A few megabytes can hold millions of empty items. Parsing them takes a hundred times the memory and blocks the event
loop for seconds; protovalidate would validate each item before counting them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from codeq_server.core.errors import Rejection, invalid_field

PARSED_ITEMS_MAX: Final = 65_536
"""Items that may be parsed without counting them first; that takes a few milliseconds."""

PARSED_BYTES_MAX: Final = 2 * PARSED_ITEMS_MAX
"""Size up to which a message cannot hold more items than that: an empty item takes two bytes."""

FIELDS_MAX: Final = 1 << 17
"""Maximum number of fields visited while counting; valid messages have at most a third of that."""

_WIDTHS: Final = {1: 8, 5: 4}
"""Size in bytes of fields of fixed-size wire types."""
_VARINT: Final = 0
_DELIMITED: Final = 2


@dataclass(frozen=True, slots=True)
class _Field:
    """A repeated field with a limit, or a field whose messages contain such a field.

    Attributes:
        name: Name of the field.
        items_max: Maximum number of items; None: unlimited.
        inner: Fields of this kind in the messages that the field holds, by number.
    """

    name: str
    items_max: int | None
    inner: Mapping[int, _Field]


@cache  # bounded by the number of messages
def _fields(descriptor: Descriptor) -> Mapping[int, _Field]:
    """Returns, by number, a message's limited repeated fields, and the fields whose messages contain such fields."""
    found = {}
    for field in descriptor.fields:
        inner = _fields(field.message_type) if field.message_type is not None else {}
        items_max = _items_max(field)
        if items_max is not None or inner:
            found[field.number] = _Field(field.name, items_max, inner)
    return found


def _items_max(field: FieldDescriptor) -> int | None:
    rules: Any = field.GetOptions().Extensions[validate_pb2.field]  # type: ignore[index]
    return rules.repeated.max_items if rules.repeated.HasField("max_items") else None


def parser(request_class: type[Message]) -> Callable[[bytes], Any]:
    """Returns a parser of requests that rejects those with too many items before parsing them.

    The parser raises DecodeError, or a Rejection with INVALID_FIELD.
    """
    parse, fields = request_class.FromString, _fields(request_class.DESCRIPTOR)
    tags = _first_bytes(fields)
    if not tags:
        return parse

    def parse_counted(content: bytes) -> Message:
        if len(content) > PARSED_BYTES_MAX and any(_is_frequent(tag, content) for tag in tags):
            _count(content, 0, len(content), fields, "", [FIELDS_MAX])
        return parse(content)

    return parse_counted


def check_counts(message: Message) -> None:
    """Checks the number of items of every list of a message.

    Raises:
        Rejection: INVALID_FIELD.
    """
    _check(message, _fields(message.DESCRIPTOR), "")


def _check(message: Any, fields: Mapping[int, _Field], path: str) -> None:
    for field in fields.values():
        if field.items_max is None:
            if message.HasField(field.name):
                _check(getattr(message, field.name), field.inner, f"{path}{field.name}.")
            continue
        items = getattr(message, field.name)
        if len(items) > field.items_max:
            raise _too_many(path, field)
        if field.inner:
            for index, item in enumerate(items):
                _check(item, field.inner, f"{path}{field.name}[{index}].")


def _too_many(path: str, field: _Field) -> Rejection:
    return invalid_field(path + field.name, f"must have at most {field.items_max} items")


def _first_bytes(fields: Mapping[int, _Field]) -> set[bytes]:
    """Returns the first tag bytes of limited repeated fields, including those of inner messages."""
    found = set()
    for number, field in fields.items():
        if field.items_max is not None:
            tag = number << 3 | _DELIMITED
            found.add(bytes([tag if tag < 128 else tag & 127 | 128]))
        found |= _first_bytes(field.inner)
    return found


def _is_frequent(tag: bytes, content: bytes) -> bool:
    """Returns whether a byte occurs more than PARSED_ITEMS_MAX times, so that items must be counted exactly."""
    count = 0
    for first in range(0, len(content), PARSED_BYTES_MAX):
        count += content.count(tag, first, first + PARSED_BYTES_MAX)
        if count > PARSED_ITEMS_MAX:
            return True
    return False


def _count(content: bytes, at: int, end: int, fields: Mapping[int, _Field], path: str, budget: list[int]) -> None:
    """Counts the items of a message in wire form; `budget` holds the number of fields that may still be visited.

    Raises:
        Rejection: INVALID_FIELD: too many items.
        DecodeError: The bytes are malformed, or have more fields than any valid message.
    """
    counts = dict.fromkeys(fields, 0)
    while at < end:
        budget[0] -= 1
        if budget[0] < 0:
            raise DecodeError(f"more than {FIELDS_MAX} fields")
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _DELIMITED:
            size, at = _varint(content, at)
            field = fields.get(tag >> 3)
            if field is not None:
                number = tag >> 3
                counts[number] += 1
                if field.items_max is not None and counts[number] > field.items_max:
                    raise _too_many(path, field)
                if field.inner:
                    _count(content, at, min(end, at + size), field.inner, f"{path}{field.name}.", budget)
            at += size
        elif kind == _VARINT:
            _, at = _varint(content, at)
        elif kind in _WIDTHS:
            at += _WIDTHS[kind]
        else:
            raise DecodeError("unsupported wire type")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Returns the varint at a position, and the position after it."""
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise DecodeError("truncated or oversized varint")
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
