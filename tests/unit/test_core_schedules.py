"""Schedules in the core: fires, overlap and misfire policies, restarts, and what administrators change."""

from __future__ import annotations

from typing import Any

import computed_instants
import pytest
from codeq.v1.task_pb2 import Task
from codeq_internal.v1 import rows_pb2
from codeq_server.core import defining, firing, ids, keys, schedules, tenant_keys, timers
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.limits import NO_LIMITS
from codeq_server.core.policy import STEPS_PER_COST, STEPS_PER_TURN
from codeq_server.core.schedules import Schedule
from codeq_server.storage.check import check
from driven_shard import START_MS, TENANT, DrivenShard

MINUTE = 60_000
FIRST = START_MS // MINUTE * MINUTE + MINUTE
"""The first full minute."""


class Scheduled(DrivenShard):
    """A shard whose schedules get the instants that they request."""

    def put(self, name: str = "s", **fields: Any) -> Schedule:
        return computed_instants.put(self.shard, self.now, name, **fields)

    def run_due(self) -> None:
        super().run_due()
        while computed_instants.compute(self.shard, self.now):
            super().run_due()

    def row(self, name: str = "s") -> rows_pb2.ScheduleRow:
        return firing.row_of(self.shard, defining.find(self.shard, TENANT, name))

    def fires(self, name: str = "s") -> list[int]:
        """Returns the instants of the kept fires, oldest first."""
        schedule = defining.find(self.shard, TENANT, name)
        return [fire.instant_ms for fire in reversed(defining.history(self.shard, schedule))]

    def task_ids(self, name: str = "s") -> list[str]:
        schedule = defining.find(self.shard, TENANT, name)
        return [fire.task_id for fire in reversed(defining.history(self.shard, schedule))]

    def jump(self, ms: int) -> None:
        """Passes time during which no server runs."""
        self.write()
        self.wall, self.mono = self.wall + ms, self.mono + ms
        self.reopen()
        self.run_due()


@pytest.fixture
def driven() -> Scheduled:
    return Scheduled()


def minutes(*numbers: int) -> list[int]:
    return [FIRST + number * MINUTE for number in numbers]


def test_schedule_creates_one_task_per_instant_with_the_instant_in_its_payload(driven: Scheduled) -> None:
    driven.put(cron="* * * * *", payload=b'{"at": "{{scheduledAt}}"}', priority=3, max_attempts=7)
    driven.pass_time(20 * MINUTE)
    driven.write()
    assert driven.fires() == minutes(*range(20))
    first = Task.FromString(driven.view(driven.task_ids()[0]).raw)
    assert first.payload == b'{"at": "%s"}' % firing.written(FIRST).encode()
    assert (first.priority, first.max_attempts, first.command) == (3, 7, "a")
    assert len(set(driven.task_ids())) == 20
    assert driven.queue().ready == 20


