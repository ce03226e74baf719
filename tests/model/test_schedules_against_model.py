"""Schedules against their promises in the simplest form: random lives with late timers, set clocks and crashes.

Each instant that has passed was fired, skipped, missed, or waits: exactly one of these, once, and none before its time.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from datetime import datetime

import computed_instants
import pytest
from codeq.v1.task_pb2 import Task
from codeq_internal.v1 import rows_pb2
from codeq_server.core import claims, defining, firing, keys, outcomes, recovery, schedules, timers
from codeq_server.core.clock import Now
from codeq_server.core.model import Caller, id_of
from codeq_server.core.shard import ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.engine import calendars
from codeq_server.storage.check import check
from codeq_server.storage.memory import MemoryStore
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from search import SEARCH_SECONDS, search

EXAMPLES_LEAST = 400
NAMES = ("x", "y")
WORKER = Caller("acme", "w", "w")
POLICIES = ("allow", "skip", "queueOne", "cancelRunning")


@dataclass
class Kept:
    """A schedule: its interval, when its definition came into force, and the instants settled before that."""

    every_ms: int
    anchor_ms: int
    since_ms: int
    settled: int
    paused: bool
    others: int = 0
    """Fires by triggers and backfills."""


@dataclass
class Model:
    kept: dict[str, Kept] = field(default_factory=dict)


class ScheduleLives(RuleBasedStateMachine):
    """Drives a shard that has nothing but schedules and their tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.durable = Model(), Model()
        self.store = MemoryStore()
        self.wall, self.mono, self.epoch = 1_700_000_000_500, 5_000, 7

    @initialize()
    def reopen(self) -> None:
        self.epoch += 1
        identity = rows_pb2.IdentityRow(format=keys.FORMAT, num_shards=1, cluster_id=b"c" * 16, epoch=self.epoch)
        self.store.write({keys.IDENTITY: identity.SerializeToString()})
        settings = ShardSettings(retention_ms=20_000, queue_idle_ms=50_000)
        self.shard = recovery.open_shard(self.store, settings, self.epoch, self.wall, self.mono)

    def now(self) -> Now:
        return self.shard.at(self.wall, self.mono)

    def row(self, name: str) -> rows_pb2.ScheduleRow:
        return firing.row_of(self.shard, defining.find(self.shard, "acme", name))

    def settled(self, row: rows_pb2.ScheduleRow) -> int:
        """Returns how many instants were fired, left out, or wait; triggers and backfills count, too."""
        return row.fired_total + row.skipped_total + row.missed_total + bool(row.queued_ms)

    # -- administrators ----------------------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(NAMES),
        seconds=st.sampled_from([1, 2, 7, 60]),
        overlap=st.sampled_from(POLICIES),
        misfire=st.sampled_from(["one", "skip", "all"]),
        most=st.sampled_from([1, 3, 100]),
        jitter=st.sampled_from([0, 0, 3000]),
        paused=st.booleans(),
    )
    def put(self, name: str, seconds: int, overlap: str, misfire: str, most: int, jitter: int, paused: bool) -> None:
        self.run_due()
        now, known = self.now(), self.model.kept.get(name)
        given = {"every": f"{seconds}s", "overlap": overlap, "misfire": misfire, "misfire_max": most}
        payload = f'"{name} {{{{scheduledAt}}}}"'.encode()
        before = self.row(name).generation if known else 0
        computed_instants.put(
            self.shard, now, name, payload=payload, jitter_ms=jitter, paused=paused, command=name, **given
        )
        row = self.row(name)
        if row.generation == before and known:
            known.paused = paused
            return
        anchor = row.created_ms // 1000 * 1000
        self.model.kept[name] = Kept(seconds * 1000, anchor, now.wall_ms, self.settled(row), paused)

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data(), paused=st.booleans())
    def pause(self, data: st.DataObject, paused: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.kept)))
        defining.set_paused(self.shard, defining.find(self.shard, "acme", name), self.now(), paused=paused)
        self.model.kept[name].paused = paused

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.kept)))
        defining.remove(self.shard, defining.find(self.shard, "acme", name))
        del self.model.kept[name]

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data())
    def trigger(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.kept)))
        made = defining.trigger(self.shard, defining.find(self.shard, "acme", name), self.now())
        assert made.kind == firing.TRIGGER
        self.model.kept[name].others += 1

    @precondition(lambda self: self.model.kept)
    @rule(data=st.data(), back=st.integers(1, 5))
    def backfill(self, data: st.DataObject, back: int) -> None:
        """Past instants get their tasks, unless these are stored; a second backfill finds all of them."""
        name = data.draw(st.sampled_from(sorted(self.model.kept)))
        kept, now = self.model.kept[name], self.now()
        last = kept.anchor_ms + (now.wall_ms - kept.anchor_ms) // kept.every_ms * kept.every_ms
        past = [each for each in range(last - back * kept.every_ms, last, kept.every_ms) if each < kept.since_ms]
        schedule = defining.find(self.shard, "acme", name)
        made = defining.backfill(self.shard, schedule, past, now)
        kept.others += sum(fire.fired_ms > 0 for fire in made)
        again = defining.backfill(self.shard, schedule, past, now)
        assert [fire.task_id for fire in again] == [fire.task_id for fire in made]
        assert all(fire.fired_ms == 0 for fire in again)

    # -- workers and time --------------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 5), ends=st.booleans())
    def work(self, count: int, ends: bool) -> None:
        now = self.now()
        claimed = claims.claim(self.shard, WORKER, None, count, 1 << 20, 30_000, now)
        for key, raw, _ in claimed[1] if claimed else ():
            name, _, instant = Task.FromString(raw).payload.decode().strip('"').partition(" ")
            assert name in NAMES
            assert datetime.fromisoformat(instant).timestamp() * 1000 <= now.wall_ms
            if ends:
                outcomes.settle(self.shard, WORKER, id_of(key), None, Outcome.COMPLETED, b"1", "", None, 0.5, now)

    @rule(ms=st.sampled_from([1, 999, 2000, 15_000, 61_000]))
    def pass_time(self, ms: int) -> None:
        end = self.mono + ms
        self.run_due()
        while self.mono < end:
            wait = timers.next_wake(self.shard, self.now())
            step = max(1, min(end - self.mono, ms if wait is None else wait))
            self.wall, self.mono = self.wall + step, self.mono + step
            self.run_due()
        self.check_totals()

    @rule(ms=st.sampled_from([1, 3000, 11_000, 600_000]))
    def lag(self, ms: int) -> None:
        """Time passes, but timers and the calendar are late."""
        self.wall, self.mono = self.wall + ms, self.mono + ms

    @rule(ms=st.sampled_from([-3_600_000, -20_000, 3_600_000]))
    def set_clock(self, ms: int) -> None:
        self.wall += ms

    @rule()
    def run_slice(self) -> None:
        timers.run_due(self.shard, self.now())

    def run_due(self) -> None:
        while timers.run_due(self.shard, self.now()) or computed_instants.compute(self.shard, self.now()):
            pass

    def check_totals(self) -> None:
        """Every instant that has passed was settled once; jitter may hold back the last one."""
        self.run_due()
        now = self.now().wall_ms
        for name, kept in self.model.kept.items():
            if kept.paused:
                continue
            row = self.row(name)
            passed = sum(1 for each in _instants(kept, now) if each not in row.next_ms)
            assert self.settled(row) - kept.settled - kept.others == passed, name
            assert all(each > now or row.jitter_ms for each in row.next_ms), name

    # -- batches -----------------------------------------------------------------------------------------------------

    @rule()
    def write(self) -> None:
        """The open batch reaches the store; the rows are consistent, and hold no instant's task twice."""
        self.shard.seal(self.now())
        batch = self.shard.in_flight[0]
        self.store.write(batch.rows)
        self.shard.settled(batch.lsn)
        self.durable = copy.deepcopy(self.model)
        assert [str(found) for found in check(self.store.scan(b"", b"\xff", 1 << 30))] == []
        self.check_overlap()

    def check_overlap(self) -> None:
        """A schedule that allows no overlap has at most one task that neither a trigger nor a backfill made."""
        for name in self.model.kept:
            row = self.row(name)
            schedule = defining.find(self.shard, "acme", name)
            if row.overlap == "allow":
                assert not row.running
                continue
            live = [i for i in row.running if not firing._has_ended(self.shard, "acme", i)]
            made = {f.task_id for f in defining.history(self.shard, schedule) if f.kind == firing.INSTANT}
            assert len(set(live) & made) <= 1, name

    @rule(down_ms=st.sampled_from([0, 0, 1, 9_000, 100_000]))
    def crash(self, down_ms: int) -> None:
        """The open batch is lost."""
        self.wall, self.mono = self.wall + down_ms, 77
        self.model = copy.deepcopy(self.durable)
        self.reopen()


def _instants(kept: Kept, now: int) -> range:
    """Returns the instants of a definition since it came into force."""
    first = kept.anchor_ms + ((kept.since_ms - kept.anchor_ms) // kept.every_ms + 1) * kept.every_ms
    return range(max(first, kept.anchor_ms + kept.every_ms), now + 1, kept.every_ms)


@pytest.mark.timeout(3600)
def test_schedules_keep_their_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (firing, "TURN_FIRES", 2),
        (schedules, "HISTORY_MAX", 5),
        (firing, "HISTORY_MAX", 5),
        (defining, "HISTORY_MAX", 5),
        (calendars, "STEPS_MAX", 3),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("codeq_server.storage.checker_schedules.HISTORY_MAX", 5)
    search(ScheduleLives, EXAMPLES_LEAST, steps=40, seconds=SEARCH_SECONDS / 4)
