"""Whichever change of the store fails, clients see no data that is lost: everything they saw exists afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from accepted_tasks import create
from codeq_server.core import names
from codeq_server.core.claims import claim
from codeq_server.core.clock import Now
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller, id_of
from codeq_server.core.new_task import Naming, NewTask
from codeq_server.core.outcomes import settle
from codeq_server.core.reads import get_task
from codeq_server.core.recovery import open_shard
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.core.status import Outcome, Status
from codeq_server.engine.runner import ShardRunner, system_clock
from codeq_server.replication.local import LocalLog
from codeq_server.storage.check import check
from codeq_server.storage.errors import StoreFailed
from codeq_server.storage.identity import next_identity, save
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import DurableRows
from failing_store import FailingStore

TENANT = "acme"
CLIENTS = 3
ROUNDS = 5
CLAIMED_TOGETHER = 3
DIGEST = b"d" * 16
CALLS_LEAST = 50
"""Least number of changes of the store in the whole run."""


@dataclass
class Heard:
    """The answers that clients received."""

    decided: list[str] = field(default_factory=list)
    """Ids of tasks that no client has to know yet."""
    created: set[str] = field(default_factory=set)
    tokens: set[int] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    ended: dict[str, Status] = field(default_factory=dict)
    refused: int = 0
    keys: int = 0
    """Highest number used in keys so far."""


def keyed(number: int) -> list[NewTask]:
    """Returns a task with a key, and one with an id chosen by its producer."""
    namings = (Naming(names.keyed_id(TENANT, f"k{number}"), DIGEST), Naming(f"id-{number}"))
    return [NewTask("a", b"1", 0, 0, 0, naming) for naming in namings]


def whole(number: int) -> tuple[list[NewTask], Naming]:
    """Returns the tasks of an atomic batch, and the naming derived from its key."""
    namings = [Naming(names.keyed_id(TENANT, f"b{number}", index), DIGEST) for index in (0, 1)]
    tasks = [NewTask("a", b"1", 0, 0, 0, naming) for naming in namings]
    return tasks, Naming(names.keyed_id(TENANT, f"b{number}"), DIGEST)


def judge_names(shard: Shard, heard: Heard, now: Now) -> None:
    """Repeats all named creates: acknowledged tasks are found, and batches exist as a whole or not at all."""
    for number in range(1, heard.keys + 1):
        for task in keyed(number):
            try:
                again = isinstance(names.create(shard, TENANT, task, now), names.Duplicate)
            except Rejection as refusal:
                again = refusal.reason is Reason.TASK_ID_TAKEN
            assert again or task.naming.task_id not in heard.created
        again = {isinstance(task, names.Duplicate) for task in names.create_all(shard, TENANT, *whole(number), now)}
        assert again == {True} or (again == {False} and whole(number)[0][0].naming.task_id not in heard.created)


def opened_shard(store: DurableRows, unix_seconds: int) -> tuple[ShardRunner, list[BaseException]]:
    """Opens the shard in a store, like the server."""
    identity = next_identity(store, 1, unix_seconds, b"c" * 16)
    save(store, identity)
    shard = open_shard(store, ShardSettings(), identity.epoch, *system_clock())
    fatal: list[BaseException] = []
    return ShardRunner(shard, LocalLog(store), system_clock, lambda: 0.5, fatal.append), fatal


class Client:
    """Creates, claims and settles; records the answers, and which of them came too early."""

    def __init__(self, name: str, runner: ShardRunner, store: FailingStore, heard: Heard) -> None:
        self.runner, self.store, self.heard = runner, store, heard
        self.caller = Caller(TENANT, name, name)
        self.chance = random.Random(name)

    async def live(self) -> None:
        try:
            for _ in range(ROUNDS):
                await self.round()
        except Rejection as refusal:
            if refusal.reason is not Reason.OUTCOME_UNKNOWN or not self.store.failed:
                raise
            self.heard.refused += 1

    async def round(self) -> None:
        runner, shard, heard = self.runner, self.runner.shard, self.heard
        now = runner.now()
        made = [create(shard, TENANT, "a", b"1", self.chance.choice((0, 9)), 0, 0, now)[0] for _ in range(2)]
        heard.keys += 1
        for task in keyed(heard.keys):
            assert names.create(shard, TENANT, task, now).task_id == task.naming.task_id
        made += [task.naming.task_id for task in keyed(heard.keys)]
        made += [task.task_id for task in names.create_all(shard, TENANT, *whole(heard.keys), now)]
        heard.decided += made
        await self.told()
        heard.created.update(made)
        claimed = claim(shard, self.caller, None, CLAIMED_TOGETHER, 1 << 20, 60_000, runner.now())
        if claimed is None:
            return
        lease, delivered = claimed
        await self.told()
        heard.tokens.add(lease.token)
        for each in delivered:
            task_id = id_of(each.task_id)
            heard.attempts[task_id] = max(each.attempts, heard.attempts.get(task_id, 0))
            outcome = self.chance.choice((Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED, Outcome.NACK))
            verdict = settle(shard, self.caller, task_id, lease.token, outcome, None, "no", 0, 0.5, runner.now())
            await self.told()
            if verdict.status in {Status.COMPLETED, Status.FAILED}:
                heard.ended[task_id] = verdict.status

    async def read(self) -> None:
        """Reads tasks at any moment of a commit; a read must not show more than a reply does."""
        with contextlib.suppress(Rejection):
            while True:
                for _ in range(self.chance.randrange(1, 8)):
                    await asyncio.sleep(0)
                if not self.heard.decided:
                    continue
                task_id = self.chance.choice(self.heard.decided[-6:])
                view = get_task(self.runner.shard, TENANT, task_id, self.runner.now())
                await self.told()
                self.heard.created.add(task_id)
                if view.status in {Status.COMPLETED, Status.FAILED}:
                    self.heard.ended[task_id] = view.status

    async def told(self) -> None:
        """Waits as every reply does; afterwards everything decided so far must be durable."""
        shard = self.runner.shard
        last = shard.batch.lsn if shard.batch else shard.batch.lsn - 1
        self.runner.changed()
        await self.runner.wait_durable()
        assert self.store.durable_lsn >= last


async def work(store: FailingStore) -> Heard:
    """Runs clients until they are done or the store fails."""
    heard = Heard()
    try:
        runner, fatal = opened_shard(store, 8)
    except StoreFailed:
        assert store.failed
        store.close()
        return heard
    clients = [Client(f"w{number}", runner, store, heard) for number in range(CLIENTS)]
    reader = asyncio.create_task(Client("reader", runner, store, heard).read())
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.live())
    reader.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reader
    assert len(fatal) == (heard.refused > 0) == store.failed
    await runner.close()
    return heard


async def judge(store: DurableRows, heard: Heard) -> None:
    """Compares a reopened store with the answers that clients received."""
    assert [str(found) for found in check(store.scan(b"", b"\xff", 1 << 30))] == []
    runner, fatal = opened_shard(store, 16)
    now = runner.now()
    for task_id in heard.created:
        get_task(runner.shard, TENANT, task_id, now)
    for task_id, status in heard.ended.items():
        assert get_task(runner.shard, TENANT, task_id, now).status is status
    for task_id, attempts in heard.attempts.items():
        assert get_task(runner.shard, TENANT, task_id, now).attempts >= attempts
    judge_names(runner.shard, heard, now)
    create(runner.shard, TENANT, "a", b"1", 0, 0, 0, now)
    claimed = claim(runner.shard, Caller(TENANT, "late", "late"), None, 1, 1 << 20, 60_000, now)
    assert claimed is not None
    assert claimed[0].token > max(heard.tokens, default=0)
    runner.changed()
    await runner.close()
    assert fatal == []


def store_of(kind: str, path: Path) -> DurableRows:
    return MemoryStore() if kind == "memory" else RocksStore(path, fsync=True)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("late", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("kind", ["memory", "rocks"])
async def test_failed_store_change_loses_nothing_acknowledged(kind: str, late: bool, tmp_path: Path) -> None:
    number = 0
    failed = True
    while failed:
        number += 1
        path = tmp_path / str(number)
        inner = store_of(kind, path)
        store = FailingStore(inner, number, late=late)
        heard = await work(store)
        failed = store.failed
        assert store.calls_after == 0
        await judge(store.durable, heard)
        await judge(inner if kind == "memory" else store_of(kind, path), heard)
    assert number > CALLS_LEAST
