"""Random work on a shard that is written, killed and reopened at random; the checker examines every written batch.

Constants of the core are made small, so that pages end, windows overflow and lists are truncated within a few tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from accepted_tasks import create
from codeq_server.core import (
    claims,
    heartbeats,
    lookup,
    names,
    outcomes,
    purging,
    recovery,
    redrive,
    timers,
    withdrawal,
)
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.batch import SealedBatch
from codeq_server.core.clock import Now
from codeq_server.core.errors import Rejection
from codeq_server.core.model import Caller, Name, TaskKey, id_of
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.reads import get_task
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.core.status import Outcome, Status
from codeq_server.storage.check import check
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import Store
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)
from search import search
from subscribing import Subscribing
from tiny_limits import make_limits_tiny

TENANTS = ("acme", "globex")
COMMANDS = ("email", "sms")
RETENTION_MS = 20_000
DLQ_RETENTION_MS = 60_000
QUEUE_IDLE_MS = 3_000
EVERYTHING = b"\xff" * 16
Key = TypeVar("Key", bound=TaskKey)


class ShardMachine(Subscribing):
    """A shard, its store, and the client's view: tasks that were created and ended in written batches."""

    lasting = frozenset({b"m", b"n"})
    """Tables whose rows outlive tasks and queues."""

    def make_store(self) -> Store:
        """Opens the store; called for each opening of the shard."""
        return self.store if hasattr(self, "store") else MemoryStore()

    @initialize(window_bytes=st.sampled_from([1, 1500, 1 << 20]))
    def start(self, window_bytes: int) -> None:
        self.settings = ShardSettings(
            max_attempts=3,
            backoff_policy=BackoffPolicy.EXP_FULL_JITTER,
            backoff_base_seconds=1,
            backoff_max_seconds=4,
            retention_ms=RETENTION_MS,
            dlq_retention_ms=DLQ_RETENTION_MS,
            window_bytes_max=window_bytes,
            queue_idle_ms=QUEUE_IDLE_MS,
        )
        self.wall_ms = 1_750_000_000_000
        self.mono_ms = 1000
        self.sent: list[SealedBatch] = []
        self.created: dict[TaskKey, int] = {}
        self.ended: dict[TaskKey, int] = {}
        self.redriven: list[tuple[int, TaskKey, int]] = []
        """Batch of each redrive, and batch in which the redriven task had ended."""
        self.deliveries: list[tuple[TaskKey, Caller, int]] = []
        self.number = 0
        self.written = 0
        self.numbers: dict[bytes, bool] = {}
        """Whether the row of each queue ever written exists, by its key."""
        self.open()

    # -- opening, writing, killing -------------------------------------------------------------------------------

    def open(self) -> None:
        self.store: Store = self.make_store()
        identity = next_identity(self.store, 1, self.wall_ms // 1000, bytes(16))
        save(self.store, identity)
        self.shard = recovery.open_shard(self.store, self.settings, identity.epoch, self.wall_ms, self.mono_ms)

    @property
    def now(self) -> Now:
        return self.shard.at(self.wall_ms, self.mono_ms)

    @rule(step=st.sampled_from(["seal", "seal", "seal", "write", "write", "write all", "open again", "kill"]))
    def commit(self, step: str) -> None:
        match step:
            case "seal":
                self.seal()
            case "write":
                self.write()
            case "write all":
                self.write_all()
            case "open again":
                self.open_again()
            case "kill":
                self.kill()

    def seal(self) -> None:
        if self.shard.batch:
            self.sent.append(self.shard.seal(self.now))

    def write(self) -> None:
        if self.sent:
            batch = self.sent.pop(0)
            self.store.write(batch.rows)
            self.shard.settled(batch.lsn)
            self.written = batch.lsn
            for key, value in batch.rows.items():
                if key[:1] == b"q":
                    assert self.numbers.get(key, True), "a queue that had left is there again"
                    self.numbers[key] = value is not None
            assert self.differences() == []

    def differences(self) -> list[str]:
        return [str(found) for found in check(self.store.scan(b"", EVERYTHING, 1 << 30))]

    def write_all(self) -> None:
        self.seal()
        while self.sent:
            self.write()

    def kill(self) -> None:
        self.sent.clear()
        self.created = {task: lsn for task, lsn in self.created.items() if lsn <= self.written}
        self.ended = {task: lsn for task, lsn in self.ended.items() if lsn <= self.written}
        for lsn, task, ended in reversed(self.redriven):
            if lsn > self.written >= ended:
                self.ended[task] = ended
        self.redriven = [each for each in self.redriven if each[0] <= self.written]
        self.open()

    def open_again(self) -> None:
        """Reopens the shard: its memory must be rebuilt from the rows exactly."""
        self.write_all()
        before = picture(self.shard)
        self.open()
        assert picture(self.shard) == before

    # -- work ----------------------------------------------------------------------------------------------------

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        priority=st.sampled_from([0, 4, 9]),
        delay_ms=st.sampled_from([0, 0, 0, 0, 1, 700, 5000]),
        max_attempts=st.sampled_from([0, 1, 2]),
        count=st.integers(1, 9),
        expire_ms=st.sampled_from([0, 0, 0, 1, 900, 9000, 10 * DLQ_RETENTION_MS]),
    )
    def create(
        self, tenant: str, command: str, priority: int, delay_ms: int, max_attempts: int, count: int, expire_ms: int
    ) -> None:
        now = self.now
        due_ms = now.wall_ms + delay_ms if delay_ms else 0
        until = now.wall_ms + expire_ms if expire_ms else 0
        for _ in range(count):
            task, _ = create(self.shard, tenant, command, b'{"n":1}', priority, max_attempts, due_ms, now, until)
            assert task not in self.created
            self.created[task] = self.shard.batch.lsn

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        delay_ms=st.sampled_from([0, 0, 700]),
        max_attempts=st.sampled_from([0, 1]),
        kind=st.sampled_from(["chosen", "keyed", "batch"]),
        expire_ms=st.sampled_from([0, 0, 500]),
    )
    def create_named(
        self, tenant: str, command: str, delay_ms: int, max_attempts: int, kind: str, expire_ms: int
    ) -> None:
        now = self.now
        self.number += 1
        key, digest = str(self.number), b"" if kind == "chosen" else b"d" * 16
        task_ids = [f"id-{key}"]
        if kind != "chosen":
            indexes = (0, 1, 2) if kind == "batch" else (None,)
            task_ids = [names.keyed_id(tenant, key, index) for index in indexes]
        due_ms = now.wall_ms + delay_ms if delay_ms else 0
        until = now.wall_ms + expire_ms if expire_ms else 0
        tasks = [
            NewTask(command, b"1", 4, max_attempts, due_ms, Naming(task_id, digest), until) for task_id in task_ids
        ]
        batch = Naming(names.keyed_id(tenant, key), digest) if kind == "batch" else None
        names.create_all(self.shard, tenant, tasks, batch, now)
        for task_id in task_ids:
            self.created[Name(tenant, task_id)] = self.shard.batch.lsn

    @precondition(lambda self: any(isinstance(task, Name) for task in self.created))
    @rule(choice=st.integers(0, 60), digest=st.sampled_from([b"", b"d" * 16, b"o" * 16]))
    def create_again(self, choice: int, digest: bytes) -> None:
        """While a task has rows, no other task can be created with its id."""
        task = nth([task for task in self.created if isinstance(task, Name)], choice)
        now = self.now
        try:
            get_task(self.shard, task.tenant, task.task_id, now)
        except Rejection:
            return
        rows = dict(self.shard.batch.rows)
        again = NewTask("sms", b"1", 0, 0, 0, Naming(task.task_id, digest))
        try:
            assert names.create(self.shard, task.tenant, again, now) == names.Duplicate(task.task_id)
        except Rejection:
            assert digest != b"d" * 16 or task.task_id.startswith("id-")
        assert self.shard.batch.rows == rows

    @rule(
        tenant=st.sampled_from(TENANTS),
        worker=st.sampled_from(["w", "w/1", "v"]),
        commands=st.sampled_from([None, None, ("sms",), ("email", "sms", "none")]),
        count=st.integers(1, 9).map(lambda less: 10 - less),
        bytes_max=st.sampled_from([1 << 20, 1 << 20, 100, 1]),
        lease_ms=st.sampled_from([1000, 8000]),
    )
    def claim(
        self, tenant: str, worker: str, commands: tuple[str, ...] | None, count: int, bytes_max: int, lease_ms: int
    ) -> None:
        for of in (tenant, *TENANTS):
            caller = Caller(of, worker, worker.partition("/")[0])
            got = claims.claim(self.shard, caller, commands, count, bytes_max, lease_ms, self.now)
            if got is not None:
                break
        else:
            return
        claim, delivered = got
        assert 1 <= len(delivered) <= count
        for task in delivered:
            assert task.task_id in self.created
            assert task.task_id not in self.ended
            assert task.attempts <= 3
            self.deliveries.append((task.task_id, caller, claim.token))

    @precondition(lambda self: self.deliveries)
    @rule(
        back=st.integers(0, 20),
        outcome=st.sampled_from(list(Outcome)[1:]),
        delay_ms=st.sampled_from([None, 0, 0, 300, 4000]),
        count=st.integers(1, 9),
    )
    def settle(self, back: int, outcome: Outcome, delay_ms: int | None, count: int) -> None:
        first = max(0, len(self.deliveries) - 1 - back)
        for task, caller, token in self.deliveries[first : first + count]:
            self.settle_one(task, caller, token, outcome, delay_ms)

    def settle_one(self, task: TaskKey, caller: Caller, token: int, outcome: Outcome, delay_ms: int | None) -> None:
        live = (delivery := self.shard.deliveries.get(task)) is not None and delivery.claim.token == token
        rows = dict(self.shard.batch.rows)
        result = b"1" if outcome is Outcome.COMPLETED else None
        error = "broken" if outcome in {Outcome.FAILED, Outcome.NACK} else ""
        try:
            verdict = outcomes.settle(
                self.shard, caller, id_of(task), token, outcome, result, error, delay_ms, 0.5, self.now
            )
        except Rejection:
            assert not live
            assert self.shard.batch.rows == rows
            return
        if not live:
            assert self.shard.batch.rows == rows
        elif verdict.status >= Status.COMPLETED:
            assert task not in self.ended
            self.ended[task] = self.shard.batch.lsn

    @precondition(lambda self: self.created)
    @rule(choice=st.integers(0, 60), count=st.integers(1, 4))
    def cancel(self, choice: int, count: int) -> None:
        for task in [nth(self.created, choice + i) for i in range(count)]:
            rows = dict(self.shard.batch.rows)
            try:
                withdrawal.cancel(self.shard, task_tenant(self.shard, task), id_of(task), "", self.now)
            except Rejection:
                assert task in self.ended
                assert self.shard.batch.rows == rows
                continue
            if task in self.ended:
                assert self.shard.batch.rows == rows
            else:
                self.ended[task] = self.shard.batch.lsn

    @precondition(lambda self: self.ended)
    @rule(choice=st.integers(0, 60), count=st.integers(1, 4))
    def redrive(self, choice: int, count: int) -> None:
        for task in [nth(self.created, choice + i) for i in range(count)]:
            rows = dict(self.shard.batch.rows)
            try:
                redrive.redrive_task(self.shard, task_tenant(self.shard, task), id_of(task), self.now)
            except Rejection:
                assert self.shard.batch.rows == rows
                continue
            self.redriven.append((self.shard.batch.lsn, task, self.ended.pop(task)))
            view = get_task(self.shard, task_tenant(self.shard, task), id_of(task), self.now)
            assert (view.status, view.attempts, view.error, view.progress) == (Status.PENDING, 0, None, None)

    @rule(tenant=st.sampled_from(TENANTS), age_ms=st.sampled_from([0, 1000, 9000]), limit=st.integers(1, 4))
    def cleanup(self, tenant: str, age_ms: int, limit: int) -> None:
        removed = self.shard.totals.removed
        lists = self.store.scan(b"r", b"s", 3)
        cleaned = [
            redrive.cleanup(self.shard, key, tenant, self.now.wall_ms - age_ms, 0, limit).removed for key, _ in lists
        ]
        assert self.shard.totals.removed == removed + sum(cleaned)

    @precondition(lambda self: self.shard.queues)
    @rule(choice=st.integers(1, 4), resumed=st.booleans())
    def pause(self, choice: int, resumed: bool) -> None:
        queue = self.shard.queues.get(choice)
        if queue is not None:
            (self.shard.resume if resumed else self.shard.pause)(queue)

    @precondition(lambda self: self.shard.queues)
    @rule(choice=st.integers(1, 8))
    def purge(self, choice: int) -> None:
        queue = self.shard.queues.get(choice)
        if queue is not None:
            purging.purge(self.shard, queue, self.now)

    @precondition(lambda self: self.shard.deliveries)
    @rule(choice=st.integers(0, 20))
    def give_back(self, choice: int) -> None:
        task = nth(self.shard.deliveries, choice)
        delivery = self.shard.deliveries.pop(task)
        outcomes.give_back(self.shard, delivery, task, Outcome.BY_SERVER, self.now)

    @precondition(lambda self: self.shard.deliveries)
    @rule(choice=st.integers(0, 20), extend_ms=st.sampled_from([None, 500, 3000, 12_000]))
    def heartbeat(self, choice: int, extend_ms: int | None) -> None:
        task = nth(self.shard.deliveries, choice)
        claim = self.shard.deliveries[task].claim
        tenant = self.shard.deliveries[task].home.queue.tenant
        caller = Caller(tenant, claim.worker, claim.subject)
        heartbeats.heartbeat(self.shard, caller, id_of(task), claim.token, extend_ms, self.now)

    @precondition(lambda self: self.shard.deliveries)
    @rule(choice=st.integers(0, 20), extend_ms=st.sampled_from([None, 12_000]))
    def report_progress(self, choice: int, extend_ms: int | None) -> None:
        task = nth(self.shard.deliveries, choice)
        delivery = self.shard.deliveries[task]
        caller = Caller(delivery.home.queue.tenant, delivery.claim.worker, delivery.claim.subject)
        heartbeats.report_progress(self.shard, caller, id_of(task), delivery.claim.token, b"1", extend_ms, self.now)
        assert get_task(self.shard, caller.tenant, id_of(task), self.now).progress == b"1"

    @rule(milliseconds=st.sampled_from([1, 400, 1500, 9000, RETENTION_MS]), slices=st.sampled_from([1, 2, 300]))
    def wait(self, milliseconds: int, slices: int) -> None:
        self.wall_ms += milliseconds
        self.mono_ms += milliseconds
        for _ in range(slices):
            alive = self.created.keys() - self.ended.keys()
            more = timers.run_due(self.shard, self.now)
            for task in alive:
                home, position = lookup.find_home(self.shard, task_tenant(self.shard, task), id_of(task))
                state = self.shard.state(home, position)
                if state is not None and state.ended_lsn:
                    self.ended[task] = state.ended_lsn
            if not more:
                return
        assert slices < 300, "what is due never ends"

    @precondition(lambda self: self.created)
    @rule(choice=st.integers(0, 60))
    def read(self, choice: int) -> None:
        task = nth(self.created, choice)
        try:
            view = get_task(self.shard, task_tenant(self.shard, task), id_of(task), self.now)
        except Rejection:
            assert task in self.ended
            return
        assert (view.finished_ms is not None) == (task in self.ended)

    # -- the end -------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Every created task ends once, and finally leaves no row."""
        if not hasattr(self, "shard"):
            return
        for queue in self.shard.queues.values():
            self.shard.resume(queue)
        self.write_all()
        for _ in range(400):
            if len(self.ended) == len(self.created):
                break
            self.wait(1500, 300)
            for tenant in TENANTS:
                self.deliveries.clear()
                self.claim(tenant, "w", None, 9, 1 << 20, 8000)
                for task, caller, token in self.deliveries:
                    self.settle_one(task, caller, token, Outcome.COMPLETED, None)
            self.write_all()
        assert set(self.ended) == set(self.created)
        for _ in range(5):
            self.wait(DLQ_RETENTION_MS, 300)
            self.write_all()
        assert {key[:1] for key, _ in self.store.scan(b"", EVERYTHING, 1 << 30)} <= self.lasting
        assert not self.shard.queues


