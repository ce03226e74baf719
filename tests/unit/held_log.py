"""A log that the test controls: the test decides when a batch becomes durable or fails."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from accepted_tasks import create
from codeq_server.core import recovery
from codeq_server.core.batch import SealedBatch
from codeq_server.core.shard import ShardSettings
from codeq_server.engine.runner import ShardRunner
from codeq_server.storage.memory import MemoryStore

DEADLINE_SECONDS = 30


class HeldLog:
    """Holds every batch until it is released."""

    def __init__(self, window: int = 1, store: MemoryStore | None = None) -> None:
        self.window = window
        self.store = MemoryStore() if store is None else store
        self.batches: list[SealedBatch] = []
        self.closed = 0
        self.free = False
        self.confirmation: asyncio.Future[None] | None = None
        """The value that `confirm` returns; None: no other node can decide."""
        self._held: deque[tuple[SealedBatch, asyncio.Future[None]]] = deque()

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        """See `Log.append`."""
        assert len(self._held) < self.window
        self.batches.append(batch)
        self._held.append((batch, asyncio.get_running_loop().create_future()))
        appended = self._held[-1][1]
        if self.free:
            self.release()
        return appended

    def confirm(self) -> asyncio.Future[None] | None:
        """See `Log.confirm`."""
        return self.confirmation

    async def close(self) -> None:
        """See `Log.close`."""
        self.closed += 1

    def release(self) -> None:
        """Makes the oldest batch in flight durable."""
        batch, appended = self._held.popleft()
        self.store.write(batch.rows)
        appended.set_result(None)

    def fail(self, problem: BaseException) -> None:
        """Fails the oldest batch in flight."""
        self._held.popleft()[1].set_exception(problem)


class HandClock:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.wall, self.mono = 1_700_000_000_000, 1_000

    def __call__(self) -> tuple[int, int]:
        return self.wall, self.mono

    def forward(self, ms: int) -> None:
        self.wall, self.mono = self.wall + ms, self.mono + ms


class HeldRunner(ShardRunner):
    """A runner on a held log."""

    def __init__(
        self,
        settings: ShardSettings | None = None,
        *,
        window: int = 1,
        store: MemoryStore | None = None,
        epoch: int = 7,
    ) -> None:
        self.log = HeldLog(window, store)
        self.clock = HandClock()
        self.fatal: list[BaseException] = []
        shard = recovery.open_shard(self.log.store, settings or ShardSettings(), epoch, *self.clock())
        super().__init__(shard, self.log, self.clock, lambda: 0.5, self.fatal.append)

    def create(self, command: str = "a", *, delay: int = 0, size: int = 2, tenant: str = "acme") -> str:
        """Creates a task in the open batch."""
        now = self.now()
        return create(self.shard, tenant, command, b"1" * size, 0, 0, now.wall_ms + delay if delay else 0, now)[0]

    async def create_and_commit(self) -> None:
        """Creates a task, and returns once its batch is in flight."""
        count = len(self.log.batches)
        self.create()
        self.changed()
        await until(lambda: len(self.log.batches) > count)


async def until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - any condition, on anything
            await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Runs everything that can run without waiting."""
    for _ in range(count):
        await asyncio.sleep(0)
