"""Unreadable rows are reported by their keys, at startup and later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys, names, reads, withdrawal
from codeq_server.core.errors import CorruptRows
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.redrive import cleanup, redrive_task
from codeq_server.core.status import Outcome
from codeq_server.storage.check import check
from driven_shard import TENANT, DrivenShard
from google.protobuf.message import Message

GARBAGE = b"\xff\xff\xff"


def worked_shard() -> tuple[DrivenShard, str]:
    """Returns a shard with a task that is waiting after a nack, a claimed task, and an ended task."""
    driven = DrivenShard()
    first, _, third = driven.create(), driven.create(), driven.create()
    driven.claim_ids(3)
    driven.nack(first)
    driven.settle(third)
    driven.heartbeat(next(iter(driven.shard.deliveries)), 600_000)
    driven.write()
    return driven, first


def state_key(task_id: str) -> bytes:
    ref = ids.parse_id(task_id)
    assert ref is not None
    return keys.place_key(keys.lane_prefix(b"s", ref.queue, ref.lane), ref.position)


@pytest.mark.parametrize("table", [b"q", b"l", b"x", keys.TICK])
def test_opening_reports_the_key_of_an_unreadable_row(table: bytes) -> None:
    driven, _ = worked_shard()
    key = next(key for key in driven.keys(table[:1]) if key.startswith(table))
    driven.store.write({key: GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.reopen()
    assert refused.value.key == key
    assert key in [found.key for found in check(driven.store.scan(b"", b"\xff", 1 << 30))]


def test_read_reports_the_key_of_an_unreadable_state() -> None:
    driven, task_id = worked_shard()
    driven.store.write({state_key(task_id): GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.view(task_id)
    assert refused.value.key == state_key(task_id)


def test_outcome_reports_the_key_of_an_unreadable_state() -> None:
    driven, task_id = worked_shard()
    (claimed,) = driven.claim_ids(1)
    assert claimed == task_id
    driven.write()
    driven.store.write({state_key(task_id): GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.settle(task_id, Outcome.NACK, delay=0)
    assert refused.value.key == state_key(task_id)


def test_sweep_reports_the_key_of_an_unreadable_list() -> None:
    driven, _ = worked_shard()
    (key,) = driven.keys(b"r")
    driven.store.write({key: GARBAGE})
    with pytest.raises(CorruptRows) as refused:
        driven.pass_time(driven.settings.retention_ms + 1000)
    assert refused.value.key == key


def spoil(driven: DrivenShard, key: bytes, length: int) -> None:
    """Truncates a row's value."""
    value = driven.store.get(key)
    assert value is not None
    assert len(value) > length
    driven.store.write({key: value[:length]})


@pytest.mark.parametrize("length", [0, 1, 3])
@pytest.mark.parametrize("name", ["home", "pointer", "pointer to a spoilt home"])
def test_claim_reports_the_key_of_a_truncated_row(name: str, length: int) -> None:
    driven = DrivenShard()
    task_id = driven.create()
    if name != "home":
        driven.claim()
        driven.nack(task_id)
    driven.write()
    driven.reopen()
    home, pointer = driven.keys(b"t")[0], driven.keys(b"t")[-1]
    spoilt = pointer if name == "pointer" else home
    spoil(driven, spoilt, length)
    with pytest.raises(CorruptRows) as refused:
        driven.claim()
    assert refused.value.key == spoilt


@pytest.mark.parametrize("delay", [0, 60_000])
@pytest.mark.parametrize("what", ["nack", "view", "open"])
def test_leased_task_with_a_truncated_home_is_reported_by_key(what: str, delay: int) -> None:
    driven = DrivenShard()
    task_id = driven.create(delay=delay)
    driven.pass_time(delay)
    driven.claim()
    driven.write()
    (home,) = (key for key in driven.keys(b"t") if key[5] == (15 if delay else 9))
    spoil(driven, home, 1)
    lane, now = driven.queue().lane(home[5]), driven.now
    calls: dict[str, Callable[[], object]] = {
        "nack": lambda: driven.nack(task_id),
        "view": lambda: reads.view_at(driven.shard, lane, 1, b"h", now),
        "open": driven.reopen,
    }
    with pytest.raises(CorruptRows) as refused:
        calls[what]()
    assert refused.value.key == home


def rewrite(driven: DrivenShard, key: bytes, kind: type[Message], **changes: Any) -> None:
    """Changes fields of a stored message."""
    value = driven.store.get(key)
    assert value is not None
    row = kind.FromString(value)
    for name, change in changes.items():
        row.ClearField(name)
        getattr(row, name).extend(change) if isinstance(change, list) else setattr(row, name, change)
    driven.store.write({key: row.SerializeToString()})