def test_task_history_and_next_instant_are_rows_of_one_batch(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    driven.write()
    driven.wall = FIRST
    driven.run_due()
    batch = driven.seal()
    assert batch.rows[tenant_keys.fire_key(schedule.key, 1)]
    assert rows_pb2.ScheduleRow.FromString(batch.rows[schedule.key] or b"").after_ms == FIRST
    assert any(key[:1] == keys.TASKS and value for key, value in batch.rows.items())


def test_restart_before_the_batch_is_written_fires_again_with_the_same_id(driven: Scheduled) -> None:
    driven.put(cron="* * * * *")
    driven.write()
    driven.wall = FIRST
    driven.run_due()
    lost = driven.task_ids()
    driven.reopen()
    driven.run_due()
    assert driven.task_ids() == lost
    driven.write()
    driven.reopen()
    driven.run_due()
    assert driven.fires() == [FIRST]
    assert driven.queue().ready == 1


def test_clock_set_back_fires_no_instant_again(driven: Scheduled) -> None:
    driven.put(cron="* * * * *")
    driven.pass_time(3 * MINUTE)
    driven.write()
    driven.wall -= 3_600_000
    driven.reopen()
    driven.pass_time(MINUTE)
    assert driven.fires() == minutes(0, 1, 2)


def test_stored_instants_are_not_computed_again_at_a_restart(driven: Scheduled) -> None:
    driven.put(cron="0 3 * * *")
    before = list(driven.row().next_ms)
    driven.write()
    driven.reopen()
    driven.run_due()
    assert list(driven.row().next_ms) == before
    assert driven.shard.take_effects() is None


@pytest.mark.parametrize(
    ("policy", "most", "fired", "missed"),
    [("one", 100, (59,), 59), ("skip", 100, (), 60), ("all", 100, tuple(range(60)), 0), ("all", 3, (57, 58, 59), 57)],
)
def test_missed_instants_follow_the_misfire_policy(
    driven: Scheduled, policy: str, most: int, fired: tuple[int, ...], missed: int
) -> None:
    driven.put(cron="* * * * *", misfire=policy, misfire_max=most)
    driven.jump(FIRST + 59 * MINUTE + MINUTE // 2 - driven.wall)
    assert driven.fires() == minutes(*fired)
    assert driven.row().missed_total == missed
    driven.pass_time(MINUTE)
    assert driven.fires() == minutes(*fired, 60)
    driven.write()


def test_misfire_of_many_instants_jumps_to_the_latest(driven: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeq_server.engine.calendars.MISSED_COUNTED_MAX", 50)
    driven.put(cron="* * * * *", misfire="all", misfire_max=10)
    driven.jump(FIRST + 5000 * MINUTE + MINUTE // 2 - driven.wall)
    assert driven.fires() == minutes(*range(4991, 5001))
    assert driven.row().missed_total >= 50


def test_instant_within_the_grace_fires_whatever_the_misfire_policy(driven: Scheduled) -> None:
    driven.put(cron="* * * * *", misfire="skip")
    driven.jump(FIRST + firing.GRACE_MS - driven.wall)
    assert driven.fires() == [FIRST]
    driven.jump(FIRST + MINUTE + firing.GRACE_MS + 1 - driven.wall)
    assert driven.fires() == [FIRST]
    assert driven.row().missed_total == 1


def test_pause_holds_instants_back_and_resume_applies_the_misfire_policy(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    defining.set_paused(driven.shard, schedule, driven.now, paused=True)
    driven.pass_time(10 * MINUTE)
    assert driven.fires() == []
    defining.set_paused(driven.shard, schedule, driven.now, paused=False)
    driven.run_due()
    assert driven.fires() == minutes(9)
    assert driven.row().missed_total == 9


@pytest.mark.parametrize(("policy", "fired"), [("one", [20]), ("skip", []), ("all", list(range(1, 21)))])
@pytest.mark.parametrize("complete", [False, True])
def test_misfire_policy_applies_to_every_instant_of_a_pause_however_late_it_is(
    driven: Scheduled, policy: str, fired: list[int], complete: bool
) -> None:
    end_ms = FIRST + 30_000 if complete else 0
    schedule = driven.put(every="1s", start_ms=FIRST, end_ms=end_ms, misfire=policy)
    driven.pass_time(FIRST - driven.wall)
    defining.set_paused(driven.shard, schedule, driven.now, paused=True)
    driven.pass_time(20_500)
    defining.set_paused(driven.shard, schedule, driven.now, paused=False)
    driven.run_due()
    assert driven.fires() == [FIRST] + [FIRST + number * 1000 for number in fired]
    assert driven.row().missed_total == 20 - len(fired)
    driven.write()
    driven.reopen()
    driven.pass_time(2_000)
    assert driven.fires()[-2:] == [FIRST + 21_000, FIRST + 22_000]
    assert driven.row().missed_total == 20 - len(fired)
    driven.write()


def test_definition_that_ends_a_pause_applies_the_misfire_policy_as_well(driven: Scheduled) -> None:
    driven.put(every="1s", start_ms=FIRST, paused=True)
    driven.pass_time(FIRST + 5_500 - driven.wall)
    driven.put(every="1s", start_ms=FIRST, paused=False)
    driven.run_due()
    assert driven.fires() == [FIRST + 5_000]
    assert driven.row().missed_total == 5


def test_skip_leaves_instants_out_while_a_task_waits_or_runs(driven: Scheduled) -> None:
    driven.put(cron="* * * * *", overlap="skip")
    driven.pass_time(3 * MINUTE)
    assert driven.fires() == minutes(0)
    driven.claim_ids(1, lease=3_600_000)
    driven.pass_time(MINUTE)
    assert driven.fires() == minutes(0)
    assert driven.row().skipped_total == 3
    driven.settle(driven.task_ids()[0])
    driven.pass_time(MINUTE)
    assert driven.fires() == minutes(0, 4)
    driven.write()


def test_queue_one_fires_the_first_waiting_instant_after_the_task_has_ended(driven: Scheduled) -> None:
    driven.put(cron="* * * * *", overlap="queueOne")
    driven.pass_time(4 * MINUTE)
    assert driven.fires() == minutes(0)
    assert (driven.row().queued_ms, driven.row().skipped_total) == (minutes(1)[0], 2)
    driven.jump(1000)
    driven.claim_ids(1, lease=3_600_000)
    driven.settle(driven.task_ids()[0])
    driven.pass_time(2 * firing.LOOK_MS)
    assert driven.fires() == minutes(0, 1)
    assert driven.row().queued_ms == 0


def test_cancel_running_cancels_the_earlier_task_in_the_batch_of_the_next(driven: Scheduled) -> None:
    driven.put(cron="* * * * *", overlap="cancelRunning")
    driven.pass_time(MINUTE)
    driven.claim_ids(1, lease=3_600_000)
    driven.pass_time(MINUTE)
    first, second = driven.task_ids()
    assert (driven.status(first), driven.status(second)) == ("CANCELLED", "PENDING")
    assert driven.view(first).error == "REPLACED"
    assert list(driven.row().running) == [second]


def test_refused_fire_is_tried_again_until_it_has_been_missed(driven: Scheduled) -> None:
    driven.put(cron="* * * * *", misfire="skip")
    driven.shard.storage_full = True
    driven.pass_time(FIRST + 6_000 - driven.wall)
    assert driven.fires() == []
    driven.shard.storage_full = False
    driven.pass_time(firing.RETRY_MS)
    assert driven.fires() == [FIRST]
    driven.shard.storage_full = True
    driven.pass_time(MINUTE + 2 * firing.GRACE_MS)
    driven.shard.storage_full = False
    driven.pass_time(MINUTE - 2 * firing.GRACE_MS)
    assert driven.fires() == minutes(0, 2)
    assert driven.row().missed_total == 1


def test_tasks_of_a_schedule_follow_the_policy_of_their_command(driven: Scheduled) -> None:
    policy = rows_pb2.PolicyRow(priority_tiers=[2, 7], default_priority=7, max_attempts=3, default_expire_seconds=9)
    driven.shard.policies.put(TENANT, "a", policy, driven.wall)
    driven.put(cron="* * * * *")
    driven.put("odd", cron="* * * * *", priority=5)
    driven.pass_time(MINUTE)
    task = Task.FromString(driven.view(driven.task_ids()[0]).raw)
    assert (task.priority, task.max_attempts) == (7, 3)
    assert task.expire_at.ToMilliseconds() == task.created_at.ToMilliseconds() + 9_000
    assert driven.fires("odd") == []
    with pytest.raises(Rejection, match="priorityTiers") as caught:
        defining.trigger(driven.shard, defining.find(driven.shard, TENANT, "odd"), driven.now)
    assert caught.value.reason is Reason.POLICY_VIOLATION
    driven.shard.policies.delete(TENANT, "a")
    driven.pass_time(firing.RETRY_MS)
    assert driven.fires("odd") == driven.fires()


def test_quota_refuses_a_fire_and_changes_nothing(driven: Scheduled) -> None:
    driven.put(cron="* * * * *")
    driven.shard.tenants.put(TENANT, tuple(1 if name == "waiting_tasks_max" else None for name in NO_LIMITS._fields))
    driven.pass_time(2 * MINUTE)
    assert driven.fires() == minutes(0)
    driven.claim_ids(1, lease=3_600_000)
    driven.pass_time(firing.RETRY_MS)
    assert driven.fires() == minutes(0, 1)


def test_jitter_delays_fires_but_never_past_the_next_instant(driven: Scheduled) -> None:
    driven.put(every="10s", jitter_ms=9_000)
    driven.put("wide", every="10s", jitter_ms=3_600_000)
    driven.pass_time(10 * MINUTE)
    for name in ("s", "wide"):
        schedule = defining.find(driven.shard, TENANT, name)
        late = [fire.fired_ms - fire.instant_ms for fire in defining.history(driven.shard, schedule)]
        assert all(0 <= each <= 10_000 for each in late)
    assert len(driven.fires()) in {59, 60}
    late = [f.fired_ms - f.instant_ms for f in defining.history(driven.shard, defining.find(driven.shard, TENANT, "s"))]
    assert len(set(late)) > 20
    assert max(late) > 5_000


def test_one_shot_fires_once_and_is_finished(driven: Scheduled) -> None:
    driven.put(at_ms=START_MS + 5_000)
    driven.pass_time(60 * MINUTE)
    assert driven.fires() == [START_MS + 5_000]
    assert driven.row().complete
    assert not driven.row().next_ms


def test_schedule_fires_only_between_its_start_and_its_end(driven: Scheduled) -> None:
    driven.put(cron="* * * * *", start_ms=minutes(3)[0], end_ms=minutes(5)[0])
    driven.pass_time(20 * MINUTE)
    assert driven.fires() == minutes(3, 4, 5)


def test_interval_counts_from_the_creation_or_the_start(driven: Scheduled) -> None:
    driven.put(every="90s")
    driven.put("started", every="1h", start_ms=minutes(2)[0])
    driven.pass_time(4 * MINUTE)
    assert driven.fires() == [START_MS // 1000 * 1000 + 90_000, START_MS // 1000 * 1000 + 180_000]
    assert driven.fires("started") == minutes(2)


def test_trigger_fires_a_paused_schedule_and_its_task_counts_as_running(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *", overlap="skip", paused=True)
    made = [defining.trigger(driven.shard, schedule, driven.now).task_id for _ in range(2)]
    assert made[0] != made[1]
    assert list(driven.row().running) == made
    defining.set_paused(driven.shard, schedule, driven.now, paused=False)
    driven.pass_time(MINUTE)
    assert driven.task_ids() == made
    assert driven.row().skipped_total == 1


def test_backfill_creates_each_past_task_once(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    driven.pass_time(3 * MINUTE)
    past = minutes(-2, -1, 0, 1)
    made = defining.backfill(driven.shard, schedule, past, driven.now)
    assert [fire.fired_ms > 0 for fire in made] == [True, True, False, False]
    assert driven.task_ids()[:2] == [fire.task_id for fire in made[2:]]
    again = defining.backfill(driven.shard, schedule, past, driven.now)
    assert all(fire.fired_ms == 0 for fire in again)
    assert driven.queue().ready == 5
    driven.write()


def test_backfill_ends_at_a_refused_instant(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    driven.shard.tenants.put(TENANT, tuple(2 if name == "waiting_tasks_max" else None for name in NO_LIMITS._fields))
    assert len(defining.backfill(driven.shard, schedule, minutes(-3, -2, -1), driven.now)) == 2
    with pytest.raises(Rejection, match="waitingTasksMax"):
        defining.backfill(driven.shard, schedule, minutes(-1), driven.now)


def test_history_keeps_the_last_hundred_fires(driven: Scheduled) -> None:
    driven.put(cron="* * * * *")
    driven.pass_time(130 * MINUTE)
    driven.write()
    assert driven.fires() == minutes(*range(30, 130))
    assert driven.row().fired_total == 130


def test_new_definition_fires_with_new_ids_and_keeps_history_and_totals(driven: Scheduled) -> None:
    driven.put(cron="* * * * *")
    driven.pass_time(2 * MINUTE)
    generation = driven.row().generation
    driven.put(cron="* * * * *")
    assert driven.row().generation == generation
    driven.put(cron="* * * * *", priority=1)
    assert driven.row().generation > generation
    driven.pass_time(MINUTE)
    assert driven.fires() == minutes(0, 1, 2)
    assert driven.row().fired_total == 3


def test_schedule_created_again_reuses_no_id_of_its_predecessor(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    driven.pass_time(2 * MINUTE)
    ids = driven.task_ids()
    driven.write()
    defining.remove(driven.shard, schedule)
    driven.write()
    assert driven.store.scan(*keys.table_rows(keys.FIRES), 10) == []
    again = driven.put(cron="* * * * *")
    made = defining.backfill(driven.shard, again, minutes(0, 1), driven.now)
    assert all(fire.fired_ms for fire in made)
    assert not {fire.task_id for fire in made} & set(ids)


def test_removed_schedule_fires_no_more(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    defining.remove(driven.shard, schedule)
    driven.pass_time(5 * MINUTE)
    assert ("acme", "a") not in driven.shard.by_name
    with pytest.raises(Rejection, match="there is no schedule 's'"):
        defining.find(driven.shard, TENANT, "s")


def test_instants_computed_for_an_earlier_definition_are_dropped(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    row = driven.row()
    driven.put(cron="30 * * * *")
    stale = defining.Instants([row.next_ms[-1] + MINUTE], complete=False, tzdata="old")
    before = driven.row()
    defining.extend(driven.shard, schedule, row.generation, defining.last_known(row), stale, driven.now)
    assert driven.row() == before


def test_recompute_replaces_stored_instants(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    row = driven.row()
    moved = defining.Instants(minutes(7, 8), complete=False, tzdata="new")
    assert defining.recompute(driven.shard, schedule, row.generation, row.after_ms, moved, driven.now)
    assert (list(driven.row().next_ms), driven.row().tzdata) == (minutes(7, 8), "new")
    assert not defining.recompute(driven.shard, schedule, row.generation + 1, row.after_ms, moved, driven.now)
    driven.pass_time(10 * MINUTE)
    assert driven.fires() == minutes(7, 8, 9)


def test_tenant_has_a_limited_number_of_schedules(driven: Scheduled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "TENANT_SCHEDULES_MAX", 2)
    driven.put("one", cron="* * * * *")
    driven.put("two", cron="* * * * *")
    driven.put("two", cron="30 * * * *")
    with pytest.raises(Rejection, match="the tenant has 2 schedules, its limit"):
        driven.put("three", cron="* * * * *")
    computed_instants.put(driven.shard, driven.now, "three", tenant="other", cron="* * * * *")
    monkeypatch.setattr(schedules, "SCHEDULES_MAX", 3)
    with pytest.raises(Rejection, match="the server has 3 schedules, its limit"):
        computed_instants.put(driven.shard, driven.now, "four", tenant="third", cron="* * * * *")


def test_tenants_take_turns_when_many_schedules_are_due(driven: Scheduled) -> None:
    for number in range(600):
        driven.put(f"s{number}", cron="* * * * *")
    computed_instants.put(driven.shard, driven.now, tenant="other", cron="* * * * *")
    driven.write()
    driven.wall = FIRST
    assert firing.fire_due(driven.shard, driven.now)
    assert ("other", "a") in driven.shard.by_name
    driven.run_due()
    assert driven.queue().ready == 600


def test_checker_reports_lost_and_left_over_rows_of_schedules(driven: Scheduled) -> None:
    schedule = driven.put(cron="* * * * *")
    driven.pass_time(3 * MINUTE)
    driven.write()
    lost = {tenant_keys.fire_key(schedule.key, 2): None}
    assert "fires from 2 on are missing" in _found(driven, lost)
    assert "fires from 3 to 3 are missing" in _found(driven, {tenant_keys.fire_key(schedule.key, 3): None})
    left = {tenant_keys.fire_key(schedule.key, 4): rows_pb2.FireRow(kind=1, task_id="x").SerializeToString()}
    assert "is no fire that its schedule keeps" in _found(driven, left)
    assert "its schedule has no row" in _found(driven, {schedule.key: None})
    row = driven.row()
    row.after_ms = row.next_ms[-1]
    assert "the next instants do not ascend" in _found(driven, {schedule.key: row.SerializeToString()})


def _found(driven: Scheduled, changes: dict[bytes, bytes | None]) -> str:
    """Returns the checker's findings on the written rows with these changes."""
    rows = dict(driven.store.scan(b"", b"\xff", 100_000)) | changes
    return " ".join(
        str(each) for each in check((key, value) for key, value in sorted(rows.items()) if value is not None)
    )


def test_checks_of_payloads_end_a_slice_and_count_as_its_cost(driven: Scheduled) -> None:
    class SlowChecker:
        def __init__(self) -> None:
            self.steps = 0

        def misfit(self, schema: bytes, payload: bytes) -> str:  # noqa: ARG002
            self.steps += STEPS_PER_TURN
            return ""

    shard = driven.shard
    shard.policies.checker = SlowChecker()
    names = ["a", "b", "c"]
    for name in names:
        driven.put(name, command="checked", cron="* * * * *")
    shard.policies.put(TENANT, "checked", rows_pb2.PolicyRow(payload_schema=b"{}"), driven.now.wall_ms)
    driven.wall = FIRST
    for count in range(1, len(names) + 1):
        before = timers.worked(shard)
        assert firing.fire_due(shard, driven.now) == (count < len(names))
        assert shard.totals.fired == count
        assert timers.worked(shard) - before >= STEPS_PER_TURN // STEPS_PER_COST


@pytest.mark.parametrize("shard", range(4))
def test_tasks_of_instants_lead_to_the_shard_of_their_schedule(shard: int) -> None:
    driven = Scheduled(route=ids.Route(shard, 4))
    driven.put(cron="* * * * *")
    driven.pass_time(20 * MINUTE)
    assert {ids.shard_of(task_id, 4) for task_id in driven.task_ids()} == {shard}
    assert len(set(driven.task_ids())) == 20
