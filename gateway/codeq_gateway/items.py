"""Batches: a malformed item of a list fails that item only, not the whole call.

The body of a batch is decoded as a whole. Only if that fails are its items decoded one by one. An item that cannot be
decoded is sent to the service as an empty item, which the service rejects; the reply then shows the decoding error
instead.
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
"""Field of a batch; if it is set, one malformed item fails the whole call."""

_ERROR: Final = "error"
_TASK_ID: Final = "task_id"
_SPEAKS_OF_FIELDS: Final = frozenset({error_pb2.ERROR_REASON_INVALID_FIELD, error_pb2.ERROR_REASON_TOO_LARGE})

_TaskId = msgspec.defstruct("TaskId", [("taskId", str, "")], gc=False)
_read_task_id: Final = msgspec.json.Decoder(_TaskId).decode


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item that could not be decoded.

    Attributes:
        index: Index in the list, from 0.
        message: What is wrong with the item.
        task_id: The task that the item names; empty: none, or unreadable.
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
        """Decodes a body into a message; returns the items left empty because they could not be decoded.

        Raises:
            CallFailed: The call itself is malformed, or an item of an atomic batch is.
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
    """Returns a decoder as `compile_decoder` does; a batch's decoder also returns the items it could not decode.

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
    """Returns the name of the reply field that answers each item with a value or an error; empty: none."""
    for field in reply.fields:
        if field.is_repeated and fields.is_nested(field):
            error = fields.message_of(field).fields_by_name.get(_ERROR)
            if error is not None and error.message_type is not None:
                return field.name
    return ""


def correct(answers: Sequence[Any], refused: Refused, json_text: Callable[[str], str]) -> None:
    """Sets the errors of items that could not be decoded, and renames fields to JSON in the errors of the others."""
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
