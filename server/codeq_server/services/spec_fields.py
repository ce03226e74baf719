"""Handling of each field of a TaskSpec by the server, read from the proto.

A new field needs no code here: it takes the slow path of validation, belongs to the fingerprint unless its option says
that it identifies the request, and is stored with the task if its option `kept` is set.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

from codeq.options.v1 import options_pb2
from codeq.v1 import task_pb2
from google.protobuf.descriptor import FieldDescriptor


def _marked(field: FieldDescriptor, option: str) -> bool:
    return bool(field.GetOptions().Extensions[getattr(options_pb2, option)])


_SPEC: Any = task_pb2.TaskSpec.DESCRIPTOR
FIELDS: Final[list[FieldDescriptor]] = sorted(_SPEC.fields, key=attrgetter("number"))
DESCRIBING: Final = [field for field in FIELDS if not _marked(field, "identifies_request")]
"""Fields that describe the task, by number."""
KEPT: Final = [field for field in FIELDS if _marked(field, "kept")]
"""Fields that are stored as sent, by number."""


def is_plain(spec: task_pb2.TaskSpec) -> bool:
    """Returns whether a spec with a valid command and priority has no field besides command, payload and priority."""
    command, payload = len(spec.command), len(spec.payload)
    size = 2 + command + (command > 127)
    if payload:
        size += 1 + payload + (payload.bit_length() + 6) // 7
    return bool(spec.ByteSize() == size + (2 if spec.priority else 0))


def kept_of(spec: task_pb2.TaskSpec) -> bytes:
    """Returns the kept fields of a spec as bytes of a codeq.v1.Task."""
    kept = task_pb2.Task()
    for field in KEPT:
        if spec.HasField(field.name):
            setattr(kept, field.name, getattr(spec, field.name))
    return kept.SerializeToString()
