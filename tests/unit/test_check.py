"""The offline checker reports nothing for consistent rows, and finds every contradiction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from codeq.v1.task_pb2 import Task, TaskStatus
from codeq_internal.v1 import rows_pb2
from codeq_server.core import keys
from codeq_server.storage.check import check
from codeq_server.storage.findings import Difference, Summary
from google.protobuf.message import Message

Rows = dict[bytes, bytes]

EPOCH = 7
QUEUE = 1
LANE = 4
FIRST = EPOCH << 34 | 1
SECOND = EPOCH << 34 | 2
QUEUE_KEY = keys.queue_key(QUEUE)


def place(table: bytes, lane: int, position: int) -> bytes:
    return keys.place_key(keys.lane_prefix(table, QUEUE, lane), position)


def due(due_ms: int, lane: int, position: int) -> bytes:
    return keys.time_key(keys.DUE, QUEUE, due_ms, lane, position)


def task(lane: int) -> bytes:
    return Task(command="email", payload=b"{}", priority=9 - lane, max_attempts=5).SerializeToString()


def expiry(expire_ms: int, lane: int, position: int) -> bytes:
    return keys.time_key(keys.EXPIRY, QUEUE, expire_ms, lane, position)


def expiring_home(seconds: int) -> bytes:
    message = Task.FromString(task(LANE))
    message.expire_at.seconds = seconds
    return keys.home_head(EPOCH) + message.SerializeToString()


def home(lane: int = LANE) -> bytes:
    return keys.home_head(EPOCH) + task(lane)


def state(**fields: Any) -> bytes:
    return rows_pb2.StateRow(**fields).SerializeToString()


def delayed(due_ms: int, attempts: int) -> bytes:
    """Returns the state of a task that was nacked with a delay of 300 ms."""
    scheduled, place_kind = TaskStatus.TASK_STATUS_SCHEDULED, rows_pb2.PLACE_KIND_DUE
    changed_ms = due_ms - 300
    fields = {"place_at": due_ms, "changed_ms": changed_ms, "delay_ms": 300, "attempts": attempts}
    return state(status=scheduled, place=place_kind, **fields)


IDENTITY = rows_pb2.IdentityRow(format=1, shard=0, num_shards=1, cluster_id=b"c" * 16, epoch=EPOCH)
TICK = rows_pb2.TickRow(lsn=50, wall_ms=5000, oldest_lease=FIRST, sweep_mark=b"\0" * 17 + b"\5", last_queue=QUEUE)


def expiring_rows() -> Rows:
    """Returns the rows of tasks 9 and 12, which expire if they wait too long, and of task 2, which started in time."""
    return {
        place(b"t", LANE, 2): expiring_home(4),
        place(b"t", LANE, 9): expiring_home(6),
        place(b"t", LANE, 12): expiring_home(7),
        expiry(6000, LANE, 9): b"",
        expiry(7000, LANE, 12): b"",
        keys.TICK: TICK.SerializeToString(),
    }


def consistent_rows() -> Rows:
    """Returns the rows of a task in every state, reached in every way, in lane 4: mark 8, tail 12."""
    pending, queued = TaskStatus.TASK_STATUS_PENDING, rows_pb2.PLACE_KIND_QUEUED
    rows = {place(b"t", LANE, position): home() for position in (1, 2, 3, 4, 5, 6, 7, 9, 12)}
    rows |= {place(b"t", 15, position): keys.parked_head(EPOCH, 900, 0) + task(0) for position in (1, 2, 3)}
    rows |= {
        keys.IDENTITY: IDENTITY.SerializeToString(),
        QUEUE_KEY: rows_pb2.QueueRow(
            tenant="acme",
            command="email",
            lanes=[
                rows_pb2.LaneState(lane=0, mark=0, tail=1, ready=1),
                rows_pb2.LaneState(lane=4, mark=8, tail=12, ready=4),
                rows_pb2.LaneState(lane=5, mark=1, tail=1),
                rows_pb2.LaneState(lane=15, tail=3),
            ],
            scheduled=2,
            expiring=2,
            claimed=2,
            dlq=1,
            completed_total=2,
            failed_total=1,
            created_total=13,
            removed_total=1,
            purge=rows_pb2.PurgeState(at_ms=1500, tails=[4 << 48 | 12, 15 << 48 | 3]),
        ).SerializeToString(),
        # 1 was completed.
        place(b"s", LANE, 1): state(
            status=TaskStatus.TASK_STATUS_COMPLETED, ended_token=FIRST, attempts=1, ended_lsn=40, changed_ms=400
        ),
        keys.ended_key(2000, 40, 0): rows_pb2.EndedRow(lsn=40, queues=[QUEUE], homes=[4 << 48 | 1]).SerializeToString(),
        # 2 is in its first delivery; its claim also had a task that was completed and another that is purged.
        keys.lease_key(FIRST): rows_pb2.LeaseRow(
            worker="w", lease_ms=1000, queues=[QUEUE], homes=[4 << 48 | 2, 4 << 48 | 1, 5 << 48 | 1]
        ).SerializeToString(),
        keys.extension_key(FIRST): rows_pb2.ExtensionRow(
            homes=[4 << 48 | 2], lease_ms=[9000], queues=[QUEUE]
        ).SerializeToString(),
        # 3 was nacked: a pointer at 11 leads to it.
        place(b"s", LANE, 3): state(status=pending, ended_token=5, attempts=1, place=queued, place_lane=4, place_at=11),
        place(b"t", LANE, 11): keys.pointer(LANE, 3, 1),
        # 4 was abandoned.
        place(b"s", LANE, 4): state(
            status=pending, ended_token=6, place=rows_pb2.PLACE_KIND_RETURNED, place_lane=4, place_at=4
        ),
        place(b"u", LANE, 4): keys.pointer(LANE, 4, 0),
        # 5 is a dead letter.
        place(b"s", LANE, 5): state(status=TaskStatus.TASK_STATUS_DLQ, attempts=5, ended_lsn=41, changed_ms=410),
        keys.ended_key(3000, 41, 1): rows_pb2.EndedRow(lsn=41, queues=[QUEUE], homes=[4 << 48 | 5]).SerializeToString(),
        keys.dead_key(QUEUE, 410, LANE, 5): b"",
        # 6 was nacked with a delay.
        place(b"s", LANE, 6): delayed(800, attempts=2),
        due(800, LANE, 6): keys.due_value(LANE, 2, has_state=True),
        # 7 is in its second delivery, claimed from the pointer that was at 8.
        place(b"s", LANE, 7): state(status=pending, ended_token=7, attempts=1, place=queued, place_lane=4, place_at=8),
        keys.lease_key(SECOND): rows_pb2.LeaseRow(
            worker="w", lease_ms=1000, queues=[QUEUE], homes=[4 << 48 | 7], places=[1 << 56 | 4 << 48 | 8], attempts=[1]
        ).SerializeToString(),
        # Created with a delay: 1 is still waiting, 2 is due, 3 has failed.
        due(900, 15, 1): keys.due_value(0, 0, has_state=False),
        place(b"s", 15, 2): state(status=pending, place=queued, place_lane=0, place_at=1),
        place(b"t", 0, 1): keys.pointer(15, 2, 0),
        place(b"s", 15, 3): state(status=TaskStatus.TASK_STATUS_FAILED, attempts=1, ended_lsn=42, changed_ms=420),
        keys.ended_key(2000, 42, 0): rows_pb2.EndedRow(
            lsn=42, queues=[QUEUE], homes=[15 << 48 | 3]
        ).SerializeToString(),
    }
    return rows | expiring_rows()


def differences(rows: Rows, summary: Summary | None = None) -> list[Difference]:
    return list(check(sorted(rows.items()), summary))


def test_check_of_consistent_rows_finds_nothing_and_counts_them() -> None:
    summary = Summary()
    rows = consistent_rows()
    assert differences(rows, summary) == []
    assert summary == Summary(
        rows=len(rows),
        queues=1,
        leases=2,
        pending=5,
        scheduled=2,
        claimed=2,
        completed=1,
        failed=1,
        dlq=1,
        cancelled=0,
        differences=0,
        lsn=50,
    )


def test_check_of_a_list_of_completed_tasks_finds_nothing() -> None:
    rows = consistent_rows()
    rows[C40] = rows.pop(R40)
    assert differences(rows) == []


def test_check_of_an_empty_store_finds_nothing() -> None:
    assert differences({}) == []


def test_check_of_a_store_that_was_only_opened_finds_nothing() -> None:
    rows = consistent_rows()
    assert differences({keys.IDENTITY: rows[keys.IDENTITY]}) == []


def test_check_of_unordered_rows_raises() -> None:
    with pytest.raises(ValueError, match="order"):
        list(check(sorted(consistent_rows().items(), reverse=True)))


# Each mutation corrupts one row, whose key must be reported.
Mutation = Callable[[Rows], None]


def put(key: bytes, value: bytes) -> Mutation:
    return lambda rows: rows.update({key: value})


def drop(key: bytes) -> Mutation:
    def apply(rows: Rows) -> None:
        del rows[key]

    return apply


def edit(key: bytes, kind: type[Message], **fields: Any) -> Mutation:
    """Changes fields of a row's message; a list replaces the old one."""

    def apply(rows: Rows) -> None:
        message = kind.FromString(rows[key])
        for name, content in fields.items():
            message.ClearField(name)
            if isinstance(content, list):
                getattr(message, name).extend(content)
            else:
                setattr(message, name, content)
        rows[key] = message.SerializeToString()

    return apply


