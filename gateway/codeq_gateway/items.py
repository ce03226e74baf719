"""Batches: what is wrong in one item of a list is that item's error, and not that of the call.

The body of a batch is decoded as a whole. Only where that fails it is taken apart: an item that cannot be decoded goes
to the service as an empty one, which the service refuses; in the reply that error is replaced by what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from buf.validate import validate_pb2
from codeq.v1 import error_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from codeq_gateway import fields
from codeq_gateway.decode import compile_apart, compile_decoder
from codeq_gateway.dispatch import CallFailed

ALL_OR_NONE: Final = "atomic"
"""Field of a batch by which one bad item fails the call."""

_ERROR: Final = "error"
_TASK_ID: Final = "task_id"
_SPEAKS_OF_FIELDS: Final = frozenset({error_pb2.ERROR_REASON_INVALID_FIELD, error_pb2.ERROR_REASON_TOO_LARGE})

_TaskId = msgspec.defstruct("TaskId", [("taskId", str, "")], gc=False)
_read_task_id: Final = msgspec.json.Decoder(_TaskId).decode


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item that could not be decoded.

    Attributes:
        index: Its place in the list, from 0.
        message: What is wrong with it.
        task_id: The task that it names; empty: none, or none that can be read.
    """

    index: int
    message: str
    task_id: str


Refused = Sequence[RefusedItem]


class _Batch:
    """Decodes the body of a batch."""

    def __init__(self, descriptor: Descriptor, without: Collection[str], listed: FieldDescriptor) -> None:
        self._listed = listed
        self._decode_whole = compile_decoder(descriptor, without)
        self._decode_others = compile_apart(descriptor, without, listed)
        self._decode_item = compile_decoder(fields.message_of(listed))

    def decode(self, body: bytes, message: Message) -> Sequence[RefusedItem]:
        """Fills a message; returns the items that stay empty there.

        Raises:
            CallFailed: Something is wrong with the call itself, or with one item of a batch that is all or none.
        """
        try:
            self._decode_whole(body, message)
        except CallFailed:
            message.Clear()
            texts = self._decode_others(body, message)
            if getattr(message, ALL_OR_NONE, False):
                raise
            return self._take_each(texts, message)
        return ()

    def _take_each(self, texts: Sequence[bytes], message: Message) -> list[RefusedItem]:
        target = getattr(message, self._listed.name)
        refused = []
        for index, text in enumerate(texts):
            item = target.add()
            try:
                self._decode_item(text, item)
            except CallFailed as failed:
                item.Clear()
                refused.append(RefusedItem(index, failed.message.removeprefix("the body "), _task_id(text)))
        return refused


def compile_body(descriptor: Descriptor, without: Collection[str]) -> Callable[[bytes, Message], Refused | None]:
    """Returns the decoder of bodies, as `compile_decoder`; that of a batch returns the items that are not decoded.

    Raises:
        TypeError: A field's type has no JSON form.
    """
    for field in descriptor.fields:
        if field.is_repeated and fields.is_nested(field) and _rules(field).items.ignore == validate_pb2.IGNORE_ALWAYS:
            return _Batch(descriptor, without, field).decode
    return compile_decoder(descriptor, without)


def _rules(field: FieldDescriptor) -> validate_pb2.RepeatedRules:
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]  # type: ignore[index]
    return rules.repeated


def answers_of(reply: Descriptor) -> str:
    """Returns the name of the field of a reply that answers each item with a value or an error; empty: it has none."""
    for field in reply.fields:
        if field.is_repeated and fields.is_nested(field):
            error = fields.message_of(field).fields_by_name.get(_ERROR)
            if error is not None and error.message_type is not None:
                return field.name
    return ""


def correct(answers: Sequence[Any], refused: Refused, json_text: Callable[[str], str]) -> None:
    """Gives items that could not be decoded their errors, and those of others the names of the JSON form."""
    for answer in answers:
        if answer.HasField(_ERROR) and answer.error.reason in _SPEAKS_OF_FIELDS:
            answer.error.message = json_text(answer.error.message)
    for item in refused:
        answer = answers[item.index]
        answer.error.index = item.index
        answer.error.reason = error_pb2.ERROR_REASON_INVALID_FIELD
        answer.error.message = item.message
        if _TASK_ID in answer.DESCRIPTOR.fields_by_name:
            answer.task_id = item.task_id


def _task_id(text: bytes) -> str:
    try:
        return _read_task_id(text).taskId  # type: ignore[attr-defined, no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
