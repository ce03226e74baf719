"""JSON form of single fields: the type a decoder checks, how a value is set, and a description of its valid values."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from buf.validate import validate_pb2
from codeq import reasons
from codeq.options.v1 import options_pb2
from codeq.v1 import error_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

TIMESTAMP: Final = "google.protobuf.Timestamp"
"""Full name of the message that JSON shows as an RFC 3339 string."""

ITEMS_MAX: Final = 1000
"""Maximum items of a list whose field has no `max_items` rule."""

ABSENT_RAW: Final = msgspec.Raw(b"")
"""Value of an embedded JSON field missing from the body; no JSON value is empty."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MIN: Final = -62_135_596_800  # 0001-01-01T00:00:00Z, the earliest google.protobuf.Timestamp
_SECONDS_MAX: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the latest one

_INT32 = {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32}
_UINT32 = {FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32}
_INT64 = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64}
_UINT64 = {FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64}
_FLOAT = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}

Assign = Callable[[Message, Any], None]
"""Puts a decoded JSON value into its field of a message; raises BadValueError."""


class BadValueError(Exception):
    """A value of the right JSON type that its field cannot hold.

    Attributes:
        path: JSON path of the field, relative to where the error was caught, such as "tasks[3].leaseToken".
        description: What is wrong, without the field's name.
    """

    def __init__(self, path: str, description: str) -> None:
        super().__init__(path, description)
        self.path = path
        self.description = description

    def under(self, parent: str) -> BadValueError:
        """Returns the same error with its path prefixed by a parent field."""
        return BadValueError(f"{parent}.{self.path}", self.description)


@dataclass(frozen=True, slots=True)
class Scalar:
    """JSON form of a field's single value, for scalars and Timestamp.

    Attributes:
        type: Type that msgspec checks the JSON value against.
        convert: Converts the checked value to the field's type, or raises ValueError; None: no conversion needed.
        is_text: Whether the JSON value is a string, so that text from a URL is the value itself.
    """

    type: Any
    convert: Callable[[Any], Any] | None
    is_text: bool


def is_embedded(field: FieldDescriptor) -> bool:
    """Returns whether the field's bytes are one JSON value, embedded byte for byte."""
    return bool(field.GetOptions().Extensions[options_pb2.json_embedded])  # type: ignore[index]


def is_ignored(field: FieldDescriptor) -> bool:
    """Returns whether the field is accepted in JSON but ignored."""
    return bool(field.GetOptions().Extensions[options_pb2.json_ignored])  # type: ignore[index]


def is_free_text(field: FieldDescriptor) -> bool:
    """Returns whether the field is human-readable text, which is never rejected for its content."""
    return bool(field.GetOptions().Extensions[options_pb2.free_text])  # type: ignore[index]


def is_omitted_empty(field: FieldDescriptor) -> bool:
    """Returns whether the repeated field is omitted from JSON when it has no items."""
    return bool(field.GetOptions().Extensions[options_pb2.omit_empty])  # type: ignore[index]


def is_timestamp(field: FieldDescriptor) -> bool:
    """Returns whether the field is a point in time."""
    return field.message_type is not None and field.message_type.full_name == TIMESTAMP


def is_nested(field: FieldDescriptor) -> bool:
    """Returns whether the field holds JSON objects."""
    return field.message_type is not None and not is_timestamp(field)


def items_max(field: FieldDescriptor) -> int:
    """Returns the maximum number of items of a repeated field in JSON."""
    return int(rules_of(field).repeated.max_items) or ITEMS_MAX


def rules_of(field: FieldDescriptor) -> Any:
    """Returns the field's rules in its proto."""
    return field.GetOptions().Extensions[validate_pb2.field]  # type: ignore[index]


def form_of(field: FieldDescriptor) -> str:
    """Returns the words for what the field's pattern demands; empty: there are none."""
    return str(field.GetOptions().Extensions[options_pb2.form])  # type: ignore[index]


class Lists:
    """Counts the lists of a body by type while it is decoded.

    JSON allows duplicate keys, and the last one wins. A body could therefore repeat a list any number of times, each
    with the maximum number of items, and all of them would be decoded.
    """

    def __init__(self) -> None:
        self._counts: dict[type, int] = {}

    def begin(self) -> None:
        """Resets the counts for a new body."""
        self._counts.clear()

    def add(self, kind: type, lists_max: int) -> None:
        """Counts a list that has been decoded.

        Raises:
            ValueError: The body has more than `lists_max` lists of this kind.
        """
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count > lists_max:
            raise ValueError("must not be given more than once")


