"""The promises of a shard in their simplest form: no rows, no batches, no windows, every lookup a search.

Time is an argument; ids, tokens and the order of tasks that fell due at once are taken from the tested core.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

ABANDONS_MAX = 2
RETENTION_MS = {False: 4_000, True: 9_000}  # of COMPLETED, FAILED and CANCELLED; of DLQ
HISTORY_MAX = 10
ENDS = {
    "COMPLETED": "COMPLETED",
    "FAILED": "FAILED",
    "NACK": "NACKED",
    "ABANDON": "ABANDONED",
    "EXPIRED": "LEASE_EXPIRED",
    "BY_SERVER": "RETURNED",
}
Words = tuple[str, "bytes | None", str]  # kind of an outcome, result, error
Worker = tuple[str, str, str]  # tenant, worker id, subject


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """A rejection; its text is the reason's name."""


@dataclass
class Lease:
    token: int
    by: Worker
    length: int
    until: int
    longest: int
    since: int = 0


@dataclass
class Task:
    task_id: str
    tenant: str
    command: str
    priority: int
    max_attempts: int
    payload: bytes
    digest: bytes = b""
    batch: tuple[str, int] = ("", 0)  # id and size, of a task of a keyed batch
    status: str = ""
    place: int = 0
    due: int = 0
    attempts: int = 0
    abandons: int = 0
    lease: Lease | None = None
    said: tuple[int, str, Words, tuple[str, int]] = (0, "", ("", None, ""), ("", 0))  # last end of a lease, and answer
    result: bytes | None = None
    error: str | None = None
    kept_until: int | None = None  # 0 between the end and the next seal
    history: list[tuple[str, int, int, str, str]] = field(default_factory=list)  # worker, start, end, how, error


