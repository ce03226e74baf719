"""The core against the reference model: random lives of tasks, with batches in flight, crashes and late timers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from accepted_tasks import create
from choices import Choices
from codeq.v1.task_pb2 import Task as TaskMessage
from codeq_internal.v1 import rows_pb2
from codeq_server.core import claims, heartbeats, keys, lookup, outcomes, reads, recovery, timers, withdrawal
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.batch import SealedBatch
from codeq_server.core.clock import Now
from codeq_server.core.errors import Rejection
from codeq_server.core.history import End as History
from codeq_server.core.ids import parse_id
from codeq_server.core.model import WINDOW_BYTES, WINDOW_ENTRY_BYTES, Caller, Name, TaskKey, id_of
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.storage.check import check
from codeq_server.storage.memory import MemoryStore
from expiring import Expiries, ExpiringTask, expiring
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from named_work import COMMANDS, TENANTS, NamedWork
from of_tenants import OfTenants
from reference import RETENTION_MS, Lease, Model, Refused, Task, Words
from search import SEARCH_SECONDS, search
from tiny_limits import CLAIM_MAX, make_limits_tiny

BACKOFF_MS = 1000
CALLERS = [Caller(tenant, *who) for tenant in TENANTS for who in (("w", "w"), ("w/1", "w"), ("v", "v"))]
EXAMPLES_LEAST = 1000


def key_of(task: Task) -> TaskKey:
    """Returns the shard's key for a task."""
    return Name(task.tenant, task.task_id) if parse_id(task.task_id) is None else task.task_id