def list_of(field: FieldDescriptor, item: Any, lists: Lists | None, lists_max: int) -> Any:
    """Returns the type that msgspec decodes the list of a repeated field into: an iterable of items.

    msgspec checks the length of a `list` only after decoding all its items, which may be millions. An array-like struct
    fails at the first item beyond the limit.

    Args:
        field: The repeated field.
        item: Type of its items.
        lists: Counts the lists of a body; None: use a plain `list` with a maximum length.
        lists_max: Maximum number of lists of this field in a body.
    """
    if lists is None:
        return Annotated[list[item], msgspec.Meta(max_length=items_max(field))]
    places = [(f"item{index}", item, msgspec.UNSET) for index in range(items_max(field))]

    def iterate(items: Any) -> Iterator[Any]:
        for name in items.__struct_fields__:
            value = getattr(items, name)
            if value is msgspec.UNSET:
                return
            yield value

    def count(items: Any) -> int:
        return sum(1 for _ in items)

    def note(items: Any) -> None:
        lists.add(type(items), lists_max)

    own = {"__iter__": iterate, "__len__": count, "__post_init__": note}
    return msgspec.defstruct(
        f"{field.name}_list", places, array_like=True, forbid_unknown_fields=True, gc=False, namespace=own
    )


def message_of(field: FieldDescriptor) -> Descriptor:
    """Returns the message type of a field that JSON shows as an object.

    Raises:
        TypeError: The field holds no message, or is a map, which has no JSON form here.
    """
    message = field.message_type
    if message is None or is_timestamp(field) or message.GetOptions().map_entry:
        raise TypeError(f"{field.full_name}: no JSON form for this type")
    return message


def enum_of(field: FieldDescriptor) -> EnumDescriptor:
    """Returns the enum type of a field."""
    assert field.enum_type is not None, field.full_name
    return field.enum_type


def enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Returns the JSON name of each value: its name without the enum's prefix, such as "COMPLETED".

    Error reasons use the names of the error table, in which the unspecified one is INTERNAL.
    """
    if enum.full_name == error_pb2.ErrorReason.DESCRIPTOR.full_name:
        return {reason.number: reason.name for reason in reasons.table_of(enum).values()}
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix) for value in enum.values}


def enum_inputs(enum: EnumDescriptor) -> dict[str, int]:
    """Returns the number of each name accepted in JSON; the unspecified value has none."""
    return {name: number for number, name in enum_names(enum).items() if number != 0}


def scalar(field: FieldDescriptor) -> Scalar:
    """Returns the JSON form of one value of a field that is neither a nested message nor embedded JSON.

    Raises:
        TypeError: The field's type has no JSON form here.
    """
    kind = field.type
    if kind in _INT32:
        return Scalar(Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)] | float, _whole, is_text=False)
    if kind in _UINT32:
        return Scalar(Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] | float, _whole, is_text=False)
    if kind in _INT64:
        return Scalar(Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float, _whole, is_text=False)
    if kind in _UINT64:
        # A string, because many clients lose digits of large JSON numbers; an exact integer is accepted as well.
        # Without the annotation mypy takes the variable for a type alias, and compiled code does not assign aliases.
        unsigned: Any = Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern="^[0-9]{1,20}$")]
        return Scalar(unsigned, int, is_text=True)  # the message rejects values above 64 bits
    if kind in _FLOAT:
        return Scalar(float, None, is_text=False)
    if kind == FieldDescriptor.TYPE_BOOL:
        return Scalar(bool, None, is_text=False)
    if kind in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}:
        return Scalar(str, _from_base64 if kind == FieldDescriptor.TYPE_BYTES else None, is_text=True)
    if kind == FieldDescriptor.TYPE_ENUM:
        inputs = enum_inputs(enum_of(field))
        return Scalar(Literal[tuple(inputs)], inputs.__getitem__, is_text=True)
    if is_timestamp(field):
        return Scalar(Annotated[datetime, msgspec.Meta(tz=True)], None, is_text=True)
    raise TypeError(f"{field.full_name}: no JSON form for this type")


def wanted(field: FieldDescriptor) -> str:
    """Describes the JSON values that the field accepts, for an error: "must be a whole number from 0 to 9"."""
    if field.is_repeated:
        return "must be a list"
    return wanted_item(field)


def wanted_item(field: FieldDescriptor) -> str:
    """Describes the single values that the field accepts; for a list, its items."""
    kind = field.type
    if kind == FieldDescriptor.TYPE_STRING:
        return "must be text"
    if kind == FieldDescriptor.TYPE_BYTES:
        return "must be base64"
    if kind == FieldDescriptor.TYPE_BOOL:
        return "must be true or false"
    if kind == FieldDescriptor.TYPE_ENUM:
        return f"must be {_either(_allowed(field))}"
    if is_timestamp(field):
        return "must be a time with a time zone, such as 2030-01-31T12:00:00Z"
    if field.message_type is not None:
        return "must be an object"
    return "must be a number" if kind in _FLOAT else f"must be a whole number{_bounds(field)}"


def _allowed(field: FieldDescriptor) -> list[str]:
    """Returns the names that an enum field accepts."""
    rules = rules_of(field)
    enum_rules = rules.repeated.items.enum if field.is_repeated else rules.enum
    numbers = set(getattr(enum_rules, "in"))
    return [name for name, number in enum_inputs(enum_of(field)).items() if not numbers or number in numbers]


def _either(names: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _bounds(field: FieldDescriptor) -> str:
    """Returns the bounds of a whole number, as the end of a sentence."""
    rules = rules_of(field)
    kind = rules.WhichOneof("type")
    if kind in {"int32", "int64"}:
        limits = getattr(rules, kind)
        return f" from {limits.gte} to {limits.lte}" if limits.HasField("lte") else f", {limits.gte} or more"
    return f" from 0 to {2**64 - 1}" if field.type in _UINT64 else ""


def assign_scalar(field: FieldDescriptor, form: Scalar) -> Assign:
    """Returns a function that sets the field to a checked value."""
    name, key = field.name, field.json_name
    convert = form.convert or _unchanged

    def assign_plain(message: Message, value: Any) -> None:
        setattr(message, name, value)

    def assign_converted(message: Message, value: Any) -> None:
        try:
            setattr(message, name, convert(value))
        except ValueError:
            raise BadValueError(key, wanted(field)) from None

    def assign_time(message: Message, value: Any) -> None:
        try:
            seconds, nanos = _since_epoch(value)
        except ValueError as error:
            raise BadValueError(key, str(error)) from None
        timestamp = getattr(message, name)
        timestamp.seconds = seconds
        timestamp.nanos = nanos

    if is_timestamp(field):
        return assign_time
    return assign_plain if form.convert is None else assign_converted


def assign_scalars(field: FieldDescriptor, form: Scalar) -> Assign:
    """Returns a function that appends the values of a checked list to a repeated field."""
    name, key = field.name, field.json_name
    convert = form.convert or _unchanged

    def assign(message: Message, values: Any) -> None:
        target = getattr(message, name)
        for index, value in enumerate(values):
            try:
                target.append(convert(value))
            except ValueError:
                raise BadValueError(f"{key}[{index}]", wanted_item(field)) from None

    if is_timestamp(field):
        raise TypeError(f"{field.full_name}: no JSON form for a list of times")
    return assign


def assign_embedded(field: FieldDescriptor) -> Assign:
    """Returns a function that copies a JSON value into its bytes field, byte for byte."""
    name, key = field.name, field.json_name

    def assign(message: Message, value: Any) -> None:
        text = bytes(value)
        # The decoder checks an embedded value's grammar, but not that its strings are valid UTF-8.
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                raise BadValueError(key, "must be valid UTF-8") from None
        setattr(message, name, text)

    return assign


def json_names(names: Mapping[int, str]) -> Callable[[int], str | int]:
    """Returns a function that maps an enum's number to its name; unnamed numbers stay numbers."""
    return lambda number: names.get(number, number)


def _from_base64(text: str) -> bytes:
    """Returns the bytes of base64 text; padding is optional. Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _whole(value: Any) -> int:  # declared as a float, a large int would lose digits in compiled code
    """Returns a whole number as int: JSON may write 5 as 5.0. Raises ValueError."""
    if isinstance(value, int):
        return value
    if not value.is_integer():
        raise ValueError
    return int(value)


def _unchanged(value: Any) -> Any:
    return value


def _since_epoch(value: datetime) -> tuple[int, int]:
    """Returns the seconds and nanoseconds since the Unix epoch."""
    elapsed = value - _EPOCH
    seconds = elapsed.days * 86_400 + elapsed.seconds
    if not _SECONDS_MIN <= seconds <= _SECONDS_MAX:
        raise ValueError("must be between the years 1 and 9999 in UTC")
    return seconds, elapsed.microseconds * 1_000