@pytest.mark.parametrize(
    "changes", [{"queue": 9}, {"home": 4 << 48 | 1}, {"home": 200 << 48 | 1}, {"home": 9 << 48 | 7}]
)
def test_name_row_without_a_home_is_reported_by_key(changes: dict[str, int]) -> None:
    driven = DrivenShard()
    task = NewTask("a", b"1", 0, 0, 0, Naming("mine"))
    names.create(driven.shard, TENANT, task, driven.now)
    driven.write()
    (key,) = driven.keys(b"i")
    rewrite(driven, key, rows_pb2.NameRow, **changes)
    calls: list[Callable[[], object]] = [
        lambda: driven.view("mine"),
        lambda: withdrawal.cancel(driven.shard, TENANT, "mine", "", driven.now),
        lambda: redrive_task(driven.shard, TENANT, "mine", driven.now),
    ]
    for call in calls:
        with pytest.raises(CorruptRows) as refused:
            call()
        assert refused.value.key == key


@pytest.mark.parametrize(
    ("table", "kind", "changes"),
    [
        (b"l", rows_pb2.LeaseRow, {"queues": []}),
        (b"l", rows_pb2.LeaseRow, {"queues": [1, 1, 1]}),
        (b"l", rows_pb2.LeaseRow, {"places": [0]}),
        (b"l", rows_pb2.LeaseRow, {"places": [1 << 56 | 99 << 48 | 1] * 2}),
        (b"l", rows_pb2.LeaseRow, {"attempts": [0]}),
        (b"x", rows_pb2.ExtensionRow, {"lease_ms": [1, 1]}),
        (b"q", rows_pb2.QueueRow, {"lanes": [rows_pb2.LaneState(lane=16)]}),
        (b"q", rows_pb2.QueueRow, {"lanes": []}),
    ],
)
def test_opening_reports_the_key_of_a_row_that_contradicts_others(
    table: bytes, kind: type[Message], changes: dict[str, list[Any]]
) -> None:
    driven = DrivenShard()
    first, _ = driven.create(), driven.create()
    driven.claim_ids(2)
    driven.heartbeat(first, 600_000)
    driven.write()
    (key,) = driven.keys(table)
    rewrite(driven, key, kind, **changes)
    with pytest.raises(CorruptRows) as refused:
        driven.reopen()
    assert refused.value.key in {key, *driven.keys(b"l")}


@pytest.mark.parametrize("changes", [{"queues": []}, {"queues": [1, 1, 1]}, {"homes": [12 << 48 | 1]}])
def test_list_of_missing_ended_tasks_is_reported_by_key(changes: dict[str, list[int]]) -> None:
    driven = DrivenShard()
    for _ in range(2):
        driven.complete_one()
    driven.write()
    (key,) = driven.keys(b"r")
    rewrite(driven, key, rows_pb2.EndedRow, **changes)
    with pytest.raises(CorruptRows) as refused:
        cleanup(driven.shard, key, TENANT, driven.wall + 1, 0, 10)
    assert refused.value.key == key
    with pytest.raises(CorruptRows) as refused:
        driven.pass_time(driven.settings.retention_ms + 1000)
    assert refused.value.key == key


def test_state_row_with_an_impossible_lane_is_reported_by_key() -> None:
    driven, task_id = worked_shard()
    key = state_key(task_id)
    rewrite(driven, key, rows_pb2.StateRow, place_lane=16)
    calls: list[Callable[[], object]] = [
        lambda: reads.count_ahead(driven.shard, TENANT, task_id),
        lambda: withdrawal.cancel(driven.shard, TENANT, task_id, "", driven.now),
    ]
    for call in calls:
        with pytest.raises(CorruptRows) as refused:
            call()
        assert refused.value.key == key


def test_maturing_reports_the_key_of_a_truncated_due_row() -> None:
    driven = DrivenShard()
    driven.create(delay=1000)
    driven.write()
    (due,) = driven.keys(b"d")
    spoil(driven, due, 1)
    driven.reopen()
    with pytest.raises(CorruptRows) as refused:
        driven.pass_time(1000)
    assert refused.value.key == due


def test_opening_reports_the_key_of_a_truncated_returned_row() -> None:
    driven = DrivenShard()
    task_id = driven.create()
    driven.claim()
    driven.give_back(task_id)
    driven.write()
    (returned,) = driven.keys(b"u")
    spoil(driven, returned, 4)
    with pytest.raises(CorruptRows) as refused:
        driven.reopen()
    assert refused.value.key == returned
