"""Handling of each field of a TaskSpec by the server, read from the proto.

A new field needs no code here: it takes the slow path of validation, belongs to the fingerprint unless its option says
that it identifies the request, and is stored with the task if its option `kept` is set.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Any, Final

from codeq.options.v1 import options_pb2
from codeq.v1 import task_pb2
from google.protobuf.descriptor import FieldDescriptor

from codeq_server.core.payload_keys import KEY_CHARACTERS_MAX
from codeq_server.core.task_fields import field


def _marked(field: FieldDescriptor, option: str) -> bool:
    return bool(field.GetOptions().Extensions[getattr(options_pb2, option)])


_SPEC: Any = task_pb2.TaskSpec.DESCRIPTOR
FIELDS: Final[list[FieldDescriptor]] = sorted(_SPEC.fields, key=attrgetter("number"))
DESCRIBING: Final = [field for field in FIELDS if not _marked(field, "identifies_request")]
"""Fields that describe the task, by number."""
KEPT: Final = [field for field in FIELDS if _marked(field, "kept")]
"""Fields that are stored as sent, by number."""


TRACESTATE_CHARACTERS_MAX: Final = 512
_TRACEPARENT_BYTES: Final = 55
_is_traceparent: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


def is_plain(spec: task_pb2.TaskSpec, more: int = 0) -> bool:
    """Returns whether a spec with a valid command and priority has no field besides command, payload and priority.

    Args:
        spec: The spec.
        more: Bytes of its other fields that are known to be valid.
    """
    command, payload = len(spec.command), len(spec.payload)
    size = 2 + command + (command > 127)
    if payload:
        size += 1 + payload + (payload.bit_length() + 6) // 7
    return bool(spec.ByteSize() == size + (2 if spec.priority else 0) + more)


def is_usual(spec: task_pb2.TaskSpec) -> bool:
    """Returns whether a spec is plain except for valid keys and a valid trace context in its usual form."""
    more = 0
    if spec.traceparent:
        if not _is_traceparent(spec.traceparent):
            return False
        more = 2 + _TRACEPARENT_BYTES
    if not spec.tracestate and spec.HasField("tracestate"):
        more += 2
    for most, text in (
        (TRACESTATE_CHARACTERS_MAX, spec.tracestate),
        (KEY_CHARACTERS_MAX, spec.concurrency_key),
        (KEY_CHARACTERS_MAX, spec.rate_key),
        (KEY_CHARACTERS_MAX, spec.ordering_key),
    ):
        size = len(text)
        if size > most or not text.isascii() or not text.isprintable():
            return False
        if size:
            more += 2 + (size > 127) + size
    return is_plain(spec, more)


def kept_trace(spec: task_pb2.TaskSpec, size: int) -> bytes | None:
    """Returns the kept fields of a spec that keeps a trace context in its usual form and nothing else.

    Args:
        spec: The spec.
        size: Bytes of its fields besides command, payload and priority.

    Returns:
        What `kept_of` returns; None: there are other fields, or the rules must check the trace context.
    """
    parent, state = spec.traceparent, spec.tracestate
    if not _is_traceparent(parent) or len(state) > TRACESTATE_CHARACTERS_MAX or not state.isascii():
        return None
    kept = field(task_pb2.TaskSpec.TRACEPARENT_FIELD_NUMBER, parent.encode())
    if state:
        if not state.isprintable():
            return None
        kept += field(task_pb2.TaskSpec.TRACESTATE_FIELD_NUMBER, state.encode())
    return kept if len(kept) == size else None


def kept_of(spec: task_pb2.TaskSpec) -> bytes:
    """Returns the kept fields of a spec as bytes of a codeq.v1.Task."""
    kept = task_pb2.Task()
    for each in KEPT:
        if spec.HasField(each.name):
            setattr(kept, each.name, getattr(spec, each.name))
    return kept.SerializeToString()
