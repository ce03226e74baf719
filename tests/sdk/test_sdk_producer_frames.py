"""Frames: how tasks are packed into them, and how answers find their tasks."""

from __future__ import annotations

import concurrent.futures

import codeq
import pytest
from codeq.producer_frames import Job, Pending, Result
from codeq.v1 import error_pb2
from codeq.v1 import producer_service_pb2 as pb


def _item(name: str, size: int = 0) -> bytes:
    request = pb.ProduceRequest()
    request.tasks.add(command=name, payload=b"x" * size)
    return request.SerializeToString()


def _job(*items: bytes) -> tuple[Job, concurrent.futures.Future[list[Result]]]:
    future: concurrent.futures.Future[list[Result]] = concurrent.futures.Future()
    return Job(items, future, 1e9), future


def _pending(*jobs: Job) -> Pending:
    pending = Pending()
    for job in jobs:
        pending.add(job)
    return pending


def _commands(data: bytes) -> list[str]:
    return [task.command for task in pb.ProduceRequest.FromString(data).tasks]


def test_frame_joins_jobs_in_order() -> None:
    first, _ = _job(_item("a"))
    second, _ = _job(_item("b"), _item("c"))
    pending = _pending(first, second)
    frame = pending.cut(10, 1000)
    assert frame is not None
    assert _commands(frame.data) == ["a", "b", "c"]
    assert frame.tasks == 3
    assert not pending
    assert pending.cut(10, 1000) is None


def test_frame_splits_a_job_at_the_task_limit_and_answers_are_matched() -> None:
    batch, future = _job(*(_item(name) for name in "abcde"))
    lone, lone_future = _job(_item("f"))
    pending = _pending(batch, lone)
    frames = [pending.cut(2, 1000), pending.cut(2, 1000), pending.cut(2, 1000)]
    assert [_commands(frame.data) for frame in frames if frame] == [["a", "b"], ["c", "d"], ["e", "f"]]
    for frame in reversed(frames):
        assert frame is not None
        assert not future.done()
        frame.resolve(pb.FrameAck(task_ids=[f"id-{command}" for command in _commands(frame.data)]))
    assert future.result(0) == ["id-a", "id-b", "id-c", "id-d", "id-e"]
    assert lone_future.result(0) == ["id-f"]


def test_frame_stops_before_the_byte_limit_and_the_next_item_waits() -> None:
    job, _ = _job(_item("a", 100), _item("b", 100), _item("c", 100))
    size = len(_item("a", 100))
    pending = _pending(job)
    frame = pending.cut(10, 2 * size)
    assert frame is not None
    assert _commands(frame.data) == ["a", "b"]
    assert pending.cut(10, size - 1) is None
    frame = pending.cut(10, size)
    assert frame is not None
    assert _commands(frame.data) == ["c"]


def test_frame_omits_jobs_without_a_waiter() -> None:
    gone, future = _job(_item("a"))
    future.cancel()
    stays, _ = _job(_item("b"))
    frame = _pending(gone, stays).cut(10, 1000)
    assert frame is not None
    assert _commands(frame.data) == ["b"]


def test_settle_assigns_errors_to_the_rejected_items() -> None:
    job, future = _job(_item("a"), _item("b"))
    frame = _pending(job).cut(10, 1000)
    assert frame is not None
    refused = error_pb2.ItemError(index=1, reason=error_pb2.ERROR_REASON_INVALID_FIELD, message="no")
    frame.resolve(pb.FrameAck(task_ids=["id-a", ""], errors=[refused]))
    [accepted, error] = future.result(0)
    assert accepted == "id-a"
    assert isinstance(error, codeq.InvalidField)


@pytest.mark.parametrize(
    "ack", [pb.FrameAck(task_ids=["one"]), pb.FrameAck(task_ids=["a", "b"], errors=[error_pb2.ItemError(index=2)])]
)
def test_ack_that_does_not_match_its_frame_is_a_server_error(ack: pb.FrameAck) -> None:
    job, future = _job(_item("a"), _item("b"))
    frame = _pending(job).cut(10, 1000)
    assert frame is not None
    with pytest.raises(codeq.ServerFault):
        frame.resolve(ack)
    assert not future.done()


def test_fail_distinguishes_sent_items_from_unsent_ones() -> None:
    job, future = _job(*(_item(name) for name in "abc"))
    pending = _pending(job)
    first, second = pending.cut(1, 1000), pending.cut(1, 1000)
    assert first is not None
    assert second is not None
    first.resolve(pb.FrameAck(task_ids=["id-a"]))
    job.fail(lambda: codeq.DeadlineExceeded("late"), lambda: codeq.OutcomeUnknown("who knows"))
    results = future.result(0)
    assert results[0] == "id-a"
    assert [type(result) for result in results[1:]] == [codeq.OutcomeUnknown, codeq.DeadlineExceeded]
    second.resolve(pb.FrameAck(task_ids=["id-b"]))  # a late answer changes nothing
    assert future.result(0) == results
    assert not pending
