"""Producers and workers that load a server, and the order in which they begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import codeq

from codeq_cli.bench.meter import Meter

DELIVER_SECONDS: Final = 10.0
"""Longest wait for the first tasks of a cycle, which show whether the worker gets any."""
CANCEL_SECONDS: Final = 15.0
"""Longest time for the cancels of tasks that were not delivered."""
CANCELS: Final = 64
"""Cancels at the same time."""
DRAIN_SECONDS: Final = 15.0
"""Longest wait for outstanding tasks after the measured window."""
EXPIRE_SECONDS: Final = 60
"""Time after which tasks that nobody works on end."""
CONNECT_SECONDS: Final = 10.0
"""Timeout of the first create, which shows whether the server can be reached."""
BACKLOG_PER_CALLER: Final = 4
"""Calls' worth of tasks, for each caller, that may be created but not yet handled."""


class Scenario(enum.StrEnum):
    """What the load does."""

    CYCLE = "cycle"
    """Tasks are created, delivered and completed."""
    CREATE = "create"
    """Tasks are only created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load.

    Attributes:
        scenario: What it does.
        producer_address: gRPC address for producers; None: the SDK's default.
        worker_address: gRPC address for workers; None: the SDK's default.
        token: Token of the producer; None: the SDK's default.
        worker_token: Token of the worker; None: the SDK's default.
        command: Command of the tasks.
        warmup: Seconds before the measured window.
        seconds: Seconds of the measured window.
        callers: Callers that create at the same time.
        batch: Tasks per call.
        concurrency: Handlers that run at the same time.
        payload_bytes: Size of the filler in each payload.
        rate: Tasks per second; 0: as many as possible. Times then count from when a call was due.
    """

    scenario: Scenario
    producer_address: str | None
    worker_address: str | None
    token: str | None
    worker_token: str | None
    command: str
    warmup: float
    seconds: float
    callers: int
    batch: int
    concurrency: int
    payload_bytes: int
    rate: float


class UndeliveredError(Exception):
    """Tasks of a cycle did not reach the worker in time.

    Attributes:
        left: How many of them could not be cancelled.
    """

    def __init__(self, count: int, left: int) -> None:
        super().__init__(f"{count} tasks were not delivered in time")
        self.left = left


def run(load: Load) -> dict[str, object]:
    """Loads the server; returns what was measured. Tasks that were not delivered are cancelled.

    Raises:
        ValueError: An address or the command is malformed, or a file of TLS cannot be used.
        CodeqError: The server cannot be reached, or rejects the first task or the worker.
        UndeliveredError: Tasks did not reach the worker in time.
    """
    return asyncio.run(_Run(load).run())


