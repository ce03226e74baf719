"""Task bytes that are written and read by hand match the proto message."""

from __future__ import annotations

import pytest
from codeq.v1 import worker_service_pb2 as pb
from codeq.v1.task_pb2 import Task, TaskStatus
from codeq_server.core.model import Name
from codeq_server.core.task_bytes import (
    created_at,
    encode_task,
    expire_ms_of,
    max_attempts_of,
    splice,
    task_head,
    varint,
)
from hypothesis import given
from hypothesis import strategies as st

ASSIGNED = "00000001-0000-8000-8100-000000000100"


@given(st.integers(0, (1 << 63) - 1))
def test_varint_matches_protobuf(number: int) -> None:
    assert Task(lease_token=number).SerializeToString()[2:] == varint(number)


@given(
    st.text(max_size=200),
    st.integers(0, 9),
    st.integers(1, 1000),
    st.integers(0, 40_000),
    st.integers(1, 250_000_000_000_000),
)
def test_encoded_task_parses_as_the_message_with_its_fields(
    command: str, priority: int, max_attempts: int, size: int, now_ms: int
) -> None:
    expected = Task(command=command, payload=b"1" * size, priority=priority, max_attempts=max_attempts)
    expected.created_at.FromMilliseconds(now_ms)
    head, created = task_head(command, 9 - priority, max_attempts), created_at(now_ms)
    assert Task.FromString(encode_task(head, b"1" * size, created, b"", 0)) == expected
    kept = Task(tenant_id="kept").SerializeToString()
    expected.tenant_id = "kept"
    expected.expire_at.FromMilliseconds(now_ms + 1)
    assert Task.FromString(encode_task(head, b"1" * size, created, kept, now_ms + 1)) == expected


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.integers(1, 1000)), max_size=5),
    st.integers(1, (1 << 63) - 1),
    st.integers(1_000_000_000_000, 250_000_000_000_000),
    st.booleans(),
)
def test_splice_appends_the_id_and_the_lease_to_the_stored_bytes(
    tasks: list[tuple[bytes, int]], token: int, until_ms: int, named: bool
) -> None:
    key = Name("acme", "mine") if named else ASSIGNED
    stored = [(key, Task(command="c", payload=payload).SerializeToString(), attempts) for payload, attempts in tasks]
    expected = pb.WorkResponse()
    for payload, attempts in tasks:
        task = expected.tasks.add(command="c", payload=payload, id="mine" if named else ASSIGNED, attempts=attempts)
        task.status, task.lease_token = TaskStatus.TASK_STATUS_CLAIMED, token
        task.lease_until.FromMilliseconds(until_ms)
    pieces: list[bytes] = []
    size = splice(pieces, pb.WorkResponse.TASKS_FIELD_NUMBER, stored, token, until_ms, named=named)
    assert pb.WorkResponse.FromString(b"".join(pieces)) == expected
    assert size == sum(task.ByteSize() for task in expected.tasks)


@pytest.mark.parametrize("length", range(1, 129))
def test_max_attempts_is_read_after_commands_of_every_length(length: int) -> None:
    for lane in (0, 5, 9):
        for attempts in (1, 127, 128, 1000):
            head = task_head("c" * length, lane, attempts)
            assert max_attempts_of(head + b"\x02{}") == attempts


def test_every_value_of_max_attempts_is_read() -> None:
    for attempts in range(1, 1001):
        assert max_attempts_of(task_head("c", 9, attempts) + b"\x00") == attempts


@given(
    st.builds(
        Task,
        command=st.text(max_size=200),
        payload=st.binary(max_size=300),
        priority=st.integers(0, 9),
        max_attempts=st.integers(1, 1000),
    ),
    st.one_of(st.none(), st.integers(1, 250_000_000_000_000)),
)
def test_expire_ms_of_task_bytes_matches_the_message(task: Task, expire_ms: int | None) -> None:
    task.created_at.seconds = 1_700_000_000
    if expire_ms is not None:
        task.expire_at.seconds, millis = divmod(expire_ms, 1000)
        task.expire_at.nanos = millis * 1_000_000
    assert expire_ms_of(task.SerializeToString()) == (expire_ms or 0)
