"""What a shard promises, as plainly as it can be said: no rows, no batches, no windows, every question a search.

Time is an argument; ids, tokens and the order in which tasks that fell due together queue up come from whom it is
compared with. Refusals are `Refused` with the name of the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ABANDONS_MAX = 2
RETENTION_MS = {False: 4_000, True: 9_000}
"""How long ended tasks are kept: COMPLETED and FAILED, and DLQ."""


Words = tuple[str, "bytes | None", str]
"""Kind of an outcome, result, error."""
Worker = tuple[str, str, str]
"""Tenant, worker id, subject."""


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """A refusal; its text is the reason's name."""


@dataclass
class Lease:
    token: int
    worker: str
    subject: str
    length: int
    until: int
    longest: int


@dataclass
class Said:
    """How the last delivery ended, and what was answered."""

    token: int
    subject: str
    words: Words
    verdict: tuple[str, int]


def same_words(words: Words) -> Words:
    """Returns what makes an outcome the same as another: not the reason of a nack."""
    return words if words[0] in {"COMPLETED", "FAILED"} else (words[0], None, "")


@dataclass
class Task:
    task_id: str
    tenant: str
    command: str
    priority: int
    max_attempts: int
    payload: bytes
    status: str = ""
    place: int = 0
    due: int = 0
    attempts: int = 0
    abandons: int = 0
    lease: Lease | None = None
    said: Said | None = None
    result: bytes | None = None
    error: str | None = None
    kept_until: int | None = None


@dataclass
class Model:
    """All tasks of a shard."""

    tasks: dict[str, Task] = field(default_factory=dict)
    places: int = 0
    paused: set[tuple[str, str]] = field(default_factory=set)
    fresh: list[Task] = field(default_factory=list)
    """Tasks that ended since the last seal."""

    def create(self, task: Task, due: int, wall: int) -> None:
        self.tasks[task.task_id] = task
        self._wait(task, due if due > wall else 0)

    def _wait(self, task: Task, due: int) -> None:
        task.status, task.due = ("SCHEDULED", due) if due else ("PENDING", 0)
        if not due:
            self.places += 1
            task.place = self.places

    def find(self, tenant: str, task_id: str) -> Task:
        task = self.tasks.get(task_id)
        if task is None or task.tenant != tenant:
            raise Refused("TASK_NOT_FOUND")
        return task

    def waiting(self, tenant: str, command: str, priority: int) -> list[Task]:
        of = (tenant, command, priority, "PENDING")
        found = [t for t in self.tasks.values() if (t.tenant, t.command, t.priority, t.status) == of]
        return sorted(found, key=lambda task: task.place)

    def claim(self, task_ids: Sequence[str], lease: Lease) -> None:
        for task_id in task_ids:
            task = self.tasks[task_id]
            task.status, task.attempts, task.lease = "CLAIMED", task.attempts + 1, Lease(**vars(lease))

    def settle(
        self,
        worker: Worker,
        task_id: str,
        token: int | None,
        words: Words,
        delay: int,
        wall: int,
    ) -> tuple[str, int]:
        task = self.find(worker[0], task_id)
        lease, said = task.lease, task.said
        mine = lease and (lease.token == token and lease.subject == worker[2] if token else lease.worker == worker[1])
        if lease and mine:
            return self._end(task, lease, words, delay, wall)
        if said and (said.token, said.subject, said.words) == (token, worker[2], same_words(words)):
            return said.verdict
        if lease:
            raise Refused("STALE_LEASE_TOKEN" if token and token != lease.token else "NOT_LEASE_OWNER")
        raise Refused("STALE_LEASE_TOKEN" if token and not (said and said.token == token) else "TASK_NOT_CLAIMED")

    def _end(self, task: Task, lease: Lease, words: Words, delay: int, wall: int) -> tuple[str, int]:
        kind, result, error = words
        task.lease = None
        task.abandons += kind == "ABANDON"
        if kind in {"COMPLETED", "FAILED"}:
            task.status, task.result, task.error = kind, result, error or None
            self.fresh.append(task)
        elif kind == "BY_SERVER" or (kind == "ABANDON" and task.abandons <= ABANDONS_MAX):
            task.status, task.attempts = "PENDING", task.attempts - 1
        else:
            task.error = error or task.error
            if task.attempts >= task.max_attempts:
                task.status, task.error = "DLQ", task.error or "MAX_ATTEMPTS"
                self.fresh.append(task)
            else:
                self._wait(task, wall + delay if delay else 0)
        verdict = (task.status, delay if task.status == "SCHEDULED" else 0)
        task.said = Said(lease.token, lease.subject, same_words(words), verdict)
        return verdict

    def cancel(self, tenant: str, task_id: str, reason: str) -> None:
        task = self.find(tenant, task_id)
        if task.status in {"COMPLETED", "FAILED", "DLQ"}:
            raise Refused("TASK_ENDED")
        if task.status == "CANCELLED":
            return
        if task.lease:
            task.said = Said(task.lease.token, task.lease.subject, ("CANCEL", None, ""), ("CANCELLED", 0))
        task.status, task.lease, task.due, task.error = "CANCELLED", None, 0, reason or "CANCELLED"
        self.fresh.append(task)

    def give_back(self, token: int, wall: int) -> None:
        for task in self.tasks.values():
            if task.lease and task.lease.token == token:
                self._end(task, task.lease, ("BY_SERVER", None, ""), 0, wall)

    def heartbeat(self, worker: Worker, task_id: str, token: int | None, extend: int | None, mono: int) -> int:
        task = self.find(worker[0], task_id)
        lease = task.lease
        if not lease:
            known = token is None or (task.said and task.said.token == token)
            raise Refused("TASK_NOT_CLAIMED" if known else "STALE_LEASE_TOKEN")
        if token and token != lease.token:
            raise Refused("STALE_LEASE_TOKEN")
        if (lease.subject != worker[2]) if token else (lease.worker != worker[1]):
            raise Refused("NOT_LEASE_OWNER")
        lease.until = max(lease.until, mono + (extend or lease.length))
        lease.longest = max(lease.longest, extend or 0)
        return lease.until

    def redrive(self, tenant: str, task_id: str) -> None:
        task = self.find(tenant, task_id)
        if task.status not in {"DLQ", "FAILED", "CANCELLED"}:
            raise Refused("TASK_NOT_REDRIVABLE")
        if task in self.fresh:
            self.fresh.remove(task)
        task.attempts, task.abandons, task.result, task.error, task.kept_until = 0, 0, None, None, None
        if task.said:
            task.said.words = ("redriven", None, "")
        self._wait(task, 0)

    def fallen_due(self, wall: int, mono: int) -> list[Task]:
        """Returns tasks whose lease has run out, or whose delay is over."""
        return [t for t in self.tasks.values() if (t.lease.until <= mono if t.lease else 0 < t.due <= wall)]

    def move(self, tasks: Sequence[Task], wall: int) -> None:
        """Carries out what fell due, in this order."""
        for task in tasks:
            if task.lease:
                self._end(task, task.lease, ("EXPIRED", None, "LEASE_EXPIRED"), 0, wall)
            else:
                self._wait(task, 0)

    def forgettable(self, wall: int) -> list[Task]:
        return [task for task in self.tasks.values() if task.kept_until is not None and task.kept_until <= wall]

    def seal(self, wall: int) -> None:
        for task in self.fresh:
            task.kept_until = wall + RETENTION_MS[task.status == "DLQ"]
        self.fresh = []

    def reopen(self, mono: int) -> None:
        for task in self.tasks.values():
            if task.lease:
                task.lease.until = mono + max(task.lease.length, task.lease.longest)
