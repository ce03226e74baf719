"""The fields of a TaskSpec: which fields the server reads, and how it handles the others."""

from __future__ import annotations

from typing import Any

import pytest
from codeq.v1 import task_pb2
from codeq_server.services.spec_fields import DESCRIBING, FIELDS, KEPT, is_plain
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

PLAIN = {"command", "payload", "priority"}
READ = {"max_attempts", "run_at", "delay_seconds", "expire_seconds", "idempotency_key", "task_id"}
"""Fields that services/creating.py reads, in addition to the plain fields."""
SIZED = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_FIXED32}
SIZED |= {FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED32, FieldDescriptor.TYPE_SFIXED64}


def test_every_field_is_either_read_or_kept() -> None:
    assert {field.name for field in FIELDS} == PLAIN | READ | {field.name for field in KEPT}
    assert not READ & {field.name for field in KEPT}


def test_only_keys_ids_and_trace_context_do_not_describe_the_task() -> None:
    others = {field.name for field in FIELDS} - {field.name for field in DESCRIBING}
    assert others == {"idempotency_key", "task_id", "traceparent", "tracestate"}


def test_trace_context_is_kept() -> None:
    assert {"traceparent", "tracestate"} <= {field.name for field in KEPT}


def test_kept_fields_are_optional_scalars_that_a_task_also_has() -> None:
    of_task: Any = task_pb2.Task.DESCRIPTOR.fields_by_number
    for field in KEPT:
        assert field.has_presence
        assert not field.is_repeated
        assert field.message_type is None
        assert field.type not in SIZED  # task bytes contain only varints and length-delimited fields
        assert (of_task[field.number].name, of_task[field.number].type) == (field.name, field.type)


SIZES = [0, 1, 127, 128, 16_383, 16_384, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("command", ["A", "A" * 127, "A" * 128])
@pytest.mark.parametrize("priority", [0, 9])
def test_spec_with_only_command_payload_and_priority_is_plain(size: int, command: str, priority: int) -> None:
    assert is_plain(task_pb2.TaskSpec(command=command, payload=b"1" * size, priority=priority))


OTHERS = {"max_attempts": 1, "run_at": Timestamp(), "delay_seconds": 0, "expire_seconds": 1, "idempotency_key": "k"}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_spec_with_any_other_field_is_not_plain(name: str) -> None:
    fields: dict[str, Any] = {name: OTHERS[name]}
    assert not is_plain(task_pb2.TaskSpec(command="A", payload=b"1", **fields))


def test_spec_with_a_field_from_a_later_version_is_not_plain() -> None:
    spec = task_pb2.TaskSpec(command="A")
    spec.MergeFromString(b"\xfa\x06\x01x")
    assert not is_plain(spec)