class _Run:
    """A load that runs."""

    def __init__(self, load: Load) -> None:
        self._load, self._meter = load, Meter()
        self._id = time.monotonic_ns()
        """Of this run: tasks of an earlier one are completed, but not counted."""
        self._filler = "x" * load.payload_bytes
        self._stop = asyncio.Event()
        self._due = self._due_times()
        tasks = load.callers * load.batch * BACKLOG_PER_CALLER
        self._places = asyncio.Semaphore(tasks)
        """Places for tasks that are created but not yet handled, so that deliveries do not queue up."""
        self._outstanding = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._undelivered: set[str] = set()
        """Tasks whose create was acknowledged, and which have not been handled."""
        self._early: set[str] = set()
        """Tasks that were handled before their create was acknowledged."""
        self._producer = codeq.AsyncProducer(load.producer_address, token=load.token)
        self._client = codeq.AsyncClient(load.producer_address, token=load.token)
        self._worker = codeq.AsyncWorker(
            load.worker_address, token=load.worker_token, concurrency=load.concurrency, drain_seconds=DRAIN_SECONDS
        )
        self._worker.task(load.command)(self._handle)

    async def run(self) -> dict[str, object]:
        """Warms up, measures, and waits for outstanding tasks."""
        works = self._load.scenario is Scenario.CYCLE
        async with self._producer, self._client:
            await self._create(None, within=CONNECT_SECONDS)
            try:
                async with asyncio.TaskGroup() as group:
                    if works:
                        group.create_task(self._worker.run(handle_signals=False))
                    if not works or await self._is_idle_within(DELIVER_SECONDS):
                        await self._measure(group)
                    if works:
                        self._worker.stop()
            finally:
                undelivered = len(self._undelivered)
                await self._cancel_undelivered()
        if undelivered:
            raise UndeliveredError(undelivered, len(self._undelivered))
        return {"scenario": self._load.scenario.value, **self._meter.report(with_worker=works)}

    async def _measure(self, group: asyncio.TaskGroup) -> None:
        """Has callers create tasks, and measures for a time."""
        load = self._load
        callers = [group.create_task(self._call()) for _ in range(load.callers)]
        await asyncio.sleep(load.warmup)
        self._meter.open(self._worker.stats.settled)
        await asyncio.sleep(load.seconds)
        self._meter.close(self._worker.stats.settled)
        self._stop.set()
        await self._drained(callers)

    async def _is_idle_within(self, seconds: float) -> bool:
        """Waits until all tasks are handled; returns whether that was in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return self._idle.is_set()

    async def _cancel_undelivered(self) -> None:
        """Cancels tasks that were not delivered, as far as that is possible in time."""
        waiting = iter([*self._undelivered])

        async def cancel() -> None:
            for task_id in waiting:
                with contextlib.suppress(codeq.CodeqError):
                    await self._client.cancel(task_id, "not delivered to codeq bench")
                    self._undelivered.discard(task_id)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await asyncio.gather(*(cancel() for _ in range(min(CANCELS, len(self._undelivered)))))

    def _due_times(self) -> Iterator[float | None]:
        """Yields when each call is due; None: at once."""
        if self._load.rate == 0:
            yield from repeat(None)
        due = time.monotonic()
        while True:
            yield due
            due += self._load.batch / self._load.rate

    async def _call(self) -> None:
        while not self._stop.is_set():
            due = next(self._due)
            if due is not None and await self._is_stopped_by(due):
                return
            try:
                await self._create(due)
            except codeq.CodeqError as error:
                self._meter.failed(self._load.batch, error.reason)

    async def _is_stopped_by(self, due: float) -> bool:
        """Waits until a time; returns whether the load is to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due - time.monotonic())):
                await self._stop.wait()
        return self._stop.is_set()

    async def _create(self, due: float | None, *, within: float | None = None) -> None:
        """Creates the tasks of one call.

        Raises:
            CodeqError: A task was not created, or perhaps not.
        """
        load = self._load
        expire = EXPIRE_SECONDS if load.scenario is Scenario.CREATE else None
        if load.scenario is Scenario.CYCLE:
            for _ in range(load.batch):
                await self._places.acquire()
            self._outstanding += load.batch
            self._idle.clear()
        began = time.monotonic() if due is None else due
        payload = {"run": self._id, "began": began, "filler": self._filler}
        made: list[str] = []
        try:
            if load.batch == 1:
                made = [await self._producer.create(load.command, payload, expire=expire, timeout_seconds=within)]
            else:
                tasks = [codeq.NewTask(load.command, payload, expire=expire) for _ in range(load.batch)]
                results = await self._producer.create_batch(tasks, timeout_seconds=within)
                failed = [each for each in results if isinstance(each, codeq.CodeqError)]
                made = [each for each in results if isinstance(each, str)]
                if not made:
                    raise failed[0]
                for each in failed:
                    self._meter.failed(1, each.reason)
            self._meter.created(len(made), time.monotonic() - began)
        finally:
            if load.scenario is Scenario.CYCLE:
                early = self._early.intersection(made)
                self._early -= early
                self._undelivered.update(each for each in made if each not in early)
                self._handled(load.batch - len(made))

    async def _handle(self, task: codeq.Task) -> None:
        payload = task.payload
        if not isinstance(payload, dict) or payload.get("run") != self._id:
            return  # of an earlier run
        self._meter.cycled(time.monotonic() - payload["began"])
        if task.id in self._undelivered:
            self._undelivered.remove(task.id)
        else:
            self._early.add(task.id)
        self._handled(1)

    def _handled(self, count: int) -> None:
        """Frees the places of tasks that were handled, or do not exist."""
        for _ in range(count):
            self._places.release()
        self._outstanding -= count
        if self._outstanding <= 0:
            self._idle.set()

    async def _drained(self, callers: Collection[asyncio.Task[None]]) -> None:
        """Waits for the last answers, then until all tasks are handled, both for a time.

        A call that is cancelled before its answer may leave tasks behind.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await asyncio.wait(callers)
                await self._idle.wait()
        for caller in callers:
            caller.cancel()
