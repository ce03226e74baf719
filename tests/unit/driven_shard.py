"""A shard on an in-memory store, with both clocks set by the test and short names for core calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accepted_tasks import create
from codeq_internal.v1 import rows_pb2
from codeq_server.core import heartbeats, keys, reads, recovery, timers
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.batch import SealedBatch
from codeq_server.core.claims import Delivered, claim
from codeq_server.core.clock import Now
from codeq_server.core.model import Caller, Queue
from codeq_server.core.outcomes import Verdict, give_back, settle
from codeq_server.core.reads import QueueView, TaskView
from codeq_server.core.shard import Shard, ShardSettings
from codeq_server.core.status import Outcome
from codeq_server.storage.check import check
from codeq_server.storage.memory import MemoryStore

TENANT = "acme"
WORKER = Caller(TENANT, "w", "w")
START_MS = 1_700_000_000_000


class DrivenShard:
    """Drives one shard; every call is made at the times `wall` and `mono`, in milliseconds."""

    def __init__(self, **settings: Any) -> None:
        self.settings = ShardSettings(**{"backoff_policy": BackoffPolicy.FIXED, **settings})
        self.store = MemoryStore()
        self.wall, self.mono, self.epoch = START_MS, 1_000, 0
        self.reopen()

    def reopen(self) -> None:
        """Reopens the shard from the written rows."""
        self.epoch += 1
        identity = rows_pb2.IdentityRow(format=keys.FORMAT, num_shards=1, cluster_id=b"c" * 16, epoch=self.epoch)
        if self.settings.route is not None:
            identity.shard, identity.num_shards = self.settings.route.shard, self.settings.route.count
        self.store.write({keys.IDENTITY: identity.SerializeToString()})
        self.shard: Shard = recovery.open_shard(self.store, self.settings, self.epoch, self.wall, self.mono)

    @property
    def now(self) -> Now:
        return self.shard.at(self.wall, self.mono)

    def create(
        self,
        command: str = "a",
        *,
        tenant: str = TENANT,
        priority: int = 0,
        attempts: int = 0,
        delay: int = 0,
        size: int = 2,
        expire: int = 0,
        webhook: str = "",
    ) -> str:
        now = self.now
        due, expire_ms = (now.wall_ms + delay if delay else 0), (now.wall_ms + expire if expire else 0)
        return create(self.shard, tenant, command, b"1" * size, priority, attempts, due, now, expire_ms, webhook)[0]

    def claim(
        self, count: int = 1, commands: list[str] | None = None, *, by: Caller = WORKER, lease: int = 60_000
    ) -> list[Delivered]:
        claimed = claim(self.shard, by, commands, count, 1 << 30, lease, self.now)
        return claimed[1] if claimed else []

    def claim_ids(self, count: int = 1, commands: list[str] | None = None, *, lease: int = 60_000) -> list[str]:
        return [delivered.task_id for delivered in self.claim(count, commands, lease=lease)]

    def token(self, task_id: str) -> int:
        return self.shard.deliveries[task_id].claim.token

    def settle(
        self,
        task_id: str,
        outcome: Outcome = Outcome.COMPLETED,
        *,
        token: int | None = None,
        by: Caller = WORKER,
        result: bytes | None = None,
        error: str = "",
        delay: int | None = None,
        artifacts: Sequence[rows_pb2.ArtifactRow] = (),
    ) -> Verdict:
        now = self.now
        return settle(self.shard, by, task_id, token, outcome, result, error, delay, 0.5, now, artifacts=artifacts)

    def complete_one(self) -> str:
        """Creates a task, claims the next one and completes it."""
        task_id = self.create()
        (claimed,) = self.claim_ids(1)
        assert claimed == task_id
        self.settle(task_id)
        return task_id

    def nack(self, task_id: str, delay: int | None = 0) -> Verdict:
        return self.settle(task_id, Outcome.NACK, delay=delay)

    def give_back(self, task_id: str) -> None:
        delivery = self.shard.deliveries.pop(task_id)
        give_back(self.shard, delivery, task_id, Outcome.BY_SERVER, self.now)

    def heartbeat(self, task_id: str, extend: int | None = None) -> int:
        """Returns the end of the lease on the monotonic clock."""
        now = self.now
        return heartbeats.heartbeat(self.shard, WORKER, task_id, None, extend, now)[1] - now.wall_ms + now.mono_ms

    def view(self, task_id: str) -> TaskView:
        return reads.get_task(self.shard, TENANT, task_id, self.now)

    def status(self, task_id: str) -> str:
        return self.view(task_id).status.name

    def list_queues(self) -> list[QueueView]:
        return reads.list_queues(self.shard, TENANT, "", 100)

    def queue(self, command: str = "a") -> Queue:
        return self.shard.by_name[TENANT, command]

    def pass_time(self, ms: int) -> None:
        """Advances both clocks, and runs the timers whenever they are due."""
        end = self.mono + ms
        self.run_due()
        while self.mono < end:
            wait = timers.next_wake(self.shard, self.now)
            step = max(1, min(end - self.mono, ms if wait is None else wait))
            self.wall, self.mono = self.wall + step, self.mono + step
            self.run_due()

    def run_due(self) -> None:
        while timers.run_due(self.shard, self.now):
            pass

    def seal(self) -> SealedBatch:
        return self.shard.seal(self.now)

    def write(self, sealed: SealedBatch | None = None) -> None:
        """Writes a batch, by default the open one, and checks that the rows are consistent."""
        self.write_unchecked(sealed or self.seal())
        assert [str(difference) for difference in check(self.store.scan(b"", b"\xff", 1 << 30))] == []

    def write_unchecked(self, sealed: SealedBatch | None = None) -> None:
        """Writes a batch without checking the rows, which would take too long after every batch."""
        sealed = sealed or self.seal()
        self.store.write(sealed.rows)
        self.shard.settled(sealed.lsn)

    def keys(self, tables: bytes) -> list[bytes]:
        """Returns the keys of the given tables."""
        rows = self.store.scan(b"", b"\xff", 1 << 30)
        return [key for key, _ in rows if key[:1] in {bytes((table,)) for table in tables}]
