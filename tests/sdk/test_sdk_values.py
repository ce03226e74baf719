"""Payloads, outcomes, backoff, errors and endpoints: the parts of the SDK that need no connection."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import codeq
import grpc
import pytest
from codeq import errors, outcomes, payloads, reasons, received_errors
from codeq.backoff import Backoff
from codeq.endpoint import Endpoint
from codeq.records import Task
from codeq.v1 import task_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"a": [1, 2.5, None, "ü"]}, '{"a":[1,2.5,null,"ü"]}'.encode()),
        (None, b"null"),
        (b'{ "kept" : 1 }', b'{ "kept" : 1 }'),
        (codeq.RawJson('["ü"]'), '["ü"]'.encode()),
        ({"ü": "\ud83d"}, b'{"\\u00fc":"\\ud83d"}'),
    ],
)
def test_encode_returns_compact_json_or_the_given_bytes(value: object, data: bytes) -> None:
    assert payloads.encode(value, "payload") == data


@pytest.mark.parametrize("value", [float("nan"), object(), {"a": {1, 2}}, pytest.param(10**5000, id="long")])
def test_encode_error_names_the_field_that_json_cannot_express(value: object) -> None:
    with pytest.raises(codeq.InvalidField) as caught:
        payloads.encode(value, "payload")
    assert [violation.field for violation in caught.value.violations] == ["payload"]
    assert not caught.value.retryable


def test_encode_rejects_values_over_the_limit() -> None:
    assert len(payloads.encode(b"1" * payloads.VALUE_BYTES_MAX, "payload")) == payloads.VALUE_BYTES_MAX
    with pytest.raises(codeq.TooLarge):
        payloads.encode(b"1" * (payloads.VALUE_BYTES_MAX + 1), "payload")


@pytest.mark.parametrize(
    ("task", "field"),
    [
        (codeq.NewTask("X", priority="high"), "priority"),  # type: ignore[arg-type]
        (codeq.NewTask("X", priority=2**40), "priority"),
        (codeq.NewTask(5), "command"),  # type: ignore[arg-type]
        (codeq.NewTask("X" * 129), "command"),
        (codeq.NewTask("X", max_attempts=2**40), "max_attempts"),
        (codeq.NewTask("X", delay=-1), "delay_seconds"),
        (codeq.NewTask("X", delay=float("inf")), "delay_seconds"),
        (codeq.NewTask("X", expire=-1), "expire_seconds"),
        (codeq.NewTask("X", expire="soon"), "expire_seconds"),  # type: ignore[arg-type]
        (codeq.NewTask("X", run_at=datetime(2030, 1, 1)), "run_at"),  # noqa: DTZ001 - without a zone on purpose
        (codeq.NewTask("X", run_at="soon"), "run_at"),  # type: ignore[arg-type]
    ],
)
def test_error_names_the_new_task_field_that_cannot_be_sent(task: codeq.NewTask, field: str) -> None:
    with pytest.raises(codeq.InvalidField) as caught:
        task.fill(task_pb2.TaskSpec())
    assert [violation.field for violation in caught.value.violations] == [field]


def test_new_task_fills_every_field_of_the_message() -> None:
    spec = task_pb2.TaskSpec()
    codeq.NewTask("X", [1], 3, timedelta(milliseconds=1500), None, 7).fill(spec)
    assert (spec.command, spec.payload, spec.priority, spec.delay_seconds, spec.max_attempts) == ("X", b"[1]", 3, 2, 7)
    spec = task_pb2.TaskSpec()
    codeq.NewTask("X", run_at=datetime(2030, 1, 1, 0, 0, 0, 250_000, UTC)).fill(spec)
    assert (spec.run_at.seconds, spec.run_at.nanos) == (1_893_456_000, 250_000_000)
    assert not spec.HasField("delay_seconds")
    assert not spec.HasField("expire_seconds")
    assert not spec.HasField("max_attempts")
    codeq.NewTask("X", expire=timedelta(milliseconds=1500)).fill(spec)
    assert spec.expire_seconds == 2


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (codeq.Completed(), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_COMPLETED)),
        (codeq.Completed({"a": 1}), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b'{"a":1}')),
        (
            codeq.Completed(codeq.RawJson("null")),
            task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_COMPLETED, result=b"null"),
        ),
        (codeq.Failed(" \n"), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_FAILED, error="no error was given")),
        (codeq.Failed("broken"), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_FAILED, error="broken")),
        (codeq.Nack(), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK)),
        (
            codeq.Nack("later", delay=0),
            task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, error="later", delay_seconds=0),
        ),
        (
            codeq.Nack("later", delay=1.2),
            task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, error="later", delay_seconds=2),
        ),
        (codeq.Nack("x" * 5000), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, error="x" * 4095 + "…")),
        (codeq.Nack("\ud800"), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_NACK, error="�")),
        (codeq.Abandon(), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_ABANDON)),
        (codeq.Abandon(delay=1.2), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_ABANDON, delay_seconds=2)),
        (codeq.Snooze(timedelta(minutes=1)), task_pb2.Outcome(kind=task_pb2.OUTCOME_KIND_ABANDON, delay_seconds=60)),
    ],
)
def test_outcome_message_matches_the_handlers_outcome(outcome: outcomes.Outcome, expected: task_pb2.Outcome) -> None:
    expected.task_id, expected.lease_token = "t", 9
    assert outcomes.to_message(outcome, "t", 9) == expected


def test_handler_exception_becomes_a_nack_with_backoff_and_its_text() -> None:
    outcome = outcomes.of_exception(KeyError("orderId"))
    assert isinstance(outcome, codeq.Nack)
    assert (outcome.reason, outcome.delay) == ("KeyError: 'orderId'", None)


def test_backoff_limit_doubles_up_to_its_maximum() -> None:
    backoff = Backoff(base_seconds=0.5, max_seconds=3.0, random=lambda: 1.0)
    assert [backoff.delay(attempt) for attempt in (1, 2, 3, 4, 10_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert Backoff(random=lambda: 0.0).delay(5) == 0.0


def test_every_reason_maps_to_an_error_class() -> None:
    by_family: dict[str, type[codeq.CodeqError] | tuple[type[codeq.CodeqError], ...]] = {
        "INVALID_ARGUMENT": codeq.InvalidRequest,
        "UNAUTHENTICATED": codeq.Unauthenticated,
        "PERMISSION_DENIED": codeq.PermissionDenied,
        "NOT_FOUND": codeq.NotFound,
        "UNIMPLEMENTED": codeq.Unsupported,
        "RESOURCE_EXHAUSTED": codeq.LimitReached,
        "UNAVAILABLE": (codeq.Unavailable, codeq.OutcomeUnknown),
        "DEADLINE_EXCEEDED": codeq.DeadlineExceeded,
        "FAILED_PRECONDITION": (
            codeq.LeaseLost,
            codeq.BadHandshake,
            codeq.TaskEnded,
            codeq.BackupNotConfigured,
            codeq.MembershipRefused,
        ),
        "ALREADY_EXISTS": (codeq.IdempotencyConflict, codeq.TaskIdTaken, codeq.MembershipRefused),
        "ABORTED": codeq.MembershipRefused,
        "INTERNAL": codeq.ServerFault,
        "DATA_LOSS": codeq.ServerFault,
    }
    for row in reasons.BY_NUMBER.values():
        error = received_errors.from_reason(row.number, "text")
        assert isinstance(error, by_family[row.grpc_name]), row.name
        assert (error.reason, error.retryable, error.message) == (row.name, row.retryable, "text")


def test_unknown_reason_from_a_newer_server_is_a_rejection() -> None:
    error = received_errors.from_reason(9_999, "text")
    assert type(error) is codeq.Rejected
    assert error.reason == "REASON_9999"


def _refusal(code: grpc.StatusCode, *details: Message) -> errors.CodeqError:
    """The error of a failed call with these status details."""
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message="text")
    for detail in details:
        status.details.add().Pack(detail)
    return received_errors.from_status(number, "text", status.SerializeToString() if details else b"")


def test_failed_call_with_details_becomes_the_typed_error() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="spec.priority", description="too high")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    details = (
        error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="codeq"),
        error_details_pb2.BadRequest(field_violations=[violation]),
        retry,
    )
    error = _refusal(grpc.StatusCode.INVALID_ARGUMENT, *details)
    assert type(error) is codeq.InvalidField
    assert error.violations == (codeq.FieldViolation("spec.priority", "too high"),)
    assert error.retry_after == 1.5
    assert str(error) == "INVALID_FIELD: text"
    again = error.again()
    assert again is not error
    assert (again.reason, again.violations, again.retry_after) == (error.reason, error.violations, 1.5)


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, codeq.Unavailable, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, codeq.DeadlineExceeded, True),
        (grpc.StatusCode.UNIMPLEMENTED, codeq.Unsupported, False),
        (grpc.StatusCode.PERMISSION_DENIED, codeq.PermissionDenied, False),
        (grpc.StatusCode.UNKNOWN, codeq.ServerFault, False),
    ],
)
def test_failed_call_without_details_is_classified_by_its_code(
    code: grpc.StatusCode, kind: type[codeq.CodeqError], retryable: bool
) -> None:
    error = _refusal(code)
    assert type(error) is kind
    assert (error.reason, error.retryable) == (code.name, retryable)


def test_reason_from_another_domain_is_ignored() -> None:
    foreign = error_details_pb2.ErrorInfo(reason="TASK_NOT_FOUND", domain="elsewhere")
    assert type(_refusal(grpc.StatusCode.NOT_FOUND, foreign)) is codeq.NotFound


def test_endpoint_reads_omitted_values_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CODEQ_PRODUCER_ADDR", "CODEQ_WORKER_ADDR", "CODEQ_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    plain = Endpoint.for_producer(None, None, tls=False)
    assert (plain.address, plain.metadata()) == ("localhost:9092", ())
    assert Endpoint.for_worker(None, None, tls=False).address == "localhost:9091"
    monkeypatch.setenv("CODEQ_PRODUCER_ADDR", "p:1")
    monkeypatch.setenv("CODEQ_WORKER_ADDR", "w:1")
    monkeypatch.setenv("CODEQ_TOKEN", "secret")
    assert Endpoint.for_producer(None, None, tls=False).address == "p:1"
    assert Endpoint.for_worker(None, None, tls=False).address == "w:1"
    assert Endpoint.for_worker(None, None, tls=False).metadata() == (("authorization", "Bearer secret"),)
    given = Endpoint.for_producer("q:2", lambda: "fresh", tls=False)
    assert (given.address, given.metadata()) == ("q:2", (("authorization", "Bearer fresh"),))


def test_endpoint_with_a_failing_token_function_is_unavailable() -> None:
    def no_token() -> str:
        raise OSError("the token server is away")

    with pytest.raises(codeq.Unavailable) as caught:
        Endpoint("q:2", no_token, tls=False).metadata()
    assert caught.value.retryable


def test_lost_event_is_set_before_or_after_its_first_use() -> None:
    early, late = Task(task_pb2.Task(id="a")), Task(task_pb2.Task(id="b"))
    early.mark_lost()
    assert early.lost.is_set()
    assert not late.lost.is_set()
    late.mark_lost()
    assert late.lost.is_set()


def test_task_reads_absent_fields_as_none() -> None:
    task = Task(task_pb2.Task(id="a"))
    assert task.payload is None
    assert task.lease_token is None
    assert task.lease_until is None
    assert task.error is None
    assert task.status is codeq.TaskStatus.UNSPECIFIED
    full = Task(task_pb2.Task(payload=b'{"n":1}', status=task_pb2.TASK_STATUS_COMPLETED, lease_token=3))
    assert (full.payload, full.status, full.lease_token) == ({"n": 1}, "COMPLETED", 3)


def test_importing_the_stubs_does_not_load_the_sdk_and_public_names_resolve() -> None:
    code = (
        "import sys, json, codeq.v1.task_pb2, codeq.reasons\n"
        "from codeq import reasons\n"
        "early = [name for name in sys.modules if name in ('codeq.public', 'grpc')]\n"
        "import codeq, codeq.public\n"
        "missing = [name for name in codeq.public.__all__ if not hasattr(codeq, name) or name not in dir(codeq)]\n"
        "print(json.dumps([early, missing, hasattr(codeq, 'Nothing')]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert json.loads(out) == [[], [], False]


def test_star_import_binds_all_public_names() -> None:
    code = "from codeq import *\nimport codeq.public\nprint(set(codeq.public.__all__) - set(globals()))\n"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert out == "set()\n"


@pytest.mark.parametrize("door", [codeq.Client, codeq.AsyncClient, codeq.Producer, codeq.AsyncProducer])
def test_create_accepts_every_field_of_a_new_task(door: Any) -> None:
    taken = set(inspect.signature(door.create).parameters) - {"self", "timeout_seconds"}
    assert taken == {field.name for field in dataclasses.fields(codeq.NewTask)}
