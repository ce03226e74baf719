"""Created tasks: the stored bytes are an encoded Task, and deliveries show the requested values."""

from __future__ import annotations

import pytest
from accepted_tasks import create
from codeq.v1.task_pb2 import Task
from codeq_server.core.errors import Reason, Rejection
from driven_shard import START_MS, TENANT, DrivenShard

SIZES = [0, 1, 127, 128, 129, 16_383, 16_384, 16_385, 1 << 20]


@pytest.mark.parametrize("delay", [0, 1000])
@pytest.mark.parametrize("size", SIZES)
def test_task_bytes_of_every_size_parse_as_a_task(size: int, delay: int) -> None:
    shard = DrivenShard()
    task_id = shard.create("send-email", priority=3, attempts=7, delay=delay, size=size)
    shard.write()
    shard.reopen()
    task = Task.FromString(shard.view(task_id).raw)
    expected = Task(command="send-email", payload=b"1" * size, priority=3, max_attempts=7)
    expected.created_at.FromMilliseconds(START_MS)
    assert task == expected


@pytest.mark.parametrize("priority", range(10))
def test_task_bytes_of_every_priority_parse_as_a_task(priority: int) -> None:
    shard = DrivenShard()
    task_id = shard.create(priority=priority)
    (delivered,) = shard.claim(1)
    assert delivered.task_id == task_id
    assert (Task.FromString(delivered.raw).priority, delivered.attempts) == (priority, 1)


@pytest.mark.parametrize("length", [1, 127, 128])
def test_task_bytes_of_long_commands_parse_as_a_task(length: int) -> None:
    shard = DrivenShard()
    shard.create("c" * length)
    assert Task.FromString(shard.claim(1)[0].raw).command == "c" * length


@pytest.mark.parametrize("millis", [0, 1, 999])
def test_task_bytes_contain_the_acceptance_time(millis: int) -> None:
    shard = DrivenShard()
    shard.wall += millis
    shard.create()
    shard.wall += 5
    shard.create()
    times = [Task.FromString(delivered.raw).created_at.ToMilliseconds() for delivered in shard.claim(2)]
    assert times == [START_MS + millis, START_MS + millis + 5]


def test_create_without_max_attempts_uses_the_configured_default() -> None:
    shard = DrivenShard(max_attempts=3)
    shard.create()
    assert Task.FromString(shard.claim(1)[0].raw).max_attempts == 3


@pytest.mark.parametrize("due_ms", [0, START_MS - 1, START_MS])
def test_task_created_for_a_time_in_the_past_waits_in_the_queue(due_ms: int) -> None:
    shard = DrivenShard()
    task_id, _ = create(shard.shard, TENANT, "a", b"1", 0, 0, due_ms, shard.now)
    assert shard.claim_ids(1) == [task_id]


def test_task_created_for_the_year_9999_is_scheduled() -> None:
    shard = DrivenShard()
    far = 253_402_300_799_000
    task_id, _ = create(shard.shard, TENANT, "a", b"1", 0, 0, far, shard.now)
    shard.write()
    shard.reopen()
    assert (shard.status(task_id), shard.view(task_id).due_ms) == ("SCHEDULED", far)


def test_create_beyond_the_queue_limit_is_rejected_and_changes_nothing() -> None:
    shard = DrivenShard(queues_max=2)
    shard.create("a")
    shard.create("b")
    shard.write()
    with pytest.raises(Rejection) as refused:
        shard.create("c")
    assert refused.value.reason is Reason.TOO_MANY_QUEUES
    assert not shard.shard.batch
    assert shard.status(shard.create("a")) == "PENDING"


def test_create_gives_every_task_a_different_id() -> None:
    shard = DrivenShard()
    ids = [shard.create(command, priority=p, delay=d) for command in "ab" for p in (0, 9) for d in (0, 1) for _ in "12"]
    assert len(set(ids)) == 16


def test_same_calls_at_the_same_times_write_the_same_bytes() -> None:
    """Nothing but the calls and their times influences the rows."""

    def rows() -> list[tuple[bytes, bytes]]:
        shard = DrivenShard(retention_ms=500)
        for n in range(30):
            shard.create("ab"[n % 2], priority=n % 10, delay=n % 3 * 100)
        for n, task_id in enumerate(shard.claim_ids(12, lease=300)):
            if n % 4 == 0:
                shard.settle(task_id, result=b"{}")
            elif n % 4 == 1:
                shard.nack(task_id, 50)
            elif n % 4 == 2:
                shard.give_back(task_id)
        shard.write()
        shard.pass_time(400)
        shard.reopen()
        shard.claim(5)
        shard.pass_time(400)
        shard.write()
        return shard.store.scan(b"", b"\xff", 1 << 30)

    assert rows() == rows()