@dataclass
class Model:
    tasks: dict[tuple[str, str], Task] = field(default_factory=dict)  # by tenant and id
    places: int = 0
    paused: set[tuple[str, str]] = field(default_factory=set)
    quotas: dict[str, int] = field(default_factory=dict)  # of waiting tasks, by tenant; "_default": of all others

    consumers: dict[tuple[str, str], int] = field(default_factory=dict)  # limits by tenant and command; 0: none
    leases: dict[tuple[str, str], int] = field(default_factory=dict)  # default leases by tenant and command; 0: none

    def create(self, tasks: list[Task], due: int, wall: int) -> list[Task | None]:
        """Accepts all tasks or none; returns them or, for a repeat, the remaining tasks of the first request."""
        tenant, digest, batch = tasks[0].tenant, tasks[0].digest, tasks[0].batch
        for name in [batch[0]] if batch[0] else [task.task_id for task in tasks]:
            for known in [t for t in self.tasks.values() if t.tenant == tenant and name in {t.task_id, t.batch[0]}]:
                if not digest or (known.digest, known.batch) != (digest, batch):
                    raise Refused("IDEMPOTENCY_CONFLICT" if digest else "TASK_ID_TAKEN")
                return [self.tasks.get((tenant, task.task_id)) for task in tasks]
        if len({task.task_id for task in tasks}) < len(tasks):
            raise Refused("TASK_ID_TAKEN")
        if self.room(tenant) < len(tasks):
            raise Refused("QUOTA_EXCEEDED")
        for task in tasks:
            self.tasks[tenant, task.task_id] = task
            self._wait(task, due if due > wall else 0)
        return list(tasks)

    def waits(self, tenant: str) -> int:
        return sum(task.tenant == tenant and task.status in {"PENDING", "SCHEDULED"} for task in self.tasks.values())

    def slots(self, tenant: str, command: str) -> int:
        most = self.consumers.get((tenant, command), 0)
        leased = sum((t.tenant, t.command) == (tenant, command) and bool(t.lease) for t in self.tasks.values())
        return max(0, most - leased) if most else 1 << 30

    def room(self, tenant: str) -> float:
        most = self.quotas.get(tenant, self.quotas.get("_default", 0))
        return most - self.waits(tenant) if most else float("inf")

    def _wait(self, task: Task, due: int) -> None:
        task.status, task.due = ("SCHEDULED", due) if due else ("PENDING", 0)
        task.place = self.places = self.places + 1

    def find(self, tenant: str, task_id: str) -> Task:
        if (tenant, task_id) not in self.tasks:
            raise Refused("TASK_NOT_FOUND")
        return self.tasks[tenant, task_id]

    def waiting(self, tenant: str, command: str, priority: int) -> list[Task]:
        of = (tenant, command, priority, "PENDING")
        found = (t for t in self.tasks.values() if (t.tenant, t.command, t.priority, t.status) == of)
        return sorted(found, key=lambda task: task.place)

    def claim(self, task: Task, lease: Lease) -> None:
        task.status, task.attempts, task.lease = "CLAIMED", task.attempts + 1, replace(lease)

    def settle(self, by: Worker, task_id: str, token: int | None, words: Words, delay: int, wall: int) -> object:
        task = self.find(by[0], task_id)
        same = words if words[0] in {"COMPLETED", "FAILED"} else (words[0], None, "")
        last = token or (0 if task.lease else task.said[0])  # without a token: the last lease, if there is no live one
        if last and task.said[:3] == (last, by[2], same):
            return task.said[3]
        return self._end(task, self._held(task, by, token), words, same, delay, wall)

    def _held(self, task: Task, by: Worker, token: int | None) -> Lease:
        if token and token != (task.lease.token if task.lease else task.said[0]):
            raise Refused("STALE_LEASE_TOKEN")
        if not task.lease:
            raise Refused("TASK_NOT_CLAIMED")
        if task.lease.by[2] != by[2] if token else task.lease.by[1] != by[1]:
            raise Refused("NOT_LEASE_OWNER")
        return task.lease

    def _end(self, task: Task, lease: Lease, words: Words, same: Words, delay: int, wall: int) -> tuple[str, int]:
        kind, result, error = words
        self._note(task, lease, ENDS[kind], "" if kind == "EXPIRED" else error, wall)
        task.lease, task.abandons = None, task.abandons + (kind == "ABANDON")
        if kind in {"COMPLETED", "FAILED"}:
            task.status, task.result, task.error, task.kept_until = kind, result, error or None, 0
        elif kind == "BY_SERVER" or (kind == "ABANDON" and task.abandons <= ABANDONS_MAX):
            task.status, task.attempts = "PENDING", task.attempts - 1
            if delay:
                self._wait(task, wall + delay)
        elif task.attempts >= task.max_attempts:
            task.status, task.error, task.kept_until = "DLQ", error or task.error or "MAX_ATTEMPTS", 0
        else:
            task.error = error or task.error
            self._wait(task, wall + delay if delay else 0)
        task.said = (lease.token, lease.by[2], same, (task.status, delay if task.status == "SCHEDULED" else 0))
        return task.said[3]

    def _note(self, task: Task, lease: Lease, end: str, error: str, wall: int) -> None:
        task.history = [*task.history, (lease.by[1], lease.since, wall, end, error)][-HISTORY_MAX:]

    def cancel(self, tenant: str, task_id: str, reason: str, wall: int = 0) -> None:
        task = self.find(tenant, task_id)
        if task.status in {"COMPLETED", "FAILED", "DLQ"}:
            raise Refused("TASK_ENDED")
        if task.lease:
            self._note(task, task.lease, "CANCELLED", "", wall)
            task.said = (task.lease.token, task.lease.by[2], ("CANCEL", None, ""), ("", 0))
        if task.status != "CANCELLED":
            task.status, task.error, task.kept_until = "CANCELLED", reason or "CANCELLED", 0
            task.lease, task.due = None, 0

    def redrive(self, tenant: str, task_id: str) -> None:
        task = self.find(tenant, task_id)
        if task.status not in {"DLQ", "FAILED", "CANCELLED"}:
            raise Refused("TASK_NOT_REDRIVABLE")
        task.attempts, task.abandons, task.result, task.error, task.kept_until = 0, 0, None, None, None
        task.said = (*task.said[:2], ("REDRIVEN", None, ""), ("", 0))
        self._wait(task, 0)

    def heartbeat(self, by: Worker, task_id: str, token: int | None, extend: int | None, mono: int) -> int:
        lease = self._held(self.find(by[0], task_id), by, token)
        lease.until = max(lease.until, mono + (extend or lease.length))
        lease.longest = max(lease.longest, extend or 0)
        return lease.until

    def move(self, tasks: list[Task], wall: int, words: Words = ("EXPIRED", None, "LEASE_EXPIRED")) -> None:
        for task in tasks:  # the order in which the server expires leases and queues due tasks
            self._end(task, task.lease, words, words, 0, wall) if task.lease else self._wait(task, 0)

    def seal(self, wall: int) -> None:
        for task in [task for task in self.tasks.values() if task.kept_until == 0]:
            task.kept_until = wall + RETENTION_MS[task.status == "DLQ"]
