"""Load whose tasks have keys, and the promises about keys that follow from its records."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cluster_ledger import COMMANDS, SLACK_SECONDS, Attempt, Delivery, End, Ledger
from cluster_load import Load
from codeq.v1 import task_pb2, topic_service_pb2

PER_KEY: Final = 2
CONSUMERS_MAX: Final = 24
CONCURRENCY_KEYS: Final = 6
ORDERING_KEYS: Final = 2
CONCURRENCY_SHARE: Final = 0.5
"""Share of the tasks with a concurrency key."""
ORDERING_SHARE: Final = 0.3
"""Share of the tasks with an ordering key while few such tasks are open."""
ORDERED_MAX: Final = 24
"""Number of open tasks with an ordering key at which no more are created: their lines are never long, or empty."""
UNORDERED: Final = frozenset({"cancel", "dead"})
"""Kinds of tasks without an ordering key, because the ledger does not record their ends."""
WORK_SECONDS_MAX: Final = 0.15
"""Longest time that a worker spends on a task, so that leases of a key overlap if they can."""


@dataclass(slots=True)
class Keyed:
    """What a create asked for, and when.

    Attributes:
        command: Command of the task.
        concurrency: Its concurrency key; "": none.
        ordering: Its ordering key; "": none.
        sent: Monotonic time before the create was sent for the first time.
        acknowledged: Monotonic time of its first acknowledgement; None: there was none.
    """

    command: str
    concurrency: str
    ordering: str
    sent: float
    acknowledged: float | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The part of a lease of which the worker is certain, in Unix time."""

    start: float
    end: float
    task_id: str


class KeyLedger(Ledger):
    """Records of clients whose tasks have keys.

    Attributes:
        keyed: What each create asked for, by its number.
        dropped: Unix time at which the worker sent the outcome of a delivery, by lease token.
        made_by: The create of each task that was delivered.
        open: Acknowledged tasks with an ordering key that have not ended.
    """

    def __init__(self, *, clocks_agree: bool = True) -> None:
        super().__init__(clocks_agree=clocks_agree)
        self.keyed: dict[int, Keyed] = {}
        self.dropped: dict[int, float] = {}
        self.made_by: dict[str, Attempt] = {}
        self.open: set[str] = set()

    def created(self, attempt: Attempt, task_id: str, address: str) -> None:
        super().created(attempt, task_id, address)
        keyed = self.keyed[attempt.number]
        if keyed.acknowledged is None:
            keyed.acknowledged = time.monotonic()
            if keyed.ordering and task_id not in self.ends:
                self.open.add(task_id)

    def ended(self, task_id: str, end: End, newest_when_sent: int) -> None:
        super().ended(task_id, end, newest_when_sent)
        self.open.discard(task_id)

    def delivered(self, task_id: str, number: int, delivery: Delivery, address: str) -> Attempt | None:
        attempt = super().delivered(task_id, number, delivery, address)
        if attempt is not None:
            self.made_by[task_id] = attempt
        return attempt

    def judge_leases(self) -> None:
        """Checks also that no key or queue had too many leases, and that tasks with ordering keys kept their order."""
        super().judge_leases()
        queues, slots, lines = defaultdict(list), defaultdict(list), defaultdict(list)
        for task_id, deliveries in self.deliveries.items():
            attempt = self.made_by[task_id]
            keyed = self.keyed[attempt.number]
            if keyed.ordering:
                lines[keyed.command, keyed.ordering].append((task_id, keyed, deliveries))
            if attempt.cancelled:
                continue  # the lease may have ended at the cancellation
            leases = [Lease(each.start, min(each.until, self._end(each)), task_id) for each in deliveries]
            queues[keyed.command] += leases
            if keyed.concurrency:
                slots[keyed.command, keyed.concurrency] += leases
        self.counts["keys judged"] = len(slots) + len(lines)
        if self.clocks_agree:
            for command, leases in queues.items():
                self._judge_limit(command, leases, CONSUMERS_MAX)
            for key, leases in slots.items():
                self._judge_limit(" ".join(key), leases, PER_KEY)
        for name, line in lines.items():
            self._judge_order(" ".join(name), line)

    def _end(self, delivery: Delivery) -> float:
        """Returns the Unix time until which a delivery was certainly not ended by its worker."""
        return self.dropped.get(delivery.token, delivery.until)

    def _judge_limit(self, name: str, leases: Iterable[Lease], most: int) -> None:
        """Checks that no more leases than this were live at a time."""
        changes = []
        for lease in leases:
            start, end = lease.start + SLACK_SECONDS, lease.end - SLACK_SECONDS
            if start < end:
                changes += [(start, 1, lease.task_id), (end, -1, lease.task_id)]
        live: dict[str, int] = defaultdict(int)
        peak = 0
        for at, change, task_id in sorted(changes):
            live[task_id] += change
            holders = [each for each, count in live.items() if count > 0] if change > 0 else []
            if len(holders) > most:
                self.problem(f"K1: {name} has {len(holders)} leases at {at:.3f}, allowed are {most}: {holders}")
            peak = max(peak, len(holders))
            if not live[task_id]:
                del live[task_id]
        self.counts[f"peak of {most}"] = max(self.counts[f"peak of {most}"], peak)

    def _judge_order(self, name: str, line: list[tuple[str, Keyed, list[Delivery]]]) -> None:
        """Checks that the tasks of an ordering key were leased one after the other, in the order of their creation."""
        line.sort(key=lambda each: min(delivery.token for delivery in each[2]))
        last_token, last_sent, before = 0, 0.0, ""
        for task_id, keyed, deliveries in line:
            tokens = [delivery.token for delivery in deliveries]
            if min(tokens) < last_token:
                self.problem(f"K2: {name}: {task_id} was leased before {before} had ended")
            if keyed.acknowledged is not None and keyed.acknowledged < last_sent:
                self.problem(f"K2: {name}: {task_id} was leased after a task that was created later than it")
            last_token, last_sent, before = max(last_token, *tokens), max(last_sent, keyed.sent), task_id


