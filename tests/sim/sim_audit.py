"""The judge of a run: reads every batch as it becomes durable, and every answer as it leaves the server.

It knows what clients asked and were told, and what is durable; of the server's memory it knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from codeq.v1 import producer_service_pb2, queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys
from codeq_server.core.outcomes import ABANDONS_MAX, EXPIRED_ERROR, Outcome, Status
from codeq_server.storage.check import check
from codeq_server.storage.memory import MemoryStore

RETENTION_MS = {False: 6_000, True: 9_000}
"""How long ended tasks are kept: COMPLETED and FAILED, and DLQ."""
REDRIVABLE = frozenset({Status.FAILED, Status.DLQ, Status.CANCELLED})
ENDED = REDRIVABLE | {Status.COMPLETED}


class Violation(AssertionError):  # noqa: N818 - what it is
    """A promise was broken."""


@dataclass(frozen=True)
class Asked:
    """A task that a producer asked for; its payload is unique in the run."""

    tenant: str
    command: str
    priority: int
    max_attempts: int


@dataclass
class Known:
    """A task as the durable rows tell it.

    `end` and `told` are of its present life: how it ended, and what a client was told of that, a token and an outcome
    that was accepted for it. `ends` are those of all lives, `revived` is how often it was redriven, and `redrives` how
    often somebody asked for that.
    """

    task_id: str
    asked: Asked
    state: rows_pb2.StateRow | None = None
    end: rows_pb2.StateRow | None = None
    end_wall_ms: int = 0
    removed: bool = False
    slots: dict[int, Slot] = field(default_factory=dict)
    told: tuple[int, int, bytes] | None = None
    ends: list[rows_pb2.StateRow] = field(default_factory=list)
    revived: int = 0
    redrives: int = 0


@dataclass
class Slot:
    """A durable delivery: attempts before it, its holder, and until when it was promised at least, in monotonic ms."""

    attempts: int
    holder: tuple[str, str]
    until: int


class Audit:
    """Judges one run."""

    def __init__(self, mono_ms: Any) -> None:
        self.rows = MemoryStore()
        self.asked: dict[bytes, Asked] = {}
        self.acked: set[str] = set()
        self.tasks: dict[str, Known] = {}
        self.tokens: set[int] = set()
        self.top_token = 0
        self.batches = 0
        self.digest = sha256()
        self.violations: list[str] = []
        self.counts: dict[str, int] = {}
        self.redrives: dict[tuple[str, str], int] = {}
        """How often somebody asked for another life of all tasks of a queue."""
        self.cleaned: dict[str, int] = {}
        """Time before which ended tasks of a tenant may be removed early."""
        self._mono_ms = mono_ms
        self._times = [0, 0, 0]
        """When the last batches became durable: who claims in one did so after the last but one."""
        self._by_home: dict[bytes, Known] = {}
        self._first: dict[bytes, int] = {}
        """Position of the last first delivery in each lane."""

    def demand(self, promise: object, text: str) -> None:
        """Raises a Violation, and remembers it, unless the promise holds."""
        if not promise:
            self.violations.append(text)
            raise Violation(text)

    def count(self, what: str) -> None:
        """Counts what happened, so that tests can tell whether a run is worth something."""
        self.counts[what] = self.counts.get(what, 0) + 1

    # -- what becomes durable --------------------------------------------------------------------------------------

    def durable(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Judges a batch."""
        for key in sorted(rows):
            self.digest.update(key + b"=" + (rows[key] or b"-"))
        self._times = [*self._times[1:], self._mono_ms()]
        tick = rows.get(keys.TICK)
        if tick is not None:
            self._batch(rows, rows_pb2.TickRow.FromString(tick))
        self.rows.write(rows)
        found = [str(difference) for difference in check(self.rows.scan(b"", b"\xff" * 8, 1 << 30))]
        self.demand(not found, f"rows contradict each other: {found}")

    def _batch(self, rows: Mapping[bytes, bytes | None], tick: rows_pb2.TickRow) -> None:
        self.batches += 1
        old = self.rows.get(keys.TICK)
        self.demand(
            tick.lsn == (rows_pb2.TickRow.FromString(old).lsn if old else 0) + 1, "a batch is missing in the log"
        )
        table: dict[bytes, list[tuple[bytes, bytes | None]]] = {}
        for key, value in sorted(rows.items()):
            table.setdefault(key[:1], []).append((key, value))
        for key, value in table.get(b"t", ()):
            self._home(key, value, tick.wall_ms)
        for key, value in table.get(b"l", ()):
            self._lease(int.from_bytes(key[1:], "big"), value, rows)
        for key, value in table.get(b"s", ()):
            if value is not None:
                self._state(b"t" + key[1:], rows_pb2.StateRow.FromString(value), tick)
        for key, value in table.get(b"d", ()):
            if value is None and self.rows.get(key) is not None:
                self._matured(key, tick.wall_ms)
        if table.get(b"l"):
            self.top_token = max(self.top_token, *(int.from_bytes(key[1:], "big") for key, _ in table[b"l"]))

    def _home(self, key: bytes, value: bytes | None, wall_ms: int) -> None:
        before = self._by_home.get(key)
        if value is None:
            if before is not None and not before.removed:
                self._removed(before, wall_ms)
            return
        if value[:1] == keys.POINTER:
            return
        raw = task_pb2.Task.FromString(keys.task_bytes(value))
        queue, lane, position = keys.split_place_key(key)
        task_id = ids.task_id(queue, lane, position, keys.home_epoch(value))
        self.demand(before is None or before.task_id == task_id, f"another task took the home of {before}")
        asked = self.asked.get(raw.payload)
        self.demand(asked, f"nobody asked for {task_id}")
        assert asked is not None
        self.demand(
            (raw.command, raw.priority) == (asked.command, asked.priority), f"{task_id} is not what was asked for"
        )
        if before is None:
            self.tasks[task_id] = self._by_home[key] = Known(task_id, asked)
            self.count("created")

    def _removed(self, task: Known, wall_ms: int) -> None:
        self.demand(task.end, f"{task.task_id} was removed and had not ended")
        assert task.end is not None
        kept_ms = wall_ms - task.end_wall_ms
        early = task.end.changed_ms < self.cleaned.get(task.asked.tenant, 0)
        self.demand(
            early or kept_ms >= RETENTION_MS[task.end.status == Status.DLQ],
            f"{task.task_id} was kept for {kept_ms} ms only",
        )
        task.removed = True
        self.count("removed")

    def _lease(self, token: int, value: bytes | None, rows: Mapping[bytes, bytes | None]) -> None:
        new = token not in self.tokens
        self.demand(not new or token > self.top_token, f"token {token} is not above every earlier one")
        self.tokens.add(token)
        if value is None:
            return
        lease = rows_pb2.LeaseRow.FromString(value)
        for index, packed in enumerate(lease.homes):
            queue = lease.queues[index] if len(lease.queues) > 1 else lease.queues[0]
            lane, position = keys.unpack_home(packed)
            prefix = keys.lane_prefix(b"t", queue, lane)
            task = self._by_home[keys.place_key(prefix, position)]
            attempts = lease.attempts[index] if lease.attempts else 0
            if token in task.slots:
                continue
            self.demand(not self._is_paused(queue, rows), f"{task.task_id} is delivered while its queue is paused")
            self.demand(new, f"a lease row took {task.task_id} in later")
            until = self._times[0] + lease.lease_ms
            task.slots[token] = Slot(attempts, (lease.worker, lease.subject or lease.worker), until)
            self.count("claimed")
            row = rows.get(keys.place_key(keys.lane_prefix(b"s", queue, lane), position))
            state = task.state if row is None else rows_pb2.StateRow.FromString(row)
            if state is None or state.ended_token < token:
                before = state.attempts if state else 0
                self.demand(attempts == before, f"{task.task_id} had {before} deliveries, its lease says {attempts}")
            self.demand(attempts < (task.asked.max_attempts or 1 << 30), f"{task.task_id} is delivered too often")
            if state is None and lane < keys.LANES:
                self.demand(position > self._first.get(prefix, 0), f"{task.task_id} was overtaken within its lane")
                self._first[prefix] = position

    def _is_paused(self, queue: int, rows: Mapping[bytes, bytes | None]) -> bool:
        """Tells whether a queue was paused before a batch, and after it."""
        key = keys.queue_key(queue)
        before = self.rows.get(key)
        both = (before, rows.get(key, before))
        return all(row is not None and rows_pb2.QueueRow.FromString(row).paused for row in both)

    def _state(self, home: bytes, state: rows_pb2.StateRow, tick: rows_pb2.TickRow) -> None:
        task = self._by_home[home]
        before, task.state = task.state, state
        ended = state.status in ENDED
        if (task.end is not None and state.ended_lsn != task.end.ended_lsn) or state.redriven_lsn == tick.lsn:
            self._revive(task)
        if task.end is not None:
            same = ended and state.ended_token == task.end.ended_token and state.status == task.end.status
            self.demand(same, f"{task.task_id} had ended and did something else")
        elif ended:
            task.end, task.end_wall_ms = state, state.changed_ms
            task.ends.append(state)
            self.demand(state.changed_ms <= tick.wall_ms, f"{task.task_id} ended in the future")
            self.count(Status(state.status).name)
        if before is None or before.ended_token != state.ended_token:
            self.demand(
                before is None or state.ended_token > before.ended_token, f"{task.task_id}: an older lease ended it"
            )
            self._ended_delivery(task, state)

    def _revive(self, task: Known) -> None:
        """Judges another life of a task that had ended, perhaps in the same batch."""
        status = task.end.status if task.end else Status.FAILED
        asked = task.revived < task.redrives + self.redrives.get((task.asked.tenant, task.asked.command), 0)
        self.demand(asked and status in REDRIVABLE, f"{task.task_id} had ended and did something else")
        task.revived += 1
        task.end = task.told = None
        self.count("redriven")

    def _ended_delivery(self, task: Known, state: rows_pb2.StateRow) -> None:
        slot = task.slots.get(state.ended_token)
        newest = max((token for token in task.slots if token <= self.top_token), default=0)
        self.demand(state.ended_token >= newest, f"{task.task_id} was ended by a lease that was over")
        returned = state.place == rows_pb2.PLACE_KIND_RETURNED
        if slot is None:
            return  # claimed and ended in one batch
        if state.redriven_lsn and not state.attempts and state.outcome == Outcome.BY_SERVER:
            return  # ended and redriven in one batch
        if state.outcome == Outcome.BY_SERVER and not returned and state.error == EXPIRED_ERROR:
            self.count("expired")
            self.demand(
                self._mono_ms() >= slot.until, f"the lease of {task.task_id} was promised until {slot.until} ms"
            )
        given_back = returned and (state.outcome == Outcome.BY_SERVER or state.abandons <= ABANDONS_MAX)
        expected = slot.attempts + (not given_back)
        self.demand(state.attempts == expected, f"{task.task_id} was delivered {expected} times, not {state.attempts}")
        if state.status == Status.DLQ:
            most = task.asked.max_attempts
            self.demand(not most or state.attempts == most, f"{task.task_id} is dead after {state.attempts} deliveries")

    def _matured(self, key: bytes, wall_ms: int) -> None:
        queue, due_ms, lane, position = keys.split_time_key(key)
        self.count("matured")
        task = self._by_home[keys.place_key(keys.lane_prefix(b"t", queue, lane), position)]
        cancelled = task.state is not None and task.state.status == Status.CANCELLED
        self.demand(
            cancelled or task.revived or due_ms <= wall_ms,
            f"{task.task_id} fell due at {wall_ms}, {due_ms - wall_ms} ms too early",
        )

    # -- what leaves ---------------------------------------------------------------------------------------------

    def leaves(self, message: Any) -> None:
        """Judges an answer at the moment it leaves: what it tells is durable."""
        match message:
            case producer_service_pb2.ProduceResponse():
                created = [task_id for ack in message.acks for task_id in ack.task_ids if task_id]
            case task_service_pb2.CreateTaskResponse():
                created = [message.task.id]
            case task_service_pb2.BatchCreateTasksResponse():
                created = [item.task.id for item in message.results if item.HasField("task")]
            case task_service_pb2.ListTasksResponse() | queue_service_pb2.ListDeadLettersResponse():
                created = []
                for task in message.tasks:
                    self._shown(task)
            case worker_service_pb2.WorkResponse() | task_service_pb2.ClaimTasksResponse():
                created = []
                for task in message.tasks:
                    self._delivered(task)
            case (
                task_service_pb2.GetTaskResponse()
                | task_service_pb2.GetTaskResultResponse()
                | task_service_pb2.CancelTaskResponse()
                | task_service_pb2.RedriveTaskResponse()
            ):
                created = []
                self._shown(message.task)
            case _:
                created = []
        for task_id in created:
            self.demand(task_id in self.tasks, f"{task_id} is acknowledged and not durable")

    def _delivered(self, task: task_pb2.Task) -> None:
        self.demand(task.lease_token in self.tokens, f"{task.id} is delivered under a lease that is not durable")
        known = self.tasks.get(task.id)
        self.demand(known, f"{task.id} is delivered and not durable")
        assert known is not None
        self.demand(self.asked[task.payload] == known.asked, f"{task.id} is delivered with the payload of another")
        self.demand(task.attempts <= (task.max_attempts or 1 << 30), f"{task.id} is delivered too often")

    def _shown(self, task: task_pb2.Task) -> None:
        known = self.tasks.get(task.id)
        self.demand(known, f"{task.id} is shown and not durable")
        assert known is not None
        if task.status in ENDED:
            durable = any(end.status == task.status for end in known.ends)
            self.demand(durable, f"{task.id} is shown as ended, which is not durable")
        elif task.status == task_pb2.TASK_STATUS_CLAIMED:
            self.demand(task.lease_token in self.tokens, f"{task.id} is shown under a lease that is not durable")
        if known.told is not None:
            self.demand(
                task.status == known.told[1], f"{task.id} is shown as {task.status}, its worker was told otherwise"
            )

    # -- what clients were told ------------------------------------------------------------------------------------

    def created(self, tenant: str, task_id: str, payload: bytes) -> None:
        """A producer got the id of a task."""
        known = self.tasks[task_id]
        self.demand(known.asked is self.asked[payload] and known.asked.tenant == tenant, f"{task_id} is another's task")
        self.acked.add(task_id)

    def extended(self, task_id: str, token: int, until_ms: int) -> None:
        """A worker was promised a lease until then, on the monotonic clock."""
        self.count("extended")
        slot = self.tasks[task_id].slots.get(token)
        if slot is not None:
            slot.until = max(slot.until, until_ms)

    def accepted(self, task_id: str, token: int, status: int, result: bytes) -> None:
        """A worker was told that its end of a task is accepted."""
        self.count("accepted")
        known = self.tasks[task_id]
        if known.revived and (known.end is None or known.end.ended_token != token):
            return  # it is the end of an earlier life
        self.demand(known.end, f"the end of {task_id} is acknowledged and not durable")
        assert known.end is not None
        self.demand(
            (known.end.ended_token, known.end.status, known.end.result) == (token, status, result),
            f"{task_id} was ended under lease {token} by its worker's knowledge, and is not so",
        )
        self.demand(known.told in {None, (token, status, result)}, f"two ends of {task_id} are accepted")
        known.told = (token, status, result)

    def cancelled(self, task_id: str) -> None:
        """A producer was told that a task is cancelled."""
        self.count("cancelled")
        known = self.tasks[task_id]
        if known.revived and (known.end is None or known.end.status != Status.CANCELLED):
            return  # it is the end of an earlier life
        cancelled = known.end is not None and known.end.status == Status.CANCELLED
        self.demand(cancelled, f"the cancel of {task_id} is acknowledged and not durable")
        told = (0, int(Status.CANCELLED), b"")
        self.demand(known.told in {None, told}, f"{task_id} is cancelled, and its end was accepted")
        known.told = told

    def finish(self) -> None:
        """Judges the end of a run in which every fault is over and everybody has had time."""
        lost = self.acked - self.tasks.keys()
        self.demand(not lost, f"acknowledged and lost: {sorted(lost)}")
        waiting = sorted(task.task_id for task in self.tasks.values() if task.end is None)
        self.demand(not waiting, f"never ended: {waiting}")
