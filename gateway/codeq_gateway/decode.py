"""From JSON to protobuf: one decoder and one chain of assignments per message, built from its descriptor at startup."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from codeq_gateway import fields, refusals, surrogates
from codeq_gateway.fields import Assign, BadValueError, Lists

_FEW: Final = 4_096
"""Number of commas in a body below which its lists are too short to need counting while they are decoded."""

_TOO_MANY: Final = re.compile(
    "Expected `array` of at most length ([0-9]+)|Expected `array` of length <= ([0-9]+)(?: - at .*)?"
)
"""msgspec's errors for a list that is too long: for an array-like struct, and for a list with a maximum length."""

_Parse = Callable[[bytes], Any]

Decode = Callable[[bytes, Message], None]
"""Fills a message from a JSON body; raises a CallFailed that says what is wrong."""


def compile_decoder(descriptor: Descriptor, without: Collection[str] = ()) -> Decode:
    """Returns the decoder of JSON bodies that hold one message.

    A body has camelCase names, and unknown names are rejected. An empty body is an empty object, and null means absent.
    Embedded JSON is copied byte for byte.

    Args:
        descriptor: Message of the body.
        without: Names of fields that do not come from the body, such as path variables; a body that contains them
            is rejected.

    Raises:
        TypeError: A field's type has no JSON form.
    """
    read = _reader(descriptor, frozenset(without), None)

    def decode(body: bytes, message: Message) -> None:
        read(body, message)

    return decode


def compile_apart(
    descriptor: Descriptor, without: Collection[str], listed: FieldDescriptor
) -> Callable[[bytes, Message], Sequence[bytes]]:
    """Returns a decoder like `compile_decoder`'s that leaves one list out and returns its items undecoded."""
    read = _reader(descriptor, frozenset(without), listed)

    def decode(body: bytes, message: Message) -> Sequence[bytes]:
        value, mark = read(body, message)
        texts = map(bytes, getattr(value, listed.name) or ())
        return [text.replace(mark, b"\\u") for text in texts] if mark else list(texts)

    return decode