def edit_lane(index: int, **fields: int) -> Mutation:
    def apply(rows: Rows) -> None:
        row = rows_pb2.QueueRow.FromString(rows[QUEUE_KEY])
        for name, content in fields.items():
            setattr(row.lanes[index], name, content)
        rows[QUEUE_KEY] = row.SerializeToString()

    return apply


def edit_purge(at_ms: int = 1500, tails: Sequence[int] = (4 << 48 | 12,)) -> Mutation:
    def apply(rows: Rows) -> None:
        row = rows_pb2.QueueRow.FromString(rows[QUEUE_KEY])
        row.purge.CopyFrom(rows_pb2.PurgeState(at_ms=at_ms, tails=tails))
        rows[QUEUE_KEY] = row.SerializeToString()

    return apply


def both(*mutations: Mutation) -> Mutation:
    def apply(rows: Rows) -> None:
        for mutation in mutations:
            mutation(rows)

    return apply


State, Lease, Ended = rows_pb2.StateRow, rows_pb2.LeaseRow, rows_pb2.EndedRow
S1, S3, S4, S5, S6, S7 = (place(b"s", LANE, position) for position in (1, 3, 4, 5, 6, 7))
L1, L2 = keys.lease_key(FIRST), keys.lease_key(SECOND)
R40, R41 = keys.ended_key(2000, 40, 0), keys.ended_key(3000, 41, 1)
C39, C40, C42 = (keys.ended_key(2000, lsn, keys.ENDED_COMPLETED) for lsn in (39, 40, 42))
HIGH = (EPOCH + 1) << 34 | 1
OTHER_QUEUE = rows_pb2.QueueRow(tenant="acme", command="email").SerializeToString()

