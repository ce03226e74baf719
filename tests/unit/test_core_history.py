"""A task keeps its last deliveries; a task that completes at once costs no extra row or read."""

from __future__ import annotations

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import redrive, withdrawal
from codeq_server.core.history import DELIVERIES_KEPT, ERROR_CHARACTERS_KEPT, End
from codeq_server.core.model import Caller
from codeq_server.core.status import Outcome
from codeq_server.storage.memory import MemoryStore
from driven_shard import TENANT, DrivenShard

OTHER = Caller(TENANT, "v", "v")


@pytest.fixture
def driven() -> DrivenShard:
    return DrivenShard()


def told(driven: DrivenShard, task_id: str) -> list[tuple[str, int, int, str, str]]:
    """Returns worker, start, end, outcome and error of each delivery; times in ms since the test began."""
    first = driven.view(task_id)
    deliveries = first.deliveries
    return [
        (each.worker, each.started_ms % 1_000_000, each.ended_ms % 1_000_000, End(each.end).name, each.error)
        for each in deliveries
    ]


def deliver(driven: DrivenShard, task_id: str, outcome: Outcome, error: str = "", *, by: Caller | None = None) -> None:
    caller = by or Caller(TENANT, "w", "w")
    assert [each.task_id for each in driven.claim(by=caller)] == [task_id]
    driven.pass_time(10)
    driven.settle(task_id, outcome, error=error, delay=0, by=caller, result=None)


@pytest.mark.parametrize("restarted", [False, True])
def test_history_shows_every_kind_of_delivery_end(driven: DrivenShard, restarted: bool) -> None:
    task_id = driven.create()

    def go_on() -> None:
        if restarted:
            driven.write()
            driven.reopen()

    deliver(driven, task_id, Outcome.NACK, "later")
    go_on()
    deliver(driven, task_id, Outcome.ABANDON, by=OTHER)
    go_on()
    driven.claim(lease=20)
    driven.pass_time(20)
    assert driven.status(task_id) == "PENDING"
    driven.claim()
    go_on()
    driven.give_back(task_id)
    deliver(driven, task_id, Outcome.FAILED, "no")
    go_on()
    redrive.redrive_task(driven.shard, TENANT, task_id, driven.now)
    driven.claim()
    go_on()
    withdrawal.cancel(driven.shard, TENANT, task_id, "no need", driven.now)
    redrive.redrive_task(driven.shard, TENANT, task_id, driven.now)
    driven.claim()
    go_on()
    driven.settle(task_id)
    driven.write()
    assert told(driven, task_id) == [
        ("w", 0, 10, "NACKED", "later"),
        ("v", 10, 20, "ABANDONED", ""),
        ("w", 20, 40, "LEASE_EXPIRED", ""),
        ("w", 40, 40, "RETURNED", ""),
        ("w", 40, 50, "FAILED", "no"),
        ("w", 50, 50, "CANCELLED", ""),
        ("w", 50, 50, "COMPLETED", ""),
    ]


def test_running_delivery_is_not_part_of_the_history(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim()
    assert told(driven, task_id) == []
    driven.nack(task_id)
    driven.claim()
    assert [each[3] for each in told(driven, task_id)] == ["NACKED"]


def test_last_ten_deliveries_are_kept_with_truncated_errors(driven: DrivenShard) -> None:
    task_id = driven.create(attempts=100)
    for number in range(DELIVERIES_KEPT + 5):
        deliver(driven, task_id, Outcome.NACK, f"{number} " + "é" * 4000)
    driven.write()
    errors = [each[4] for each in told(driven, task_id)]
    assert [error.split()[0] for error in errors] == [str(number) for number in range(5, 15)]
    assert {len(error) for error in errors} == {ERROR_CHARACTERS_KEPT}
    assert all(error.endswith("…") for error in errors)
    deliver(driven, task_id, Outcome.COMPLETED)
    assert [each[3] for each in told(driven, task_id)] == ["NACKED"] * (DELIVERIES_KEPT - 1) + ["COMPLETED"]


def test_dead_letter_shows_how_its_deliveries_ended(driven: DrivenShard) -> None:
    task_id = driven.create(attempts=2)
    for error in ("one", "two"):
        deliver(driven, task_id, Outcome.NACK, error)
    assert driven.status(task_id) == "DLQ"
    assert [each[4] for each in told(driven, task_id)] == ["one", "two"]


def test_task_completed_at_its_first_delivery_writes_only_its_state_and_reads_no_row(driven: DrivenShard) -> None:
    class NoReads(MemoryStore):
        def get(self, key: bytes) -> bytes | None:
            raise AssertionError(key)

    task_id = driven.create()
    driven.claim()
    rows = dict(driven.shard.batch.rows)
    driven.shard.stored = NoReads()
    driven.settle(task_id)
    new = {key[:1] for key, value in driven.shard.batch.rows.items() if key not in rows and value is not None}
    assert new == {b"s"}
    assert [each[3] for each in told_from_batch(driven)] == ["COMPLETED"]


def told_from_batch(driven: DrivenShard) -> list[tuple[str, int, int, str]]:
    (row,) = [rows_pb2.StateRow.FromString(v) for k, v in driven.shard.batch.rows.items() if k[:1] == b"s" and v]
    assert not row.deliveries
    return [(row.worker, row.started_ms, row.changed_ms, End(row.outcome).name)]


def test_task_from_an_earlier_server_starts_with_an_empty_history(driven: DrivenShard) -> None:
    task_id = driven.create()
    driven.claim()
    driven.settle(task_id, Outcome.FAILED, error="no")
    driven.write()
    (key,) = driven.keys(b"s")
    row = rows_pb2.StateRow.FromString(driven.store.get(key) or b"")
    row.ClearField("started_ms")
    driven.store.write({key: row.SerializeToString()})
    assert told(driven, task_id) == []
    redrive.redrive_task(driven.shard, TENANT, task_id, driven.now)
    deliver(driven, task_id, Outcome.NACK, "again")
    driven.write()
    assert [each[4] for each in told(driven, task_id)] == ["again"]