def _reader(
    descriptor: Descriptor, without: frozenset[str], listed: FieldDescriptor | None
) -> Callable[[bytes, Message], tuple[msgspec.Struct, bytes]]:
    """Returns a function that fills a message from a body, and returns the decoded struct and its surrogates' mark."""
    lists = _lists(descriptor)
    struct, fill = _compile(descriptor, without, None, 1, listed)
    parse: _Parse = msgspec.json.Decoder(struct).decode
    if lists:
        counted = Lists()
        parse_many = msgspec.json.Decoder(_compile(descriptor, without, counted, 1, listed)[0]).decode
        parse = _by_commas(parse, parse_many, counted, _list_names(descriptor))

    def read(body: bytes, message: Message) -> tuple[msgspec.Struct, bytes]:
        mark = b""
        try:
            try:
                value = parse(body or b"{}")
            except msgspec.DecodeError:
                body, mark = surrogates.mark_unpaired(body)
                if not mark:
                    raise
                value = parse(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if many := _TOO_MANY.fullmatch(str(error)):  # msgspec does not say where
                most = int(many[1] or many[2])
                raise refusals.invalid_field(lists[most], f"must have at most {most} items") from None
            raise refusals.from_decoding(error, partial(_wanted, descriptor)) from None
        try:
            fill(message, value)
            if mark:
                surrogates.restore(message, mark)
        except BadValueError as bad:
            raise refusals.invalid_field(bad.path, bad.description) from None
        return value, mark

    return read


def _wanted(descriptor: Descriptor, path: str) -> str:
    """Describes the values that the field at a path of a body accepts; the path consists of JSON names."""
    first, _, rest = path.partition(".")
    name, _, index = first.partition("[")
    field = next(field for field in descriptor.fields if field.json_name == name)
    if rest:
        return _wanted(fields.message_of(field), rest)
    return fields.wanted_item(field) if index else fields.wanted(field)


def _by_commas(few: _Parse, many: _Parse, counted: Lists, names: Collection[str]) -> _Parse:
    """Returns a parser that counts items and lists while it decodes, but only in bodies that may have too many."""
    keys = [f'"{name}"'.encode() for name in names]

    def parse(body: bytes) -> Any:
        if body.count(b",") < _FEW and b"\\u" not in body:  # it might be part of a name
            for key in keys:
                if body.count(key) > 1:
                    break
            else:
                return few(body)
        counted.begin()
        return many(body)

    return parse


def _list_names(descriptor: Descriptor) -> set[str]:
    """Returns the JSON names of all lists of a message."""
    inner = [_list_names(fields.message_of(field)) for field in descriptor.fields if fields.is_nested(field)]
    return {field.json_name for field in descriptor.fields if field.is_repeated}.union(*inner)


def _lists(descriptor: Descriptor) -> dict[int, str]:
    """Returns the JSON paths of the lists of a message, by their maximum number of items."""
    found: dict[int, str] = {}
    for field in descriptor.fields:
        if field.is_repeated:
            found.setdefault(fields.items_max(field), field.json_name)
        if fields.is_nested(field):
            for count, name in _lists(fields.message_of(field)).items():
                found.setdefault(count, f"{field.json_name}.{name}")
    return found


def _compile(
    descriptor: Descriptor,
    without: frozenset[str],
    counted: Lists | None,
    copies_max: int,
    listed: FieldDescriptor | None = None,
) -> tuple[type[msgspec.Struct], Assign]:
    """Returns the struct that msgspec decodes a message's JSON into, and a function that fills the message from it.

    Args:
        descriptor: The message.
        without: Names of fields that do not come from the body.
        counted: Counts the lists of a body; None: they are not counted.
        copies_max: Maximum number of these messages in a body.
        listed: The list whose items stay undecoded in the struct.
    """
    members: list[tuple[str, Any, Any]] = []
    steps: list[tuple[str, Any, Assign]] = []
    rename = {}
    for field in descriptor.fields:
        if field.name in without:
            continue
        if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
            raise TypeError(f"{field.full_name}: no JSON form for a oneof")
        rename[field.name] = field.json_name
        if fields.is_ignored(field):
            members.append((field.name, msgspec.Raw, fields.ABSENT_RAW))
        elif fields.is_embedded(field):
            members.append((field.name, msgspec.Raw, fields.ABSENT_RAW))
            steps.append((field.name, fields.ABSENT_RAW, fields.assign_embedded(field)))
        elif field is listed:
            members.append((field.name, fields.list_of(field, msgspec.Raw, counted, copies_max) | None, None))
        else:
            kind, assign = _member(field, counted, copies_max)
            members.append((field.name, kind | None, None))
            steps.append((field.name, None, assign))
    struct = msgspec.defstruct(descriptor.name, members, rename=rename, forbid_unknown_fields=True, gc=False)

    def fill(message: Message, value: Any) -> None:
        for name, absent, assign in steps:
            part = getattr(value, name)
            if part is not absent:
                assign(message, part)

    return struct, fill


def _member(field: FieldDescriptor, counted: Lists | None, copies_max: int) -> tuple[Any, Assign]:
    """Returns the type of a field that is not embedded JSON, and the function that sets it."""
    if not fields.is_nested(field):
        form = fields.scalar(field)
        if field.is_repeated:
            return fields.list_of(field, form.type, counted, copies_max), fields.assign_scalars(field, form)
        return form.type, fields.assign_scalar(field, form)
    inner_max = copies_max * fields.items_max(field) if field.is_repeated else copies_max
    struct, fill = _compile(fields.message_of(field), frozenset(), counted, inner_max)
    name, key = field.name, field.json_name

    def assign_one(message: Message, value: Any) -> None:
        target = getattr(message, name)
        target.SetInParent()
        try:
            fill(target, value)
        except BadValueError as bad:
            raise bad.under(key) from None

    def assign_each(message: Message, values: Any) -> None:
        add = getattr(message, name).add
        for index, value in enumerate(values):
            try:
                fill(add(), value)
            except BadValueError as bad:
                raise bad.under(f"{key}[{index}]") from None

    if field.is_repeated:
        return fields.list_of(field, struct, counted, copies_max), assign_each
    return struct, assign_one
