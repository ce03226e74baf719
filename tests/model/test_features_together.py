"""Random work with keys, webhooks and policies at once: what one of them does to a task, the others take part in."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from codeq.v1.task_pb2 import Task as TaskMessage
from codeq_server.core import callbacks, dead_letters, names, outcomes, sweep
from codeq_server.core.key_rings import AtLimit, KeyPolicy
from codeq_server.core.new_task import NewTask, TaskKeys
from codeq_server.core.shard import Shard
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from key_limits import policy_row
from search import search
from test_checker_on_core import COMMANDS, TENANTS
from test_keys_on_core import LIMITS, KeyedShardMachine
from tiny_limits import make_limits_tiny

URL = "https://example.com/hook"
DELAYS_MS = (1_000, 3_000)


class TogetherMachine(KeyedShardMachine):
    """Tasks with webhooks and keys, in queues with limits of consumers, dead-letter topics and retentions."""

    running_life: ClassVar[TogetherMachine]

    @initialize(window_bytes=st.sampled_from([1, 1500, 1 << 20]), at_limit=st.sampled_from(AtLimit))
    def start(self, window_bytes: int, at_limit: AtLimit) -> None:
        TogetherMachine.running_life = self
        self.calling: list[callbacks.Callback] = []
        """Attempts under way."""
        self.is_over = False
        KeyedShardMachine.start(self, window_bytes)
        for tenant in TENANTS:
            for command in COMMANDS:
                self.set_policy(tenant, command, 1, at_limit, 0, is_chained=True, retention_seconds=0, webhook=URL)

    def open(self) -> None:
        self.calling.clear()
        super().open()

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        delay_ms=st.sampled_from([0, 0, 0, 700]),
        attempts=st.sampled_from([0, 1]),
        count=st.integers(1, 4),
        concurrency=st.sampled_from(["", "c1", "c1", "c2"]),
        ordering=st.sampled_from(["", "o1", "o2"]),
        expire_ms=st.sampled_from([0, 0, 900]),
    )
    def create_called(
        self,
        tenant: str,
        command: str,
        delay_ms: int,
        attempts: int,
        count: int,
        concurrency: str,
        ordering: str,
        expire_ms: int,
    ) -> None:
        now, of = self.now, TaskKeys(concurrency, "", ordering)
        kept = TaskMessage(webhook=URL, concurrency_key=concurrency or None, ordering_key=ordering or None)
        due_ms = now.wall_ms + delay_ms if delay_ms else 0
        until = now.wall_ms + expire_ms if expire_ms else 0
        keys = of if concurrency or ordering else None
        task = NewTask(
            command, b"1", 0, attempts, due_ms, None, until, kept.SerializeToString(), hooked=True, keys=keys
        )
        for _ in range(count):
            made = names.create(self.shard, tenant, task, now)
            self.created[made.task_id] = self.shard.batch.lsn
            self.keys[made.task_id] = (command, of)
            self.turns.append((self.shard.batch.lsn, made.task_id))

    @rule(
        tenant=st.sampled_from(TENANTS),
        command=st.sampled_from(COMMANDS),
        limit=LIMITS,
        at_limit=st.sampled_from([AtLimit.WAIT, *AtLimit]),
        consumers=st.sampled_from([0, 1, 3]),
        is_chained=st.booleans(),
        retention_seconds=st.sampled_from([0, 1]),
        webhook=st.sampled_from(["", URL]),
    )
    def set_policy(
        self,
        tenant: str,
        command: str,
        limit: int,
        at_limit: AtLimit,
        consumers: int,
        *,
        is_chained: bool,
        retention_seconds: int,
        webhook: str,
    ) -> None:
        self.budgets.clear()
        of_keys = self.policies[tenant, command] = KeyPolicy(limit, at_limit=at_limit, rate_burst=1)
        row = policy_row(of_keys)
        row.max_consumers, row.retention_seconds, row.webhook = consumers, retention_seconds, webhook
        if command == COMMANDS[0] and is_chained:
            row.dead_letter_topic_ref = COMMANDS[1]
        self.shard.policies.put(tenant, command, row, self.now.wall_ms)

    # -- callbacks -----------------------------------------------------------------------------------------------

    @rule(again=st.booleans(), room=st.sampled_from([1, 5]))
    def take_calls(self, again: bool, room: int) -> None:
        self.take(room, again=again)

    def take(self, room: int, *, again: bool) -> bool:
        """Takes callbacks to attempt; returns whether any queue had a turn."""
        take = callbacks.take_again if again else callbacks.take_first
        taken = take(self.shard, lambda _: room, self.now)
        self.calling += taken[1] if taken is not None else ()
        return taken is not None

    @precondition(lambda self: self.calling)
    @rule(choice=st.integers(0, 9), status=st.sampled_from([200, 204, 0, 500, 404, -1]))
    def answer(self, choice: int, status: int) -> None:
        """An attempt ends; -1: the receiver was busy."""
        callback, now = self.calling.pop(choice % len(self.calling)), self.now
        if status < 0:
            callbacks.put_off(self.shard, callback, 700, now)
        else:
            call = callbacks.Call(now.wall_ms, status, 5, "" if status else "timeout")
            callbacks.settle(self.shard, callback, call, DELAYS_MS, 0.5, now)

    def write_all(self) -> None:
        if self.is_over:
            for again in (False, True):
                while self.calling or self.take(5, again=again):
                    while self.calling:
                        self.answer(0, 200)
        super().write_all()

    def teardown(self) -> None:
        self.is_over = True
        super().teardown()


def note_heir(shard: Shard, *of: Any) -> dead_letters.Heir | None:
    """Does what `heir_of` does, and notes the new task as created."""
    heir, machine = dead_letters.heir_of(shard, *of), TogetherMachine.running_life
    if heir is not None:
        task_id = heir.home.id_of(heir.position, shard.epoch)
        machine.created[task_id] = shard.batch.lsn
        machine.keys[task_id] = (heir.home.queue.command, TaskKeys())
    return heir


def note_heirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the running machine know the tasks that dead letters become, and makes the limits of callbacks tiny."""
    for module, name, value in (
        (outcomes, "heir_of", note_heir),
        (sweep, "LATER_MS", 2_000),
        (callbacks, "CALLBACKS_KEPT", 3),
        (callbacks, "TURN", 2),
        (callbacks, "LOOK_MAX", 3),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.timeout(3600)
def test_random_work_with_everything_keeps_rows_limits_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    make_limits_tiny(monkeypatch)
    note_heirs(monkeypatch)
    search(TogetherMachine, 200, steps=60)
