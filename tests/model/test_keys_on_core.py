"""Random work with keys on a shard that is killed and reopened: limits and order hold, and nothing waits for ever."""

from __future__ import annotations

import pytest
from codeq.v1.task_pb2 import Task as TaskMessage
from codeq_internal.v1.rows_pb2 import TopicRow
from codeq_server.core import names, outcomes, timers
from codeq_server.core.errors import Rejection
from codeq_server.core.key_rings import AtLimit, KeyPolicy
from codeq_server.core.lookup import find_home
from codeq_server.core.model import Caller, Queue, TaskKey, id_of
from codeq_server.core.new_task import NewTask, TaskKeys
from codeq_server.core.policy import policy_of
from codeq_server.core.reads import get_task
from codeq_server.core.status import Outcome, Status
from codeq_server.core.tenant_keys import topic_key
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from key_limits import limit_keys
from search import search
from test_checker_on_core import COMMANDS, TENANTS, ShardMachine, nth, task_tenant
from tiny_limits import make_limits_tiny

LIMITS = st.sampled_from([0, 1, 1, 2, 3])


class KeyedShardMachine(ShardMachine):
    """Tasks with keys, under limits that change."""

    lasting = ShardMachine.lasting | {b"p"}

    @initialize(window_bytes=st.sampled_from([1, 1500, 1 << 20]))
    def start(self, window_bytes: int) -> None:
        self.policies: dict[tuple[str, str], KeyPolicy] = {}
        self.keys: dict[TaskKey, tuple[str, TaskKeys]] = {}
        """Command and keys of each task."""
        self.turns: list[tuple[int, TaskKey]] = []
        """Batch and task of each create and redrive, in order."""
        self.budgets: dict[tuple[str, str, str], tuple[int, float]] = {}
        """Start on the monotonic clock, and deliveries less those allowed at once, of each rate key under its limit."""
        ShardMachine.start(self, window_bytes)

    def open(self) -> None:
        super().open()
        self.budgets.clear()
        for tenant, command in self.policies:
            self.policies[tenant, command] = self.durable_policy(tenant, command)
            queue = self.shard.by_name.get((tenant, command))
            assert queue is None or (queue.key_policy or KeyPolicy()) == self.policies[tenant, command]

    def durable_policy(self, tenant: str, command: str) -> KeyPolicy:
        """Returns the stored limits of a command."""
        value = self.store.get(topic_key(tenant, command))
        return policy_of(TopicRow.FromString(value or b"").policy).of_keys or KeyPolicy()

    def spend(self, tenant: str, command: str, key: str, reserved: int) -> None:
        """Checks that a rate key is delivered no faster than its limit; it held `reserved` tokens before."""
        rate = self.policies.get((tenant, command), KeyPolicy()).rate_per_key_per_second
        if not key or not rate:
            return
        since, spent = self.budgets.get((tenant, command, key), (self.mono_ms, -1.0 - reserved))
        spent += 1
        self.budgets[tenant, command, key] = (since, spent)
        assert spent <= rate * (self.mono_ms - since) / 1000, f"{key} is delivered faster than {rate} per second"

    def kill(self) -> None:
        self.turns = [turn for turn in self.turns if turn[0] <= self.written]
        super().kill()

    # -- work ----------------------------------------------------------------------------------------------------

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        priority=st.sampled_from([0, 0, 9]),
        delay_ms=st.sampled_from([0, 0, 0, 700]),
        count=st.integers(1, 6),
        concurrency=st.sampled_from(["", "c1", "c1", "c2"]),
        rate=st.sampled_from(["", "", "r1", "r2"]),
        ordering=st.sampled_from(["", "", "o1", "o1", "o2"]),
        expire_ms=st.sampled_from([0, 0, 0, 900]),
    )
    def create_with_keys(
        self,
        tenant: str,
        command: str,
        priority: int,
        delay_ms: int,
        count: int,
        concurrency: str,
        rate: str,
        ordering: str,
        expire_ms: int,
    ) -> None:
        now = self.now
        keys = TaskKeys(concurrency, rate, ordering)
        kept = TaskMessage(
            concurrency_key=concurrency or None, rate_key=rate or None, ordering_key=ordering or None
        ).SerializeToString()
        due_ms = now.wall_ms + delay_ms if delay_ms else 0
        until = now.wall_ms + expire_ms if expire_ms else 0
        of = keys if concurrency or rate or ordering else None
        task = NewTask(command, b"1", priority, 0, due_ms, None, until, kept, keys=of)
        for _ in range(count):
            made = names.create(self.shard, tenant, task, now)
            assert isinstance(made, names.Created)
            self.created[made.task_id] = self.shard.batch.lsn
            self.keys[made.task_id] = (command, keys)
            self.turns.append((self.shard.batch.lsn, made.task_id))

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        limit=LIMITS,
        rates=st.sampled_from([(0, 0), (0, 0), (0, 2), (3, 0)]),
        at_limit=st.sampled_from([AtLimit.WAIT, *AtLimit]),
    )
    def limit(self, tenant: str, command: str, limit: int, rates: tuple[int, int], at_limit: AtLimit) -> None:
        self.budgets.clear()
        policy = self.policies[tenant, command] = KeyPolicy(limit, rates[0], 1, rates[1], at_limit)
        limit_keys(self.shard, tenant, command, policy, self.now)

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
        before = len(self.deliveries)
        rings = {queue.command: queue.ring for queue in self.shard.queues.values() if queue.tenant == tenant}
        reserved = {command: len(ring.tokens) for command, ring in rings.items() if ring is not None}
        ShardMachine.claim(self, tenant, worker, commands, count, bytes_max, lease_ms)
        self.note_ends()
        first = self.first_in_lines()
        for task, caller, _ in self.deliveries[before:]:
            command, keys = self.keys.get(task, ("", TaskKeys()))
            if keys.ordering:
                assert first[caller.tenant, command, keys.ordering] == task, "a task passed another of its key"
            self.spend(caller.tenant, command, keys.rate, reserved.get(command, 0))
            limit = self.policies.get((caller.tenant, command), KeyPolicy()).concurrency_per_key
            if keys.concurrency and limit:
                running = self.running(caller.tenant, command, keys.concurrency)
                assert running <= limit, f"{running} tasks of a key are leased, {limit} may be"

    @rule(choice=st.integers(0, 60), count=st.integers(1, 4))
    def redrive(self, choice: int, count: int) -> None:
        if self.ended:
            before = len(self.redriven)
            ShardMachine.redrive(self, choice, count)
            self.turns += [(lsn, task) for lsn, task, _ in self.redriven[before:]]

    @precondition(lambda self: self.shard.deliveries)
    @rule(choice=st.integers(0, 20), delay_ms=st.sampled_from([300, 4000]))
    def park(self, choice: int, delay_ms: int) -> None:
        """A worker parks the key of its task."""
        task = nth(self.shard.deliveries, choice)
        delivery = self.shard.deliveries[task]
        claim, attempts = delivery.claim, delivery.attempts
        caller = Caller(delivery.home.queue.tenant, claim.worker, claim.subject)
        outcomes.settle(
            self.shard,
            caller,
            id_of(task),
            claim.token,
            Outcome.ABANDON,
            None,
            "",
            delay_ms,
            0.5,
            self.now,
            park_key=True,
        )
        assert get_task(self.shard, caller.tenant, id_of(task), self.now).attempts == attempts

    def first_in_lines(self) -> dict[tuple[str, str, str], TaskKey]:
        """Returns the first task that has not ended, of each ordering key by tenant and command."""
        place = {task: number for number, (_, task) in enumerate(self.turns)}
        first: dict[tuple[str, str, str], TaskKey] = {}
        for task in sorted(place, key=lambda task: place[task]):
            command, keys = self.keys.get(task, ("", TaskKeys()))
            if keys.ordering and task in self.created and task not in self.ended:
                first.setdefault((task_tenant(self.shard, task), command, keys.ordering), task)
        return first

    def running(self, tenant: str, command: str, key: str) -> int:
        """Returns how many tasks with this concurrency key are leased."""
        live = [task for task, of in self.shard.deliveries.items() if of.home.queue.tenant == tenant]
        found = [self.keys.get(task, ("", TaskKeys())) for task in live]
        return sum(of == command and keys.concurrency == key for of, keys in found)

    # -- nothing waits without a reason --------------------------------------------------------------------------

    @rule(tenant=st.sampled_from(TENANTS))
    def exhaust(self, tenant: str) -> None:
        """A worker that takes everything leaves only tasks whose keys have no room."""
        for _ in range(200):
            while timers.run_due(self.shard, self.now):
                pass
            self.note_ends()
            before = len(self.deliveries)
            self.claim(tenant, "w", None, 9, 1 << 20, 8000)
            if not any(caller.tenant == tenant for _, caller, _ in self.deliveries[before:]) and not self.due_now():
                break
        else:
            raise AssertionError("claims never end")
        first = self.first_in_lines()
        for task in self.created:
            if task not in self.ended and task_tenant(self.shard, task) == tenant:
                self.check_wait(tenant, task, first)

    def due_now(self) -> bool:
        return timers.next_wake(self.shard, self.now) == 0

    def note_ends(self) -> None:
        for task in self.created.keys() - self.ended.keys():
            try:
                view = get_task(self.shard, task_tenant(self.shard, task), id_of(task), self.now)
            except Rejection:
                continue
            if view.finished_ms is not None:
                self.ended[task] = self.shard.batch.lsn

    def check_wait(self, tenant: str, task: TaskKey, first: dict[tuple[str, str, str], TaskKey]) -> None:
        """A PENDING task waits for a key, or for a queue that is held or at its rate."""
        if get_task(self.shard, tenant, id_of(task), self.now).status is not Status.PENDING:
            return
        command, keys = self.keys.get(task, ("", TaskKeys()))
        queue = self.queue_of(task)
        policy = queue.key_policy or KeyPolicy()
        assert (
            queue.held
            or self.is_parked(queue)
            or policy.rate_per_second
            or (keys.rate and policy.rate_per_key_per_second)
            or (keys.ordering and first[tenant, command, keys.ordering] != task)
            or (keys.concurrency and 0 < policy.concurrency_per_key <= self.running(tenant, command, keys.concurrency))
        ), f"{task} waits for nothing"

    def is_parked(self, queue: Queue) -> bool:
        """Returns whether a key of a queue is parked."""
        gates = queue.ring.gates.values() if queue.ring is not None else ()
        return any(gate.closed_until_ms > self.mono_ms for gate in gates)

    def queue_of(self, task: TaskKey) -> Queue:
        return find_home(self.shard, task_tenant(self.shard, task), id_of(task))[0].queue

    def teardown(self) -> None:
        if hasattr(self, "shard"):
            for (tenant, command), policy in self.policies.items():
                limit_keys(self.shard, tenant, command, policy._replace(rate_per_second=0), self.now)
        super().teardown()


@pytest.mark.timeout(3600)
def test_random_work_with_keys_keeps_limits_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    make_limits_tiny(monkeypatch)
    search(KeyedShardMachine, 400, steps=50)