MUTATIONS: dict[str, tuple[Mutation, bytes]] = {
    # Single rows.
    "unknown prefix": (put(b"y1", b""), b"y1"),
    "unknown meta row": (put(b"mother", b""), b"mother"),
    "key too short": (put(b"t\0", b""), b"t\0"),
    "state unreadable": (put(S1, b"\xff\xff"), S1),
    "due value unreadable": (put(due(800, LANE, 6), b"1"), due(800, LANE, 6)),
    "task unreadable": (put(place(b"t", LANE, 9), keys.home_head(EPOCH) + b"\xff"), place(b"t", LANE, 9)),
    "home value truncated": (put(place(b"t", LANE, 12), b""), place(b"t", LANE, 12)),
    "parked value truncated": (put(place(b"t", 15, 1), b"k12"), place(b"t", 15, 1)),
    "pointer truncated": (put(place(b"t", LANE, 11), b"p"), place(b"t", LANE, 11)),
    # Identity and tick.
    "no identity": (drop(keys.IDENTITY), keys.IDENTITY),
    "other format": (edit(keys.IDENTITY, rows_pb2.IdentityRow, format=keys.FORMAT + 1), keys.IDENTITY),
    "no tick": (drop(keys.TICK), keys.TICK),
    "oldest lease too high": (edit(keys.TICK, rows_pb2.TickRow, oldest_lease=SECOND), keys.TICK),
    "last batch below an end": (edit(keys.TICK, rows_pb2.TickRow, lsn=41), keys.ended_key(2000, 42, 0)),
    "last queue too low": (edit(keys.TICK, rows_pb2.TickRow, last_queue=QUEUE - 1), QUEUE_KEY),
    "sweep mark passed a list": (edit(keys.TICK, rows_pb2.TickRow, sweep_mark=R40[1:]), R40),
    # Epochs and tokens.
    "home of a later epoch": (put(place(b"t", LANE, 9), keys.home_head(EPOCH + 1) + task(LANE)), place(b"t", LANE, 9)),
    "lease token of a later epoch": (
        put(keys.lease_key(HIGH), Lease(worker="w", queues=[QUEUE], homes=[5 << 48 | 1]).SerializeToString()),
        keys.lease_key(HIGH),
    ),
    "ended token of a later epoch": (edit(S3, State, ended_token=HIGH), S3),
    # Queues and lanes.
    "queue row missing": (drop(QUEUE_KEY), S1),
    "two queues of one name": (put(keys.queue_key(2), OTHER_QUEUE), keys.queue_key(2)),
    "lane twice": (edit_lane(0, lane=4), QUEUE_KEY),
    "lane of no priority": (edit_lane(2, lane=11), QUEUE_KEY),
    "mark above tail": (edit_lane(2, mark=2), QUEUE_KEY),
    "mark in the parked lane": (edit_lane(3, mark=1), QUEUE_KEY),
    "task above the tail": (edit_lane(1, tail=11), place(b"t", LANE, 12)),
    "task in an unknown lane": (put(place(b"t", 7, 1), home(7)), place(b"t", 7, 1)),
    "mark behind a claimed home": (edit_lane(1, mark=6), S7.replace(b"s", b"t", 1)),
    "mark beyond a pending home": (edit_lane(1, mark=9), place(b"t", LANE, 9)),
    "mark beyond a pointer": (edit_lane(0, mark=1), place(b"t", 0, 1)),
    "parked home in a priority's lane": (
        put(place(b"t", LANE, 9), keys.parked_head(EPOCH, 900, LANE) + task(LANE)),
        place(b"t", LANE, 9),
    ),
    "plain home in the parked lane": (put(place(b"t", 15, 1), home(0)), place(b"t", 15, 1)),
    "task of another command": (
        put(place(b"t", LANE, 9), keys.home_head(EPOCH) + Task(command="sms", priority=5).SerializeToString()),
        place(b"t", LANE, 9),
    ),
    "task of another priority": (put(place(b"t", LANE, 9), home(3)), place(b"t", LANE, 9)),
    # Counters.
    "ready": (edit_lane(1, ready=5), QUEUE_KEY),
    "ready of an unused lane": (edit_lane(2, ready=1), QUEUE_KEY),
    "purge of later": (edit_purge(at_ms=5000), QUEUE_KEY),
    "purge without time": (edit_purge(at_ms=0), QUEUE_KEY),
    "purge beyond tail": (edit_purge(tails=[4 << 48 | 13]), QUEUE_KEY),
    "purge of no lane": (edit_purge(tails=[6 << 48 | 1]), QUEUE_KEY),
    "purge of a lane twice": (edit_purge(tails=[4 << 48 | 1, 4 << 48 | 2]), QUEUE_KEY),
    "scheduled": (edit(QUEUE_KEY, rows_pb2.QueueRow, scheduled=1), QUEUE_KEY),
    "claimed": (edit(QUEUE_KEY, rows_pb2.QueueRow, claimed=3), QUEUE_KEY),
    "dlq": (edit(QUEUE_KEY, rows_pb2.QueueRow, dlq=0), QUEUE_KEY),
    "completed_total": (edit(QUEUE_KEY, rows_pb2.QueueRow, completed_total=0), QUEUE_KEY),
    "failed_total": (edit(QUEUE_KEY, rows_pb2.QueueRow, failed_total=0), QUEUE_KEY),
    "removed_total": (edit(QUEUE_KEY, rows_pb2.QueueRow, removed_total=3), QUEUE_KEY),
    "created_total": (edit(QUEUE_KEY, rows_pb2.QueueRow, created_total=12), QUEUE_KEY),
    "a pending task is gone": (drop(place(b"t", LANE, 9)), QUEUE_KEY),
    # Leases.
    "lease of nothing": (put(keys.lease_key(SECOND + 1), b""), keys.lease_key(SECOND + 1)),
    "lease of too many": (edit(L1, Lease, homes=[4 << 48 | 2, *(5 << 48 | p for p in range(1, 257))]), L1),
    "lease with too few places": (edit(L1, Lease, places=[0]), L1),
    "lease with too few queues": (edit(L1, Lease, queues=[QUEUE, QUEUE]), L1),
    "first delivery leased twice": (edit(L2, Lease, homes=[4 << 48 | 2], places=[]), place(b"t", LANE, 2)),
    "later delivery leased twice": (edit(L1, Lease, homes=[4 << 48 | 2, 4 << 48 | 7]), S7),
    "first delivery with attempts": (edit(L1, Lease, attempts=[1, 0, 0]), place(b"t", LANE, 2)),
    "later delivery with other attempts": (edit(L2, Lease, attempts=[2]), S7),
    "later delivery from another place": (edit(L2, Lease, places=[1 << 56 | 4 << 48 | 9]), S7),
    "lease row of a running task missing": (drop(L1), place(b"t", LANE, 2)),
    "lease row of a retried task missing": (drop(L2), S7),
    "leased and pending": (edit(L1, Lease, homes=[4 << 48 | 2, 4 << 48 | 9]), place(b"t", LANE, 9)),
    "leased and scheduled": (edit(L1, Lease, homes=[4 << 48 | 2, 15 << 48 | 1]), due(900, 15, 1)),
    "leased and queued": (edit(L1, Lease, homes=[4 << 48 | 2, 4 << 48 | 3]), place(b"t", LANE, 11)),
    "leased and returned": (edit(L1, Lease, homes=[4 << 48 | 2, 4 << 48 | 4]), place(b"u", LANE, 4)),
    "leased and ended": (edit(S1, State, ended_token=0), S1),
    "lease of a pointer": (edit(L1, Lease, homes=[4 << 48 | 2, 4 << 48 | 11]), place(b"t", LANE, 11)),
    "extension without a lease": (
        put(keys.extension_key(SECOND + 1), rows_pb2.ExtensionRow().SerializeToString()),
        keys.extension_key(SECOND + 1),
    ),
    "extension lists differ": (
        edit(keys.extension_key(FIRST), rows_pb2.ExtensionRow, lease_ms=[]),
        keys.extension_key(FIRST),
    ),
    # Waiting tasks.
    "status contradicts place": (edit(S3, State, status=TaskStatus.TASK_STATUS_SCHEDULED), S3),
    "waits nowhere": (edit(S3, State, place=rows_pb2.PLACE_KIND_UNSPECIFIED), S3),
    "state row above the mark": (
        put(place(b"s", LANE, 9), state(status=4, ended_token=FIRST, ended_lsn=40)),
        place(b"t", LANE, 9),
    ),
    "pointer missing": (drop(place(b"t", LANE, 11)), S3),
    "pointer to another task": (put(place(b"t", LANE, 11), keys.pointer(LANE, 6, 1)), place(b"t", LANE, 11)),
    "pointer with other attempts": (put(place(b"t", LANE, 11), keys.pointer(LANE, 3, 2)), place(b"t", LANE, 11)),
    "second pointer": (put(place(b"t", LANE, 10), keys.pointer(LANE, 3, 1)), place(b"t", LANE, 10)),
    "pointer to an ended task": (put(place(b"t", LANE, 10), keys.pointer(LANE, 1, 1)), place(b"t", LANE, 10)),
    "two tasks at one place": (
        both(
            edit(S6, State, status=1, place=rows_pb2.PLACE_KIND_QUEUED, place_lane=4, place_at=11),
            put(place(b"t", LANE, 11), keys.pointer(LANE, 6, 2)),
        ),
        S6,
    ),
    "waits in another lane": (
        both(edit(S3, State, place_lane=0, place_at=2), edit_lane(0, tail=2), put(place(b"t", 0, 2), b"")),
        place(b"t", LANE, 3),
    ),
    "returned row missing": (drop(place(b"u", LANE, 4)), S4),
    "returned row of another task": (put(place(b"u", LANE, 5), keys.pointer(LANE, 5, 0)), place(b"u", LANE, 5)),
    "returned above the mark": (
        both(
            edit(S4, State, place_at=9), drop(place(b"u", LANE, 4)), put(place(b"u", LANE, 9), keys.pointer(LANE, 4, 0))
        ),
        place(b"u", LANE, 9),
    ),
    # Scheduled tasks.
    "expiry row missing": (drop(expiry(6000, LANE, 9)), place(b"t", LANE, 9)),
    "expiry row missing, not counted": (
        both(drop(expiry(6000, LANE, 9)), edit(QUEUE_KEY, rows_pb2.QueueRow, expiring=1)),
        place(b"t", LANE, 9),
    ),
    "expiry row not counted": (edit(QUEUE_KEY, rows_pb2.QueueRow, expiring=1), QUEUE_KEY),
    "expiry row at another time": (
        both(drop(expiry(6000, LANE, 9)), put(expiry(6001, LANE, 9), b"")),
        place(b"t", LANE, 9),
    ),
    "expiry row twice": (put(expiry(6500, LANE, 9), b""), expiry(6500, LANE, 9)),
    "expiry row of no task": (put(expiry(6000, LANE, 10), b""), expiry(6000, LANE, 10)),
    "expiry row of a task that does not expire": (put(expiry(6000, LANE, 3), b""), expiry(6000, LANE, 3)),
    "expiry row with a value": (put(expiry(6000, LANE, 9), b"1"), place(b"t", LANE, 9)),
    "expiry row before the mark": (
        edit(QUEUE_KEY, rows_pb2.QueueRow, expire_mark=expiry(6000, LANE, 9)[5:]),
        QUEUE_KEY,
    ),
    "due row before the mark": (
        edit(QUEUE_KEY, rows_pb2.QueueRow, due_mark=due(800, LANE, 6)[5:]),
        QUEUE_KEY,
    ),
    "due row missing": (drop(due(800, LANE, 6)), S6),
    "due row of a parked task missing": (drop(due(900, 15, 1)), place(b"t", 15, 1)),
    "due row at another time": (
        both(drop(due(800, LANE, 6)), put(due(801, LANE, 6), keys.due_value(LANE, 2, has_state=True))),
        S6,
    ),
    "due at another time than the delay says": (edit(S6, State, delay_ms=299), S6),
    "due row twice": (put(due(700, LANE, 6), keys.due_value(LANE, 2, has_state=True)), due(800, LANE, 6)),
    "due row of a pending task": (
        put(due(801, LANE, 9), keys.due_value(LANE, 0, has_state=False)),
        due(801, LANE, 9),
    ),
    "due row of no task": (put(due(801, 15, 9), keys.due_value(0, 0, has_state=False)), due(801, 15, 9)),
    "due row with other attempts": (put(due(800, LANE, 6), keys.due_value(LANE, 3, has_state=True)), S6),
    "due row denies the state row": (put(due(800, LANE, 6), keys.due_value(LANE, 2, has_state=False)), S6),
    "due row with another lane": (
        put(due(800, LANE, 6), keys.due_value(3, 2, has_state=True)),
        place(b"t", LANE, 6),
    ),
    "due row of a parked task claims a state row": (
        put(due(900, 15, 1), keys.due_value(0, 0, has_state=True)),
        place(b"t", 15, 1),
    ),
    # Ended tasks.
    "ended, not listed": (drop(R40), S1),
    "listed with another batch": (edit(S1, State, ended_lsn=39), S1),
    "listed twice": (
        put(keys.ended_key(2000, 40, 2), Ended(lsn=40, queues=[QUEUE], homes=[4 << 48 | 1]).SerializeToString()),
        keys.ended_key(2000, 40, 2),
    ),
    "listed, not ended": (edit(R40, Ended, homes=[4 << 48 | 1, 4 << 48 | 3]), place(b"s", LANE, 3)),
    "listed, never there": (edit(R40, Ended, homes=[4 << 48 | 1, 4 << 48 | 13]), place(b"t", LANE, 13)),
    "dead letter listed with the others": (
        both(
            drop(R41),
            put(keys.ended_key(3000, 41, 0), Ended(lsn=41, queues=[1], homes=[4 << 48 | 5]).SerializeToString()),
        ),
        S5,
    ),
    "listed as completed twice": (
        put(C40, Ended(lsn=40, queues=[QUEUE], homes=[4 << 48 | 1]).SerializeToString()),
        C40,
    ),
    "failed, listed as completed": (
        both(
            drop(keys.ended_key(2000, 42, 0)),
            put(C42, Ended(lsn=42, queues=[1], homes=[15 << 48 | 3]).SerializeToString()),
        ),
        place(b"s", 15, 3),
    ),
    "completed in an earlier life": (put(C39, Ended(lsn=39, queues=[1], homes=[4 << 48 | 1]).SerializeToString()), S1),
    "list of another batch": (edit(R40, Ended, lsn=39), R40),
    "ended with no batch": (edit(S1, State, ended_lsn=0), S1),
    "not ended with a batch": (edit(S3, State, ended_lsn=40), S3),
    "state row without a home": (drop(place(b"t", LANE, 1)), S1),
    "queued task without a home": (drop(place(b"t", LANE, 3)), S3),
    "artifact of a task that has not ended": (edit(S3, State, artifacts=[rows_pb2.ArtifactRow(name="a")]), S3),
    "artifact in a file that the queue does not count": (
        edit(S1, State, artifacts=[rows_pb2.ArtifactRow(name="a", file=b"f")]),
        QUEUE_KEY,
    ),
    "dead letter not in the index": (drop(keys.dead_key(QUEUE, 410, LANE, 5)), S5),
    "dead letter index of another time": (
        put(keys.dead_key(QUEUE, 411, LANE, 5), b""),
        keys.dead_key(QUEUE, 411, LANE, 5),
    ),
    "dead letter index of a completed task": (
        put(keys.dead_key(QUEUE, 400, LANE, 1), b""),
        keys.dead_key(QUEUE, 400, LANE, 1),
    ),
    "dead letter index with a value": (
        put(keys.dead_key(QUEUE, 410, LANE, 5), b"x"),
        keys.dead_key(QUEUE, 410, LANE, 5),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_corrupt_row_is_reported(name: str) -> None:
    mutation, key = MUTATIONS[name]
    rows = consistent_rows()
    mutation(rows)
    summary = Summary()
    found = differences(rows, summary)
    assert key in {difference.key for difference in found}, found
    assert summary.differences == len(found)
