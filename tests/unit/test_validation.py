"""The fast path of validation accepts nothing that the rules in the protos reject."""

from __future__ import annotations

from typing import Any

import protovalidate
import pytest
from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services import validation
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

MIB = 1 << 20

NAMES = st.just("a") | st.one_of(
    st.text(alphabet="aZ09._-\n/ ä\u2028", max_size=4),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True),
    st.sampled_from(["a" * 128, "a" * 129, "ä" * 64, "a\n", "\n", "a" * 128 + "\n"]),
)
INT32 = st.sampled_from([-1, 0, 1, 9, 10, 30, 31, 43_200, 43_201])
BLOBS = st.sampled_from([b"1", b"x" * MIB, b"x" * (MIB + 1)])
TEXTS = st.sampled_from(["", "a", "ä" * 64, "ä" * 65])
ERRORS = st.sampled_from(["", "a", "\U0001f600" * 4096, "ä" * 4097])


def _built(message: type[Message], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: message(**given))


PLAIN_SPECS = _built(task_pb2.TaskSpec, command=NAMES, payload=BLOBS, priority=INT32)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PARENTS = st.sampled_from([PARENT, PARENT + "-x", PARENT + "\n", PARENT.upper(), "", PARENT[:-1], "ü" + PARENT[1:]])
STATES = st.sampled_from(["", "a=1", "x" * 127, "x" * 128, "x" * 512, "x" * 513, "ü", "a\n", "\x7f", "a\tb"])
TRACED_SPECS = _built(
    task_pb2.TaskSpec,
    command=NAMES,
    payload=st.just(b"1"),
    priority=INT32,
    traceparent=PARENTS,
    tracestate=STATES,
    expire_seconds=INT32,
)
SPECS = (
    PLAIN_SPECS
    | TRACED_SPECS
    | _built(
        task_pb2.TaskSpec,
        command=NAMES,
        max_attempts=INT32,
        run_at=st.just(Timestamp(seconds=1)),
        delay_seconds=INT32,
    )
)
MESSAGES = st.one_of(
    SPECS,
    _built(pb.CreateTaskRequest, spec=SPECS),
    _built(pb.ClaimTaskRequest, commands=st.lists(NAMES, max_size=3), lease_seconds=INT32, wait_seconds=INT32),
    _built(
        pb.SubmitResultRequest,
        task_id=TEXTS,
        lease_token=st.integers(0, 2**64 - 1),
        status=st.integers(3, 6),
        result=BLOBS,
        error=ERRORS,
    ),
)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 400 + b"]" * 400,
        b'{"a":' * 400 + b"1" + b"}" * 400,
        b"1e400",
        b"9" * 10_000,
        b"-0",
        b'{"a":1,"a":2}',
        rb'"\ud83d"',
        rb'{"\uDE00\\\ud83d\ud83d\ude00":1}',
    ],
)
def test_is_json_accepts_unusual_values(content: bytes) -> None:
    assert validation.is_json(content)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b"",
        b" ",
        b"NaN",
        b"01",
        b"1 1",
        b'"\0"',
        rb'"\ud80"',
        rb'"\ud800',
        b'"\xff\\ud800"',
        b"\xef\xbb\xbf1",
    ],
    ids=lambda content: repr(content[:8]),
)
def test_is_json_rejects_malformed_values(content: bytes) -> None:
    assert not validation.is_json(content)


def test_error_about_a_status_that_ends_no_task_lists_the_allowed_names() -> None:
    with pytest.raises(Rejection) as refused:
        validation.check_message(pb.SubmitResultRequest(task_id="a", status=task_pb2.TASK_STATUS_DLQ))
    assert refused.value.violations == [("status", "must be COMPLETED or FAILED")]


@settings(max_examples=2000, deadline=None)
@given(message=MESSAGES)
def test_messages_accepted_by_the_fast_path_satisfy_the_rules(message: Message) -> None:
    if validation._USUAL[type(message)](message):
        protovalidate.validate(message)


@pytest.mark.parametrize(
    "message",
    [
        task_pb2.TaskSpec(command="a", payload=b"1", priority=9),
        task_pb2.TaskSpec(command="a", payload=b"1", priority=9, traceparent=PARENT),
        task_pb2.TaskSpec(command="a", payload=b"1" * 200, traceparent=PARENT, tracestate=""),
        task_pb2.TaskSpec(command="a", traceparent=PARENT, tracestate="x" * 127),
        task_pb2.TaskSpec(command="a", traceparent=PARENT, tracestate="x" * 512),
        pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="a" * 128)),
        pb.ClaimTaskRequest(),
        pb.ClaimTaskRequest(commands=["a", "b"], lease_seconds=43_200, wait_seconds=30),
        pb.SubmitResultRequest(task_id="a" * 64, status=task_pb2.TASK_STATUS_FAILED, error="e"),
        pb.SubmitResultRequest(task_id="a", lease_token=1, status=task_pb2.TASK_STATUS_COMPLETED, result=b"1"),
    ],
)
def test_usual_message_takes_the_fast_path(message: Message) -> None:
    assert validation._USUAL[type(message)](message)
    validation.check_message(message)


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (pb.CreateTaskRequest(), Reason.INVALID_FIELD, "spec"),
        (pb.CreateTaskRequest(spec=task_pb2.TaskSpec(command="a\n")), Reason.INVALID_FIELD, "spec.command"),
        (task_pb2.TaskSpec(command="a", payload=b"1" * (MIB + 1)), Reason.TOO_LARGE, "payload"),
        (pb.ClaimTaskRequest(commands=["a", "/"]), Reason.INVALID_FIELD, "commands[1]"),
        (pb.ClaimTaskRequest(lease_seconds=0), Reason.INVALID_FIELD, "lease_seconds"),
        (pb.SubmitResultRequest(task_id="a", status=task_pb2.TASK_STATUS_DLQ), Reason.INVALID_FIELD, "status"),
    ],
)
def test_error_names_the_field_that_breaks_a_rule(message: Message, reason: Reason, field: str) -> None:
    with pytest.raises(Rejection) as refused:
        validation.check_message(message)
    assert refused.value.reason is reason
    assert [name for name, _ in refused.value.violations] == [field]