class KeyLoad(Load):
    """Producers whose tasks have keys, and workers that spend a moment on each task."""

    ledger: KeyLedger

    async def prepare(self) -> None:
        """Sets the limits."""
        policy = topic_service_pb2.QueuePolicy(max_consumers=CONSUMERS_MAX, concurrency_per_key=PER_KEY)
        for command in COMMANDS:
            request = topic_service_pb2.PutTopicRequest(command=command, policy=policy)
            await self.client.call("topics", "PutTopic", request, again=True, seconds=60)

    def _spec(self, attempt: Attempt) -> task_pb2.TaskSpec:
        spec = super()._spec(attempt)
        if self._chance.random() < CONCURRENCY_SHARE:
            spec.concurrency_key = f"c-{self._chance.randrange(CONCURRENCY_KEYS)}"
        few = len(self.ledger.open) < ORDERED_MAX and attempt.kind not in UNORDERED
        if few and self._chance.random() < ORDERING_SHARE:
            spec.ordering_key = f"o-{self._chance.randrange(ORDERING_KEYS)}"
        keyed = Keyed(spec.command, spec.concurrency_key, spec.ordering_key, time.monotonic())
        self.ledger.keyed[attempt.number] = keyed
        return spec

    def received(self, task: task_pb2.Task, address: str) -> task_pb2.Outcome | None:
        """Records a delivery; its outcome follows after a while, as a call of its own."""
        outcome = super().received(task, address)
        if outcome is not None:
            self.later(self._work_on(outcome))
        return None

    async def _work_on(self, outcome: task_pb2.Outcome) -> None:
        await asyncio.sleep(self._chance.uniform(0, WORK_SECONDS_MAX))
        await self.settle(outcome, self.ledger.newest(outcome.task_id))

    async def settle(self, outcome: Any, newest: int) -> None:
        self.ledger.dropped.setdefault(outcome.lease_token, time.time())
        await super().settle(outcome, newest)
