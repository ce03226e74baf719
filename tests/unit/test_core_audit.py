"""The audit trail of a shard: rows in their batches, retention, the maximum, and refusals counted by the hour."""

from __future__ import annotations

import pytest
from codeq_internal.v1 import rows_pb2
from codeq_server.core import audit, keys, timers
from codeq_server.core.alarms import NEVER
from codeq_server.core.shard import ShardSettings
from codeq_server.services.auditing import DENIALS
from codeq_server.storage.check import check
from driven_shard import DrivenShard

RETENTION_MS = 10_000
DAY_MS = 86_400_000
STEP_MS = 600_000
DENIED = "UNAUTHENTICATED"


def driven_shard() -> DrivenShard:
    return DrivenShard(audit_retention_ms=RETENTION_MS)


def record(driven: DrivenShard, call: str = "PauseQueue") -> bytes:
    return driven.shard.audit.record(rows_pb2.AuditRow(call=call, outcome="OK"), driven.now)


def rows(driven: DrivenShard) -> list[rows_pb2.AuditRow]:
    stored = driven.store.scan(*keys.table_rows(keys.AUDIT), 1 << 20)
    return [rows_pb2.AuditRow.FromString(value) for _, value in stored]


def elapse(driven: DrivenShard, ms: int) -> None:
    driven.pass_time(ms)
    driven.write()


def problems(driven: DrivenShard) -> list[str]:
    return [difference.problem for difference in check(driven.store.scan(b"", b"\xff", 1 << 30))]


def calls(driven: DrivenShard) -> list[str]:
    return [row.call for row in rows(driven)]


def refuse(driven: DrivenShard, count: int, reason: str = DENIED) -> None:
    """Refuses access as the services do."""
    for _ in range(count):
        if driven.shard.audit.admits(reason, driven.now):
            driven.shard.audit.record(rows_pb2.AuditRow(call="GetTask", outcome=reason, count=1), driven.now)


def test_record_is_written_with_the_decisions_of_its_batch() -> None:
    driven = driven_shard()
    queue = driven.shard.open_queue("acme", "a")
    driven.shard.pause(queue)
    record(driven)
    sealed = driven.shard.seal(driven.now)
    assert {keys.QUEUES, keys.AUDIT} <= {key[:1] for key in sealed.rows}
    (row,) = [rows_pb2.AuditRow.FromString(value or b"") for key, value in sealed.rows.items() if key[:1] == keys.AUDIT]
    assert row.at_ms == driven.now.wall_ms


def test_shard_that_records_nothing_writes_no_row_of_the_audit() -> None:
    driven = driven_shard()
    driven.complete_one()
    sealed = driven.shard.seal(driven.now)
    assert keys.AUDIT not in {key[:1] for key in sealed.rows}
    assert driven.shard.audit.first_ms == NEVER


def test_record_of_several_batches_changes_with_each_of_them() -> None:
    driven = driven_shard()
    row = rows_pb2.AuditRow(call="CleanupTasks", outcome="OK")
    key = driven.shard.audit.record(row, driven.now)
    for deleted in (1, 2):
        row.after = f'{{"deleted":{deleted}}}'
        driven.shard.audit.rewrite(key, row)
        driven.write()
        assert [each.after for each in rows(driven)] == [row.after]


def test_records_are_removed_when_their_retention_is_over_and_no_earlier() -> None:
    driven = driven_shard()
    record(driven, "first")
    driven.wall, driven.mono = driven.wall + 1, driven.mono + 1
    record(driven, "second")
    driven.write()
    elapse(driven, RETENTION_MS - 2)
    assert calls(driven) == ["first", "second"]
    elapse(driven, 1)
    assert calls(driven) == ["second"]
    elapse(driven, 1)
    assert calls(driven) == []
    assert driven.shard.audit.count == 0


def test_record_removed_meanwhile_does_not_come_back_with_a_late_change() -> None:
    driven = driven_shard()
    row = rows_pb2.AuditRow(call="RedriveTasks", outcome="OK")
    key = driven.shard.audit.record(row, driven.now)
    driven.write()
    elapse(driven, RETENTION_MS)
    assert calls(driven) == []
    driven.shard.audit.rewrite(key, row)
    driven.write()
    assert calls(driven) == []


def test_oldest_records_make_room_beyond_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_ROWS_MAX", 3)
    driven = driven_shard()
    for number in range(5):
        record(driven, str(number))
    driven.write()
    elapse(driven, 0)
    assert calls(driven) == ["2", "3", "4"]
    record(driven, "5")
    driven.write()
    elapse(driven, 0)
    assert calls(driven) == ["3", "4", "5"]
    driven.reopen()
    assert driven.shard.audit.count == 3


