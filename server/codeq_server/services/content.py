"""Content of tasks, which viewers do not see: the fields with the option `content` in the protos."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from codeq.options.v1 import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class _Places:
    """Where messages of a type have content.

    Attributes:
        content: Fields that are content.
        single: Fields with one message that may have content.
        repeated: Fields with several such messages.
    """

    content: tuple[str, ...]
    single: tuple[str, ...]
    repeated: tuple[str, ...]


def remove_content(message: Message) -> None:
    """Removes all content of tasks from a message and those nested in it."""
    places = _places(message.DESCRIPTOR)
    for name in places.content:
        message.ClearField(name)
    for name in places.single:
        if message.HasField(name):
            remove_content(getattr(message, name))
    for name in places.repeated:
        for each in getattr(message, name):
            remove_content(each)


@cache  # bounded by the number of message types
def _places(descriptor: Descriptor) -> _Places:
    nested = [f for f in descriptor.fields if f.message_type is not None and not _is_content(f) and _has_any(f)]
    return _Places(
        content=tuple(field.name for field in descriptor.fields if _is_content(field)),
        single=tuple(field.name for field in nested if not field.is_repeated),
        repeated=tuple(field.name for field in nested if field.is_repeated),
    )


def _has_any(field: FieldDescriptor) -> bool:
    places = _places(field.message_type)
    return bool(places.content or places.single or places.repeated)


def _is_content(field: FieldDescriptor) -> bool:
    options: Any = field.GetOptions().Extensions  # the stubs do not accept a descriptor as key
    return bool(options[options_pb2.content])