class CoreBesideModel(NamedWork, Expiries, OfTenants, Choices, RuleBasedStateMachine):
    """Drives core and model with the same calls; after each call both must look the same to a caller."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.store = MemoryStore()
        self.wall, self.mono, self.epoch = 1_700_000_000_000, 5_000, 7
        self.top_token = 0
        self.in_flight: list[tuple[SealedBatch, Model]] = []
        self.unsettled: list[int] = []
        """Numbers of batches that are written but not yet reported to the shard."""
        self.durable = Model()
        self.delivered: list[tuple[str, int, Caller]] = []

    @initialize(window_bytes=st.sampled_from([1, 1500, 5000, 1 << 20]))
    def open(self, window_bytes: int) -> None:
        self.settings = ShardSettings(
            backoff_policy=BackoffPolicy.FIXED,
            backoff_base_seconds=BACKOFF_MS // 1000,
            retention_ms=RETENTION_MS[False],
            dlq_retention_ms=RETENTION_MS[True],
            window_bytes_max=window_bytes,
            queue_idle_ms=2_000,
        )
        self.reopen()

    def reopen(self) -> None:
        self.epoch += 1
        identity = rows_pb2.IdentityRow(format=keys.FORMAT, num_shards=1, cluster_id=b"c" * 16, epoch=self.epoch)
        self.store.write({keys.IDENTITY: identity.SerializeToString()})
        self.shard = self.opened()

    def opened(self) -> Shard:
        return recovery.open_shard(self.store, self.settings, self.epoch, self.wall, self.mono)

    def now(self) -> Now:
        return self.shard.at(self.wall, self.mono)

    # -- calls -----------------------------------------------------------------------------------------------------

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        priority=st.sampled_from([0, 5, 9]),
        max_attempts=st.integers(1, 3),
        delays=st.lists(st.sampled_from([0, 0, 0, 1, 500, 7000]), min_size=1, max_size=5),
        size=st.sampled_from([2, 300]),
        expire=st.sampled_from([0, 0, 0, 1, 1000, 5500]),
    )
    def create(
        self, tenant: str, command: str, priority: int, max_attempts: int, delays: list[int], size: int, expire: int
    ) -> None:
        now = self.now()
        until, payload = (now.wall_ms + expire if expire else 0), b"1" * size
        for delay in delays:
            due = now.wall_ms + delay if delay else 0
            if self.model.room(tenant) < 1:
                with pytest.raises(Rejection, match="waitingTasksMax"):
                    create(self.shard, tenant, command, payload, priority, max_attempts, due, now, until)
                continue
            task_id, raw = create(self.shard, tenant, command, payload, priority, max_attempts, due, now, until)
            assert (tenant, task_id) not in self.model.tasks
            assert TaskMessage.FromString(raw).payload == payload
            task = ExpiringTask(task_id, tenant, command, priority, max_attempts, payload, expire=until)
            self.model.create([task], due, now.wall_ms)
            self.note_homes(tenant, [task_id])

    @rule(
        caller=st.sampled_from(CALLERS),
        commands=st.one_of(st.none(), st.lists(st.sampled_from(COMMANDS), min_size=1, unique=True)),
        count=st.integers(1, 6),
        lease_ms=st.sampled_from([1000, 5000]),
        small=st.booleans(),
        by_policy=st.booleans(),
    )
    def claim(
        self, caller: Caller, commands: list[str] | None, count: int, lease_ms: int, small: bool, by_policy: bool
    ) -> None:
        now, own = self.now(), self.model.leases
        most = 1 if small else 1 << 20
        got = claims.claim(self.shard, caller, commands, count, most, lease_ms, now, by_policy=by_policy)
        lengths = {command: own.get((caller.tenant, command)) or lease_ms for command in COMMANDS}
        delivered = [] if got is None else got[1]
        self.check_choice(
            caller.tenant,
            commands or COMMANDS,
            [self.model.tasks[caller.tenant, id_of(d.task_id)] for d in delivered],
            1 if small else min(count, CLAIM_MAX),
            lengths if by_policy else None,
        )
        if got is None:
            return
        token = got[0].token
        if by_policy:
            lease_ms = lengths[self.model.tasks[caller.tenant, id_of(delivered[0].task_id)].command]
        assert token > self.top_token
        self.top_token = token
        lease = Lease(token, caller, lease_ms, now.mono_ms + lease_ms, lease_ms, now.wall_ms)
        for key, raw, attempts in delivered:
            task_id = id_of(key)
            task = self.model.tasks[caller.tenant, task_id]
            self.model.claim(task, lease)
            message = TaskMessage.FromString(raw)
            assert (message.command, message.payload) == (task.command, task.payload)
            assert (message.priority, message.max_attempts) == (task.priority, task.max_attempts)
            assert attempts == task.attempts
            self.delivered.append((task_id, token, caller))

    def both(self, core: Callable[[], Any], model: Callable[[], Any]) -> None:
        """Checks that core and model give the same answer, or reject for the same reason."""
        refused, expected = "", None
        try:
            expected = model()
        except Refused as refusal:
            refused = str(refusal)
        if refused:
            with pytest.raises(Rejection) as rejected:
                core()
            assert rejected.value.reason.name == refused
        else:
            assert core() == expected

    @precondition(lambda self: self.delivered)
    @rule(
        data=st.data(),
        words=st.sampled_from(
            [
                ("COMPLETED", b"{}", ""),
                ("COMPLETED", None, ""),
                ("FAILED", None, "no"),
                ("FAILED", None, "never"),
                ("NACK", None, ""),
                ("NACK", None, "later"),
                ("ABANDON", None, ""),
                ("ABANDON", None, ""),
            ]
        ),
        delay=st.sampled_from([None, 0, 0, 1, 800]),
        spoil=st.sampled_from(["", "", "", "", "", "", "no token", "no token", "caller", "token", "id"]),
        repeat=st.booleans(),
    )
    def settle(self, data: st.DataObject, words: Words, delay: int | None, spoil: str, repeat: bool) -> None:
        task_id, token, caller = self.pick(data)
        said: int | None = token
        if spoil == "no token":
            said = None
        elif spoil == "token":
            said = token + 1
        elif spoil == "caller":
            caller = data.draw(st.sampled_from(CALLERS))
        elif spoil == "id":
            task_id = task_id[:-1] + "7"
        now = self.now()
        for _ in range(2 if repeat else 1):
            self.settle_both(caller, task_id, said, words, delay, now)

    def settle_both(
        self, caller: Caller, task_id: str, token: int | None, words: Words, delay: int | None, now: Now
    ) -> None:
        model_delay = BACKOFF_MS * (words[0] == "NACK") if delay is None else delay
        self.both(
            lambda: self.settle_core(caller, task_id, token, words, delay, now),
            lambda: self.model.settle(caller, task_id, token, words, model_delay, now.wall_ms),
        )

    def settle_core(
        self, caller: Caller, task_id: str, token: int | None, words: Words, delay: int | None, now: Now
    ) -> tuple[str, int]:
        kind, result, error = words
        # A worker's stream tries `complete` first, and falls back to `settle`.
        usual = kind == "COMPLETED" and token is not None and result is not None
        if usual and outcomes.complete(self.shard, caller, task_id, token or 0, result, now):
            return kind, 0
        verdict = outcomes.settle(self.shard, caller, task_id, token, Outcome[kind], result, error, delay, 0.5, now)
        return verdict.status.name, verdict.delay_ms

    def pick(self, data: st.DataObject) -> tuple[str, int, Caller]:
        """Returns a delivery, usually a recent one."""
        recent = self.delivered[-4:] if data.draw(st.booleans()) else self.delivered
        return data.draw(st.sampled_from(recent))

    @precondition(lambda self: self.shard.claims)
    @rule(
        data=st.data(),
        words=st.sampled_from([("COMPLETED", b"{}", ""), ("FAILED", None, "no"), ("NACK", None, "")]),
        keep=st.integers(0, 1),
    )
    def settle_claim(self, data: st.DataObject, words: Words, keep: int) -> None:
        """A worker reports the same outcome for all its deliveries, or for all but one."""
        token = data.draw(st.sampled_from(sorted(self.shard.claims)))
        now = self.now()
        held = [each for each in self.delivered if each[1] == token]
        for task_id, _, caller in held[keep:]:
            self.settle_both(caller, task_id, token, words, 0, now)

    @precondition(lambda self: self.delivered)
    @rule(
        data=st.data(),
        extend=st.sampled_from([None, 500, 3000, 9000]),
        spoil=st.sampled_from(["", "", "", "no token", "caller", "token"]),
    )
    def heartbeat(self, data: st.DataObject, extend: int | None, spoil: str) -> None:
        task_id, token, caller = self.pick(data)
        said = None if spoil == "no token" else token + (spoil == "token")
        if spoil == "caller":
            caller = data.draw(st.sampled_from(CALLERS))
        now = self.now()
        self.both(
            lambda: heartbeats.heartbeat(self.shard, caller, task_id, said, extend, now)[1] - now.wall_ms + now.mono_ms,
            lambda: self.model.heartbeat(caller, task_id, said, extend, now.mono_ms),
        )

    @precondition(lambda self: self.shard.claims)
    @rule(data=st.data())
    def close_stream(self, data: st.DataObject) -> None:
        """The server gives back the deliveries of a closed stream."""
        self.give_back(data.draw(st.sampled_from(sorted(self.shard.claims))))

    def give_back(self, token: int) -> None:
        now = self.now()
        claim = self.shard.claims[token]
        for task_id in list(claim.task_ids):
            delivery = self.shard.deliveries.get(task_id)
            if delivery is not None and delivery.claim is claim:
                del self.shard.deliveries[task_id]
                outcomes.give_back(self.shard, delivery, task_id, Outcome.BY_SERVER, now)
        held = [task for task in self.model.tasks.values() if task.lease and task.lease.token == token]
        self.model.move(held, now.wall_ms, ("BY_SERVER", None, ""))

    @precondition(lambda self: self.model.tasks)
    @rule(data=st.data(), reason=st.sampled_from(["", "no need"]), count=st.integers(1, 4))
    def cancel(self, data: st.DataObject, reason: str, count: int) -> None:
        tasks = list(self.model.tasks.values())
        first = data.draw(st.integers(0, len(tasks) - 1))
        now = self.now()
        for task in tasks[first : first + count]:
            self.both(
                lambda t=task: withdrawal.cancel(self.shard, t.tenant, t.task_id, reason, now),
                lambda t=task: self.model.cancel(t.tenant, t.task_id, reason, now.wall_ms),
            )

    @rule(tenant=st.sampled_from(TENANTS), command=st.sampled_from(COMMANDS), resumed=st.booleans())
    def pause(self, tenant: str, command: str, resumed: bool) -> None:
        """Resumes every queue, or pauses a queue, which need not exist."""
        if resumed:
            for queue in self.shard.queues.values():
                self.shard.resume(queue)
            self.model.paused.clear()
        else:
            self.shard.pause(self.shard.open_queue(tenant, command))
            self.model.paused.add((tenant, command))

    @rule(tenant=st.sampled_from(TENANTS))
    def look(self, tenant: str) -> None:
        """Queues show the first waiting task of each priority."""
        for view in reads.list_queues(self.shard, tenant, "", 10):
            heads = [w[0] for p in range(10) if (w := self.model.waiting(tenant, view.command, p))]
            shown = {TaskMessage.FromString(raw).priority for raw in view.heads}
            assert shown == {task.priority for task in heads}

    # -- time --------------------------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 499, 1000, 5000, 12_000]))
    def pass_time(self, ms: int) -> None:
        """Time passes, and every timer runs on time."""
        end = self.mono + ms
        self.run_due()
        while self.mono < end:
            wait = timers.next_wake(self.shard, self.now())
            step = max(1, min(end - self.mono, ms if wait is None else wait))
            self.wall, self.mono = self.wall + step, self.mono + step
            self.run_due()

    @rule(ms=st.sampled_from([1, 1000, 6000]))
    def lag(self, ms: int) -> None:
        """Time passes, but the timers are late."""
        self.wall, self.mono = self.wall + ms, self.mono + ms

    @rule(ms=st.sampled_from([-20_000, -1, 1000]))
    def set_clock(self, ms: int) -> None:
        """Sets the wall clock."""
        self.wall += ms

    @rule()
    def run_slice(self) -> None:
        self.run_due(slices=1)

    def run_due(self, slices: int = 10_000) -> None:
        now, more = self.now(), True
        while more and slices:
            more = timers.run_due(self.shard, now)
            slices -= 1
        self.expire(now, more=more)
        eligible = self.fallen_due(now)
        moved = [task for task in eligible if self.has_moved(task)]
        assert more or moved == eligible
        self.check_due_order(moved)
        self.model.move(sorted(moved, key=self.place), now.wall_ms)
        for task in self.forgettable(now):
            key = (task.tenant, task.task_id)
            if not self.exists(task):
                self.removed[self.homes[key]] = key
                del self.model.tasks[key]

    def held(self) -> set[tuple[str, str]]:
        """Returns tenants and commands of queues that deliver nothing."""
        return self.model.paused

    def fallen_due(self, now: Now) -> list[Task]:
        """Returns tasks whose lease has expired or whose delay is over."""
        tasks = self.model.tasks.values()
        return [t for t in tasks if (t.lease.until <= now.mono_ms if t.lease else 0 < t.due <= now.wall_ms)]

    def forgettable(self, now: Now) -> list[Task]:
        """Returns tasks whose retention is over."""
        return [task for task in self.model.tasks.values() if 0 < (task.kept_until or 0) <= now.wall_ms]

    def has_moved(self, task: Task) -> bool:
        if task.lease:
            return key_of(task) not in self.shard.deliveries
        return self.place(task) > 0

    def place(self, task: Task) -> int:
        """Returns the place at which a task is waiting in its lane; 0: it is not waiting."""
        state = self.shard.state(*lookup.find_home(self.shard, task.tenant, task.task_id))
        return state.place_at if state is not None and state.place == rows_pb2.PLACE_KIND_QUEUED else 0

    def check_due_order(self, moved: list[Task]) -> None:
        matured = [task for task in moved if not task.lease]
        for one in matured:
            for other in matured:
                if (one.command, one.priority, one.tenant) == (other.command, other.priority, other.tenant):
                    assert one.due >= other.due or self.place(one) < self.place(other)

    # -- batches -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.shard.batch and len(self.shard.in_flight) < 4)
    @rule()
    def seal(self) -> None:
        now = self.now()
        sealed = self.shard.seal(now)
        self.model.seal(now.wall_ms)
        self.in_flight.append((sealed, copy.deepcopy(self.model)))

    @precondition(lambda self: self.in_flight)
    @rule()
    def write(self) -> None:
        """The oldest batch in flight reaches the store; the rows are consistent."""
        sealed, self.durable = self.in_flight.pop(0)
        self.store.write(sealed.rows)
        self.unsettled.append(sealed.lsn)
        assert [str(found) for found in check(self.store.scan(b"", b"\xff", 1 << 30))] == []

    @precondition(lambda self: self.unsettled)
    @rule()
    def tell_shard(self) -> None:
        self.shard.settled(self.unsettled.pop(0))

    @rule(down_ms=st.sampled_from([0, 0, 1, 10_000]))
    def crash(self, down_ms: int) -> None:
        """Unwritten batches are lost; written batches are recovered, with leases rearmed at full length."""
        self.in_flight.clear()
        self.unsettled.clear()
        self.wall, self.mono = self.wall + down_ms, 77
        self.model = copy.deepcopy(self.durable)
        for lease in [task.lease for task in self.model.tasks.values() if task.lease]:
            lease.until = self.mono + max(lease.length, lease.longest)
        self.removed = {home: key for home, key in self.removed.items() if key not in self.model.tasks}
        self.reopen()
        for tenant, task_id in self.model.tasks:
            self.note_homes(tenant, [task_id])

    @rule()
    def quiesce(self) -> None:
        """All decided batches are written and all due work is done; then the rows alone must give the same state."""
        self.drain()
        now = self.now()
        assert self.forgettable(now) == []
        for home in self.removed:
            self.check_no_rows(home)
        wait = timers.next_wake(self.shard, now)
        ends = [kept - now.wall_ms for t in self.model.tasks.values() if (kept := t.kept_until or 0) > now.wall_ms]
        ends += [task.lease.until - now.mono_ms for task in self.model.tasks.values() if task.lease]
        ends += [task.due - now.wall_ms for task in self.model.tasks.values() if task.due]
        ends += [task.expire - now.wall_ms for task in expiring(self.model)]
        assert not ends or (wait is not None and 0 < wait <= min(ends))
        twin = self.opened()
        for task in self.model.tasks.values():
            lease = task.lease
            if lease is not None:
                until = self.mono + max(lease.length, lease.longest)
                key = key_of(task)
                assert twin.deliveries[key].claim.until_of(key) == until
        self.check_same(twin)
        self.check_usage(twin)
        self.check_usage(self.shard)

    def drain(self) -> None:
        """Writes batches and runs timers until neither has anything left."""
        self.run_due()
        while self.shard.batch or self.in_flight or self.unsettled:
            if self.shard.batch:
                self.seal()
            while self.in_flight:
                self.write()
            while self.unsettled:
                self.tell_shard()
            self.run_due()

    # -- invariants --------------------------------------------------------------------------------------------------

    @invariant()
    def same_to_see(self) -> None:
        self.check_same(self.shard)
        for key, delivery in self.shard.deliveries.items():
            lease = self.model.tasks[delivery.home.queue.tenant, id_of(key)].lease
            assert lease is not None
            assert delivery.claim.until_of(key) == lease.until
        live = sum(claim.live for claim in self.shard.claims.values())
        assert live == len(self.shard.deliveries)
        assert all(claim.live > 0 for claim in self.shard.claims.values())
        lanes = self.shard.loaded_lanes
        assert self.shard.windows_bytes == sum(lane.window_bytes for lane in lanes)
        for lane in lanes:
            entries = sum(len(entry.raw) + WINDOW_ENTRY_BYTES for entry in lane.window)
            assert lane.window_bytes == entries + WINDOW_BYTES

    def check_same(self, shard: Shard) -> None:
        now = self.now()
        for task in self.model.tasks.values():
            view = reads.get_task(shard, task.tenant, task.task_id, now)
            assert view.status.name == task.status
            assert (view.attempts, view.error, view.result) == (task.attempts, task.error, task.result)
            lease = task.lease
            assert (view.token, view.due_ms) == (lease.token if lease else None, task.due or None)
            assert lease is None or view.worker == lease.by[1]
            assert TaskMessage.FromString(view.raw).payload == task.payload
            told = [(e.worker, e.started_ms, e.ended_ms, History(e.end).name, e.error) for e in view.deliveries]
            assert told == task.history
        self.check_limits(shard)
        self.check_policies(shard)
        assert {(task.tenant, task.command) for task in self.model.tasks.values()} <= set(shard.by_name)
        for (tenant, command), queue in shard.by_name.items():
            assert queue.paused == ((tenant, command) in self.model.paused)
            found = [t.status for t in self.model.tasks.values() if (t.tenant, t.command) == (tenant, command)]
            counts = tuple(found.count(status) for status in ("PENDING", "SCHEDULED", "CLAIMED", "DLQ"))
            assert (queue.ready, queue.scheduled, queue.claimed, queue.dlq) == counts


@pytest.mark.timeout(3600)
def test_core_matches_the_reference_model(monkeypatch: pytest.MonkeyPatch) -> None:
    make_limits_tiny(monkeypatch)
    search(CoreBesideModel, EXAMPLES_LEAST, steps=60, seconds=SEARCH_SECONDS)