def test_a_slice_removes_a_bounded_number_of_records() -> None:
    driven = driven_shard()
    for _ in range(audit.SLICE + 10):
        record(driven)
    driven.write()
    driven.wall += RETENTION_MS
    assert timers.run_due(driven.shard, driven.now)
    assert driven.shard.audit.count == 10
    assert not timers.run_due(driven.shard, driven.now)
    driven.write()
    assert rows(driven) == []


def test_records_not_written_yet_are_removed_later() -> None:
    driven = driven_shard()
    record(driven)
    driven.wall += RETENTION_MS
    assert not timers.run_due(driven.shard, driven.now)
    assert timers.next_wake(driven.shard, driven.now) == 1000
    driven.write()
    elapse(driven, 1000)
    assert rows(driven) == []


def test_restart_continues_the_retention_and_the_numbers() -> None:
    driven = driven_shard()
    record(driven, "before")
    driven.write()
    driven.reopen()
    record(driven, "after")
    driven.write()
    assert calls(driven) == ["before", "after"]
    elapse(driven, RETENTION_MS)
    assert calls(driven) == []


def test_refusals_beyond_the_limit_share_a_record_for_each_reason_when_the_hour_is_over() -> None:
    driven = DrivenShard()
    limit = audit.AUDIT_REFUSALS_AT_ONCE
    refuse(driven, limit + 5)
    refuse(driven, 7, "NOT_ADMIN")
    driven.write()
    assert len(rows(driven)) == limit
    elapse(driven, audit.HOUR_MS - 1)
    assert len(rows(driven)) == limit
    elapse(driven, 1)
    shared = rows(driven)[limit:]
    assert [(row.outcome, row.count, row.call, row.subject) for row in shared] == [
        (DENIED, 5, "", ""),
        ("NOT_ADMIN", 7, "", ""),
    ]
    elapse(driven, 10 * audit.HOUR_MS)
    assert len(rows(driven)) == limit + 2


def test_flood_of_refusals_writes_a_bounded_number_of_rows() -> None:
    driven = DrivenShard()
    for reason in ("UNAUTHENTICATED", "NOT_ADMIN", "MISSING_SCOPE"):
        for _ in range(200):
            refuse(driven, 200, reason)
            driven.wall += 100
    driven.write()
    elapse(driven, audit.HOUR_MS)
    found = rows(driven)
    assert sum(row.count for row in found) == 120_000
    assert len(found) <= audit.AUDIT_REFUSALS_AT_ONCE + 3


def test_flood_that_lasts_leaves_most_records_to_acts_for_as_long_as_they_are_kept() -> None:
    driven = DrivenShard()
    reasons = sorted(reason.name for reason in DENIALS)
    days, kept_days = 2, ShardSettings().audit_retention_ms // DAY_MS
    for _ in range(days * DAY_MS // STEP_MS):
        for reason in reasons:
            refuse(driven, 10, reason)
        elapse(driven, STEP_MS)
    found = rows(driven)
    assert sum(row.count for row in found) >= (days * DAY_MS - audit.HOUR_MS) // STEP_MS * len(reasons) * 10
    assert len(found) * kept_days // days <= audit.AUDIT_ROWS_MAX // 2


def test_refusals_are_recorded_again_after_some_time() -> None:
    driven = DrivenShard()
    limit, every_ms = audit.AUDIT_REFUSALS_AT_ONCE, audit.AUDIT_REFUSAL_EVERY_MS
    refuse(driven, limit + 1)
    driven.write()
    elapse(driven, every_ms - 1)
    refuse(driven, 1)
    driven.write()
    assert len(rows(driven)) == limit
    elapse(driven, 1)
    refuse(driven, 3)
    driven.write()
    assert len(rows(driven)) == limit + 1
    elapse(driven, 2 * limit * every_ms)
    made = len(rows(driven))
    refuse(driven, 2 * limit)
    driven.write()
    assert len(rows(driven)) == made + limit


def test_checker_reports_records_that_are_missing_in_between_or_later_than_the_last_batch() -> None:
    driven = driven_shard()
    keys_made = [record(driven, str(number)) for number in range(3)]
    driven.write()
    driven.store.write({keys_made[1]: None})
    assert problems(driven) == ["follows record 1, so that records are missing"]
    driven.store.write({keys.audit_key(driven.wall + 1, 4): rows_pb2.AuditRow(at_ms=1).SerializeToString()})
    assert problems(driven)[1:] == [
        "the value has another time",
        f"the last audit record is of {driven.wall + 1}, after the last batch",
    ]
