"""Pickles and copies of errors and records, and times that mean the same everywhere."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import codeq
import pytest
from codeq import calls
from codeq.v1 import task_pb2

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def all_errors() -> list[type[codeq.CodeqError]]:
    found, waiting = [], [codeq.CodeqError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    return found


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", all_errors())
def test_every_error_class_survives_pickle_and_copy(
    kind: type[codeq.CodeqError], again: Callable[[codeq.CodeqError], codeq.CodeqError]
) -> None:
    error = kind(
        "text",
        violations=[codeq.FieldViolation("a", "b")],
        retryable=True,
        retry_after=1.5,
        metadata={"leaderGrpc": "a:1"},
    )
    other = again(error)
    assert type(other) is kind
    assert str(other) == str(error)
    assert (other.violations, other.retryable, other.retry_after) == (error.violations, True, 1.5)
    assert other.metadata == {"leaderGrpc": "a:1"}
    plain = again(kind("x"))
    assert (plain.message, plain.reason, dict(plain.metadata)) == ("x", kind.default_reason, {})


def test_outcomes_survive_pickle() -> None:
    failed = pickle.loads(pickle.dumps(codeq.Failed("why", [codeq.NewArtifact("a", b"x")])))
    assert (failed.error, failed.artifacts) == ("why", [codeq.NewArtifact("a", b"x")])
    nack = pickle.loads(pickle.dumps(codeq.Nack("later", delay=3)))
    assert (nack.reason, nack.delay) == ("later", 3)
    assert pickle.loads(pickle.dumps(codeq.Abandon())).delay is None
    snooze = pickle.loads(pickle.dumps(codeq.Snooze(delay=3)))
    assert (type(snooze), snooze.delay) == (codeq.Snooze, 3)
    assert pickle.loads(pickle.dumps(codeq.Completed([1]))) == codeq.Completed([1])


def test_records_survive_pickle_and_copy() -> None:
    task = codeq.Task(task_pb2.Task(id="t", command="X", payload=b'{"a":1}', lease_token=7))
    task.reporter = lambda _, __: None
    assert not task.lost.is_set()
    for other in (pickle.loads(pickle.dumps(task)), copy.deepcopy(task)):
        assert (other.id, other.command, other.payload, other.lease_token) == ("t", "X", {"a": 1}, 7)
        with pytest.raises(RuntimeError, match="not delivered by a Worker"):
            other.progress(1)
    result = pickle.loads(pickle.dumps(codeq.TaskResult(task_pb2.TaskResult(task_id="t", result=b"[1]"))))
    assert (result.task_id, result.result) == ("t", [1])
    for record in (
        codeq.NewTask("X", {"a": 1}, delay=3),
        codeq.RawJson("[1]"),
        codeq.NewArtifact("a", b"x"),
        codeq.Artifact("a", None, 1, None, None),
        codeq.ArtifactContent("a", b"x", "text/plain", "00"),
        codeq.Returned(codeq.TaskStatus.PENDING, 3),
        codeq.Queue("X", 1, 2, 3, 4, 5.0),
        codeq.Explanation(codeq.TaskStatus.PENDING, "QUEUED", paused=False),
        codeq.ServerInfo(
            "1", "single", fsync=True, persistence_provider="r", num_shards=1, payload_bytes_max=1, batch_items_max=1
        ),
        codeq.Backup("b", NOW, 1),
        codeq.DeadLetters([], {"e": 1}, 1, ""),
        codeq.Redriven(1, 1, in_background=False, next_page_token=""),
        codeq.RedriveFilter(ended_from=NOW),
        codeq.Topology(raft_enabled=True, leader_id="a", members=(codeq.Member("a", "g", "h", is_leader=True),)),
        codeq.WorkerStats(streams=1),
    ):
        assert pickle.loads(pickle.dumps(record)) == record
        assert type(pickle.loads(pickle.dumps(record))) is type(record)


class NoZone(tzinfo):
    """A time zone without an offset; times with this zone count as naive."""

    def utcoffset(self, _: datetime | None) -> None:
        return None

    def dst(self, _: datetime | None) -> None:
        return None

    def tzname(self, _: datetime | None) -> str:
        return "?"


@pytest.mark.parametrize("time", [NOW.replace(tzinfo=None), NOW.replace(tzinfo=NoZone())], ids=["naive", "no offset"])
@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda time: calls.cleanup(time, 0, ""), "before"),
        (lambda time: calls.tasks("", (), time, None, 0, "", "oldest"), "created_from"),
        (lambda time: calls.tasks("", (), None, time, 0, "", "oldest"), "created_to"),
        (lambda time: calls.redrive_queue("X", codeq.RedriveFilter(ended_from=time), ""), "ended_from"),
        (lambda time: calls.redrive_queue("X", codeq.RedriveFilter(ended_to=time), ""), "ended_to"),
        (lambda time: calls.create(codeq.NewTask("X", run_at=time), with_key=False), "run_at"),
    ],
)
def test_time_without_a_zone_is_rejected_wherever_times_are_accepted(
    make: Callable[[datetime], object], field: str, time: datetime
) -> None:
    with pytest.raises(codeq.InvalidField, match="needs a time zone") as caught:
        make(time)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_time_with_a_zone_is_the_same_instant_everywhere() -> None:
    tokyo = NOW.astimezone(timezone(timedelta(hours=9)))
    assert calls.cleanup(tokyo, 0, "").request == calls.cleanup(NOW, 0, "").request


def test_pickled_call_error_keeps_the_servers_details() -> None:
    with pytest.raises(codeq.InvalidField) as caught:
        calls.cleanup(NOW.replace(tzinfo=None), 0, "")
    other = pickle.loads(pickle.dumps(caught.value))
    assert other.violations == caught.value.violations