class RocksShardMachine(ShardMachine):
    """The same with a store on disk, which is opened by reading files."""

    def make_store(self) -> Store:
        if hasattr(self, "store"):
            self.store.close()
        else:
            self.directory = TemporaryDirectory()
        return RocksStore(Path(self.directory.name, "store"), fsync=False)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "store"):
                self.store.close()
                self.directory.cleanup()


def nth(tasks: Iterable[Key], choice: int) -> Key:
    """Returns the task at this index, modulo their number, in descending order of ids."""
    ordered = sorted(tasks, key=id_of, reverse=True)
    return ordered[choice % len(ordered)]


def task_tenant(of: Shard, task: TaskKey) -> str:
    if isinstance(task, Name):
        return task.tenant
    queue = of.queues.get(int(task[:8], 16))
    return TENANTS[0] if queue is None else queue.tenant  # a lookup of a task in a dropped queue finds nothing


def picture(of: Shard) -> object:
    """Returns the complete in-memory state in a comparable form."""
    deliveries = {
        task: (d.claim.token, d.claim.worker, d.claim.subject, d.home.index, d.position, d.place, d.attempts)
        for task, d in of.deliveries.items()
    }
    lanes = {
        (queue.number, lane.index): (
            lane.mark,
            lane.tail,
            lane.ready,
            sorted(r for r in lane.returned if r[0] not in lane.gone),
        )
        for queue in of.queues.values()
        for lane in queue.lanes
        if lane is not None
    }
    grants = {
        (claim.token, task): granted
        for claim in of.claims.values()
        for task, (_, granted) in claim.extended.items()
        if granted > claim.lease_ms and task in of.deliveries and of.deliveries[task].claim is claim
    }
    counters = {number: queue.row() for number, queue in of.queues.items()}
    ready = {tenant: [sorted(q.number for q in queues or ()) for queues in lanes] for tenant, lanes in of.ready.items()}
    for queue in of.queues.values():
        for index in queue.ring.sifting if queue.ring is not None and not queue.held else ():
            if queue.lane(index).ready:  # hidden from claims until it is sifted
                ready[queue.tenant][index] = sorted({*ready[queue.tenant][index], queue.number})
    sums = {name: (each.waiting, each.leases, each.stored_bytes) for name, each in of.directory.tenants.items()}
    gates = {
        (queue.number, name): (sorted(gate.running), gate.has_waiting and gate.first)
        for queue in of.queues.values()
        for name, gate in (queue.ring.gates if queue.ring is not None else {}).items()
        if gate.running or gate.has_waiting
    }
    return deliveries, lanes, grants, counters, ready, sums, gates, of.batch.lsn


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("machine", "examples"), [(ShardMachine, 400), (RocksShardMachine, 200)])
def test_random_work_keeps_rows_consistent(
    monkeypatch: pytest.MonkeyPatch, machine: type[ShardMachine], examples: int
) -> None:
    make_limits_tiny(monkeypatch)
    search(machine, examples, steps=50)
