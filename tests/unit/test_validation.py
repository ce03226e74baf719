"""The fast path of validation accepts nothing that the rules in the protos reject."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import protovalidate
import pytest
from codeq.v1 import schedule_service_pb2, task_pb2, webhook_service_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_gateway.fields import form_of
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
INVALID_PARENTS = (
    f"ff{PARENT[2:]}",
    f"00-{'0' * 32}{PARENT[35:]}",
    f"{PARENT[:36]}{'0' * 16}-01",
    f"01-{'0' * 32}{PARENT[35:]}-x",
)
PARENTS = st.sampled_from(
    [PARENT, PARENT + "-x", PARENT + "\n", PARENT.upper(), "", PARENT[:-1], "ü" + PARENT[1:], *INVALID_PARENTS]
)
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
KEYS = st.sampled_from(["", "k", " ", "~" * 127, "k" * 128, "k" * 129, "ü", "k\n", "\x7f"])
KEYED_SPECS = _built(
    task_pb2.TaskSpec,
    command=NAMES,
    concurrency_key=KEYS,
    rate_key=KEYS,
    ordering_key=KEYS,
    traceparent=PARENTS,
    idempotency_key=NAMES,
)
SPECS = (
    PLAIN_SPECS
    | TRACED_SPECS
    | KEYED_SPECS
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


@pytest.mark.parametrize("secret", ["", "short", "x" * 129])
def test_error_about_the_length_of_a_secret_names_both_bounds(secret: str) -> None:
    with pytest.raises(Rejection) as refused:
        validation.check_message(webhook_service_pb2.PutWebhookSecretsRequest(secrets=[secret]))
    assert refused.value.violations == [("secrets[0]", "must have 16 to 128 characters")]


@pytest.mark.parametrize(
    ("message", "field", "form"),
    [
        (webhook_service_pb2.PauseWebhooksRequest(host="nohost"), "host", "host:port in lower case"),
        (webhook_service_pb2.ResumeWebhooksRequest(host="A:1"), "host", "host:port in lower case"),
        (webhook_service_pb2.TestWebhookRequest(url="ftp://a/"), "url", "https://example.com/path"),
        (webhook_service_pb2.DeleteWebhookSecretsRequest(endpoint="a"), "endpoint", "https://example.com/path"),
        (task_pb2.TaskSpec(command="a", webhook="a"), "webhook", "https://example.com/path"),
        (schedule_service_pb2.ScheduleSpec(command="a", every="90"), "every", "90s or 1h30m"),
    ],
)
def test_error_about_a_malformed_text_shows_its_form(message: Message, field: str, form: str) -> None:
    with pytest.raises(Rejection) as refused:
        validation.check_message(message)
    ((path, description),) = refused.value.violations
    assert path == field
    assert description.startswith("must be ")
    assert form in description
    assert "^" not in description


def test_every_pattern_of_the_api_has_words() -> None:
    modules = [f"codeq.v1.{path.stem}" for path in Path(task_pb2.__file__).parent.glob("*_pb2.py")]
    fields = [
        field
        for module in modules
        for message in importlib.import_module(module).DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if validation.pattern_of(field) and not form_of(field)
    ]
    assert len(fields) > 20
    assert {validation.pattern_of(field) for field in fields} == validation._PATTERNS.keys()


def test_error_about_a_malformed_name_shows_no_pattern() -> None:
    with pytest.raises(Rejection) as refused:
        validation.check_message(schedule_service_pb2.GetScheduleRequest(name="a b"))
    ((path, description),) = refused.value.violations
    assert (path, description.startswith("must start with a letter or digit, and have only")) == ("name", True)


def test_error_about_a_missing_name_says_that_it_is_empty() -> None:
    with pytest.raises(Rejection) as refused:
        validation.check_message(pb.GetTaskRequest())
    assert refused.value.violations == [("task_id", "must not be empty")]


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
        task_pb2.TaskSpec(command="a", concurrency_key="k" * 128, rate_key="~" * 127, ordering_key=" "),
        task_pb2.TaskSpec(command="a", traceparent=PARENT, ordering_key="k"),
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
