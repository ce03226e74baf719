"""The judge of a run: checks every batch as it becomes durable, and every answer as it leaves the server.

It knows the requests, the answers and the durable rows, but not the server's memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import sim_acts
import sim_delays
import sim_history
import sim_keys
import sim_messages
import sim_policies
import sim_purges
import sim_quotas
import sim_receiver
import sim_schedules
from codeq.v1 import producer_service_pb2, task_pb2
from codeq_internal.v1 import rows_pb2
from codeq_server.core import ids, keys
from codeq_server.core.history import End
from codeq_server.core.outcomes import ABANDONS_MAX, EXPIRED_ERROR
from codeq_server.core.status import Outcome, Status
from codeq_server.services.convert import unix_ms
from codeq_server.storage.check import check
from codeq_server.storage.memory import MemoryStore
from sim_messages import Asked

RETENTION_MS = {False: 6_000, True: 9_000}
"""How long ended tasks are kept: COMPLETED and FAILED, and DLQ."""
REDRIVABLE = frozenset({Status.FAILED, Status.DLQ, Status.CANCELLED})
ENDED = REDRIVABLE | {Status.COMPLETED}


class Violation(AssertionError):  # noqa: N818 - names what it is
    """A promise was broken."""


@dataclass
class Known:
    """A task according to the durable rows.

    `end` and `told` belong to its current life: how it ended, and the acknowledged token and outcome. `ends` lists
    the ends of all lives, `revived` counts its redrives, and `redrives` the requests for them.
    `before` is the task that had this id until it was removed.
    """

    task_id: str
    asked: Asked
    created_ms: int = 0
    before: Known | None = None
    state: rows_pb2.StateRow | None = None
    end: rows_pb2.StateRow | None = None
    end_wall_ms: int = 0
    removed: bool = False
    slots: dict[int, Slot] = field(default_factory=dict)
    told: tuple[int, int, bytes] | None = None
    told_at: int = 0
    ended_at: int = 0
    """Serial number of the audit when the task ended."""
    ends: list[rows_pb2.StateRow] = field(default_factory=list)
    revived: int = 0
    redrives: int = 0
    born: int = 0
    """Number of the batch that made the task durable."""


@dataclass
class Slot:
    """A durable delivery: attempts before it, its holder, and the earliest end of its lease in monotonic ms."""

    attempts: int
    holder: tuple[str, str]
    until: int


class Audit:
    """Judges one run.

    Args:
        mono_ms: Returns the time on the monotonic clock.
        checked: Whether inconsistent rows count as a broken promise.
        window: Maximum number of batches in flight.
    """

    def __init__(self, mono_ms: Any, *, checked: bool, window: int = 1) -> None:
        self.rows = MemoryStore()
        self.asked: dict[bytes, Asked] = {}
        self.acked: set[tuple[str, str]] = set()
        """Tenants and ids of tasks acknowledged to producers."""
        self.tasks: dict[tuple[str, str], Known] = {}
        """The last task with each id, by tenant and id."""
        self.ids: dict[tuple[str, tuple[str, str, int]], str] = {}
        """The id that follows from a name, by tenant and name."""
        self.tokens: set[int] = set()
        self.top_token = 0
        self.batches = 0
        self.calls = sim_receiver.Calls()
        self.digest = sha256()
        self.violations: list[str] = []
        self.counts: dict[str, int] = {}
        self.sends: Counter[bytes] = Counter()
        """How often a task was requested in requests that a server may have processed; by payload."""
        self.made: Counter[bytes] = Counter()
        """How often a task was created; by payload."""
        self.redrives: dict[tuple[str, str], int] = {}
        """How often a redrive of all tasks of a queue was requested."""
        self.purges: dict[tuple[str, str], list[sim_purges.Purge]] = {}
        """Requested purges of each queue."""
        self.quotas: dict[str, list[tuple[int, int]]] = {}
        """Quotas requested for each tenant, each with the number of batches at that time."""
        self.consumers: dict[tuple[str, str], list[tuple[int, int]]] = {}
        """Limits of consumers requested for each queue, likewise."""
        self.delays: dict[tuple[str, str, int], int] = {}
        """Delays in ms with which workers abandon tasks, by tenant, task and token."""
        self.cleaned: dict[str, int] = {}
        """Time before which ended tasks of a tenant may be deleted early."""
        self._resuming: Counter[tuple[str, str]] = Counter()
        self._resumed: dict[tuple[str, str], int] = {}
        """Last batch in which a queue may have resumed."""
        self._mono_ms = mono_ms
        self._checked = checked
        self._times = [0] * (window + 2)
        """Times at which recent batches became durable; a claim is decided after all but the last `window` of them."""
        self.serial = 0
        """Grows with every answer to a client, and with every end that becomes durable."""
        self.by_home: dict[bytes, Known] = {}
        self._first: dict[bytes, int] = {}
        """Position of the latest first delivery in each lane."""

    def demand(self, promise: object, text: str) -> None:
        """Records and raises a Violation unless the promise holds."""
        if not promise:
            self.violations.append(text)
            raise Violation(text)

    def count(self, what: str) -> None:
        """Counts an event, so that tests can check that runs cover it."""
        self.counts[what] = self.counts.get(what, 0) + 1

    @contextmanager
    def resuming(self, tenant: str, command: str) -> Iterator[None]:
        """Notes that a resume of a queue is in flight: one batch may resume it, deliver from it, and pause it again."""
        self._resuming[tenant, command] += 1
        try:
            yield
        finally:
            self._resuming[tenant, command] -= 1
            self._resumed[tenant, command] = self.batches + 1

    # -- durable batches -------------------------------------------------------------------------------------------

    def durable(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Judges a batch."""
        for key in sorted(rows):
            self.digest.update(key + b"=" + (rows[key] or b"-"))
        self._times = [*self._times[1:], self._mono_ms()]
        tick = rows.get(keys.TICK)
        if tick is not None:
            self._batch(rows, rows_pb2.TickRow.FromString(tick))
        self.rows.write(rows)
        if self._checked:
            found = [str(difference) for difference in check(self.rows.scan(b"", b"\xff" * 8, 1 << 30))]
            self.demand(not found, f"rows are inconsistent: {found}")

    def _batch(self, rows: Mapping[bytes, bytes | None], tick: rows_pb2.TickRow) -> None:
        self.batches += 1
        old = self.rows.get(keys.TICK)
        self.demand(
            tick.lsn == (rows_pb2.TickRow.FromString(old).lsn if old else 0) + 1, "a batch is missing in the log"
        )
        table: dict[bytes, list[tuple[bytes, bytes | None]]] = {}
        for key, value in sorted(rows.items()):
            table.setdefault(key[:1], []).append((key, value))
        made: Counter[bytes] = Counter()
        for key, value in sorted(table.get(b"t", ()), key=lambda row: row[1] is not None):  # a name may be used again
            self._home(key, value, tick.wall_ms, made)
        for payload, often in made.items():
            together = {made[other] for other in self.asked[payload].group} | {often}
            self.demand(together == {often}, "an atomic batch is only partly durable")
        for key, value in table.get(b"l", ()):
            self._lease(int.from_bytes(key[1:], "big"), value, rows)
        for key, value in table.get(b"s", ()):
            if value is not None:
                self._state(b"t" + key[1:], rows_pb2.StateRow.FromString(value), tick)
        for key, value in table.get(b"d", ()):
            if value is None and self.rows.get(key) is not None:
                sim_delays.judge_due(self, key, tick.wall_ms)
        sim_quotas.judge(self, rows, table)
        sim_policies.judge(self, rows)
        sim_purges.judge_queue_rows(self, table.get(b"q", ()))
        sim_acts.judge(self, table)
        sim_schedules.judge(self, table)
        self.calls.batch(self, table.get(b"o", ()))
        sim_keys.judge(self)
        if table.get(b"l"):
            self.top_token = max(self.top_token, *(int.from_bytes(key[1:], "big") for key, _ in table[b"l"]))

    def _home(self, key: bytes, value: bytes | None, wall_ms: int, made: Counter[bytes]) -> None:
        before = self.by_home.get(key)
        if value is None:
            if before is not None and not before.removed:
                self._removed(before, wall_ms)
            return
        if value[:1] == keys.POINTER:
            return
        raw = task_pb2.Task.FromString(keys.task_bytes(value))
        queue, lane, position = keys.split_place_key(key)
        name = keys.name_of(value)
        task_id = name or ids.task_id(queue, lane, position, keys.home_epoch(value))
        self.demand(before is None or before.task_id == task_id, f"another task took the home of {before}")
        asked = self.asked.get(raw.payload) or sim_schedules.fired(self, raw.payload, wall_ms)
        self.demand(asked, f"{task_id} was never requested")
        assert asked is not None
        self.demand(
            (raw.command, raw.priority) == (asked.command, asked.priority), f"{task_id} differs from the request"
        )
        if before is None:
            self.demand(bool(name) == bool(asked.name), f"{task_id} is not named as its producer asked")
            self._check_name(asked, task_id)
            last = self.tasks.get((asked.tenant, task_id))
            self.demand(last is None or last.removed, f"two tasks have the id {task_id}")
            known = Known(task_id, asked, unix_ms(raw.created_at), last)
            known.born = self.batches
            known.redrives = last.redrives if last else 0  # their calls may have been in flight
            self.tasks[asked.tenant, task_id] = self.by_home[key] = known
            made[raw.payload] += 1
            self.made[raw.payload] += 1
            self.count("created")

    def _check_name(self, asked: Asked, task_id: str) -> None:
        if asked.name is not None:
            first = self.ids.setdefault((asked.tenant, asked.name), task_id)
            self.demand(task_id == first, f"{first} and {task_id} are both ids of {asked.name}")

    def _known(self, tenant: str, task: task_pb2.Task, told: str) -> Known:
        """Returns the task that a message to a tenant contains."""
        fitting, known = list[Known](), self.tasks.get((tenant, task.id))
        while known is not None:
            fitting += [known] * (known.created_ms == unix_ms(task.created_at))
            known = known.before
        self.demand(fitting, f"{task.id} is {told} but not durable, or not this tenant's")
        # Time stands still in a shard whose clock is set back. During that time a task may end, be deleted and be
        # created again.
        known = next((each for each in fitting if task.status in {end.status for end in each.ends}), fitting[0])
        asked = self.asked[task.payload]
        self.demand(asked is known.asked, f"{task.id} is {told} with the payload of another")
        self.demand(
            (task.tenant_id or tenant, task.command, task.priority) == (tenant, asked.command, asked.priority),
            f"{task.id} is {told} as another one",
        )
        return known

    def _under(self, tenant: str, task_id: str, token: int) -> Known:
        """Returns the task with this id to which a lease belonged."""
        last = known = self.tasks[tenant, task_id]
        while token not in known.slots and (known.end is None or known.end.ended_token != token):
            if known.before is None:
                return last
            known = known.before
        return known

    def _removed(self, task: Known, wall_ms: int) -> None:
        self.demand(task.end, f"{task.task_id} was removed and had not ended")
        assert task.end is not None
        kept_ms = wall_ms - task.end_wall_ms
        early = task.end.changed_ms < self.cleaned.get(task.asked.tenant, 0)
        self.demand(
            early or kept_ms >= RETENTION_MS[task.end.status == Status.DLQ],
            f"{task.task_id} was kept for only {kept_ms} ms",
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
            task = self.by_home[keys.place_key(prefix, position)]
            attempts = lease.attempts[index] if lease.attempts else 0
            if token in task.slots:
                continue
            self.demand(not self._is_held(queue, rows), f"{task.task_id} is delivered while its queue is held")
            self.demand(new, f"a lease row included {task.task_id} later")
            until = self._times[0] + lease.lease_ms
            task.slots[token] = Slot(attempts, (lease.worker, lease.subject or lease.worker), until)
            self.count("claimed")
            row = rows.get(keys.place_key(keys.lane_prefix(b"s", queue, lane), position))
            state = task.state if row is None else rows_pb2.StateRow.FromString(row)
            sim_delays.judge_claim(self, task, state, rows)
            if state is None or state.ended_token < token:
                before = state.attempts if state else 0
                self.demand(attempts == before, f"{task.task_id} had {before} deliveries, its lease says {attempts}")
            self.demand(attempts < (task.asked.max_attempts or 1 << 30), f"{task.task_id} is delivered too often")
            if state is None and lane < keys.LANES:
                self.demand(position > self._first.get(prefix, 0), f"{task.task_id} was overtaken within its lane")
                self._first[prefix] = position

    def _is_held(self, queue: int, rows: Mapping[bytes, bytes | None]) -> bool:
        """Returns whether a queue was paused or purged before, during and after a batch."""
        key = keys.queue_key(queue)
        stored = self.rows.get(key)
        before, after = (rows_pb2.QueueRow.FromString(row or b"") for row in (stored, rows.get(key, stored)))
        name = before.tenant, before.command
        may_have_gone_on = self._resuming[name] or self.batches <= self._resumed.get(name, 0)
        purged = before.HasField("purge") and before.purge == after.purge
        return purged or (before.paused and after.paused and not may_have_gone_on)

    def _state(self, home: bytes, state: rows_pb2.StateRow, tick: rows_pb2.TickRow) -> None:
        task = self.by_home[home]
        before, task.state = task.state, state
        ended = state.status in ENDED
        if (task.end is not None and state.ended_lsn != task.end.ended_lsn) or state.redriven_lsn == tick.lsn:
            self._revive(task)
        if task.end is not None:
            same = ended and state.ended_token == task.end.ended_token and state.status == task.end.status
            self.demand(same, f"{task.task_id} had ended and did something else")
        elif ended:
            task.end, task.end_wall_ms, task.ended_at = state, state.changed_ms, self._next()
            task.ends.append(state)
            self.demand(state.changed_ms <= tick.wall_ms, f"{task.task_id} ended in the future")
            self.count(Status(state.status).name)
            sim_purges.judge_end(self, task, home, before)
            if state.status == Status.FAILED and state.outcome != Outcome.FAILED:
                sim_delays.judge_expiry(self, task, state)
        if before is None or before.ended_token != state.ended_token:
            self.demand(
                before is None or state.ended_token > before.ended_token, f"{task.task_id}: an older lease ended it"
            )
            sim_history.judge(self, task, before, state)
            self._ended_delivery(task, state)

    def _next(self) -> int:
        self.serial += 1
        return self.serial

    def _revive(self, task: Known) -> None:
        """Judges the redrive of a task that had ended, possibly in the same batch."""
        status = task.end.status if task.end else Status.FAILED
        asked = task.revived < task.redrives + self.redrives.get((task.asked.tenant, task.asked.command), 0)
        self.demand(asked and status in REDRIVABLE, f"{task.task_id} had ended and did something else")
        if task.end is None:  # a client was notified of the task's end, which is in no batch
            task.ends += [rows_pb2.StateRow(status=int(ended)) for ended in REDRIVABLE]
        task.revived += 1
        task.end = task.told = None
        self.count("redriven")

    def _ended_delivery(self, task: Known, state: rows_pb2.StateRow) -> None:
        slot = task.slots.get(state.ended_token)
        newest = max((token for token in task.slots if token <= self.top_token), default=0)
        self.demand(state.ended_token >= newest, f"{task.task_id} was ended by an expired lease")
        by_server = state.outcome == Outcome.BY_SERVER
        returned = by_server and bool(state.deliveries) and state.deliveries[-1].end == End.RETURNED
        if slot is None or (state.redriven_lsn and not state.attempts and by_server):
            return  # claimed and ended, or ended and redriven, in one batch
        if by_server and not returned and state.error == EXPIRED_ERROR:
            self.count("expired")
            was_early = self._mono_ms() < slot.until
            self.demand(not was_early, f"the lease of {task.task_id} was promised until {slot.until} ms")
        sim_delays.judge_abandon(self, task, state)
        given_back = returned if state.outcome != Outcome.ABANDON else state.abandons <= ABANDONS_MAX
        expected = slot.attempts + (not given_back)
        # Given back and ended while waiting, in one batch: by a cancel, by a purge or by expiry.
        of_nobody = state.outcome in {Outcome.BY_SERVER, Outcome.ABANDON} and state.status != Status.DLQ
        right = {expected, slot.attempts} if of_nobody and state.ended_lsn else {expected}
        self.demand(state.attempts in right, f"{task.task_id} was delivered {expected} times, not {state.attempts}")
        if state.status == Status.DLQ:
            most = task.asked.max_attempts
            self.demand(not most or state.attempts == most, f"{task.task_id} is dead after {state.attempts} deliveries")

    # -- answers -------------------------------------------------------------------------------------------------

    def leaves(self, tenant: str, message: Any, since: int = -1) -> None:
        """Judges an answer to a tenant when it leaves: its contents must be durable and belong to the tenant.

        The answer must also reflect everything known at the time of the request, whose serial number is `since`.
        """
        since = self.serial if since < 0 else since
        for task in sim_messages.deliveries(message):
            self._delivered(tenant, task)
        for task in sim_messages.tasks_shown(message):
            self._shown(tenant, task, since)
        if isinstance(message, producer_service_pb2.ProduceResponse):
            for task_id in (task_id for ack in message.acks for task_id in ack.task_ids if task_id):
                self.demand((tenant, task_id) in self.tasks, f"{task_id} is acknowledged but not durable")

    def _delivered(self, tenant: str, task: task_pb2.Task) -> None:
        self.demand(task.lease_token in self.tokens, f"{task.id} is delivered under a lease that is not durable")
        self._known(tenant, task, "delivered")
        self.demand(task.attempts <= (task.max_attempts or 1 << 30), f"{task.id} is delivered too often")

    def _shown(self, tenant: str, task: task_pb2.Task, since: int) -> None:
        known = self._known(tenant, task, "shown")
        if task.status in ENDED:
            durable = any(end.status == task.status for end in known.ends)
            self.demand(durable, f"{task.id} is shown as ended, but its end is not durable")
        elif task.status == task_pb2.TASK_STATUS_CLAIMED:
            self.demand(task.lease_token in self.tokens, f"{task.id} is shown under a lease that is not durable")
        if known.told is not None and known.told_at <= since:
            self.demand(
                task.status == known.told[1], f"{task.id} is shown as {task.status}, but its worker was told otherwise"
            )
        if known.end is not None and known.ended_at <= since:
            self.demand(task.status in ENDED, f"{task.id} had ended before the request, but is shown as it was")

    # -- clients' knowledge ----------------------------------------------------------------------------------------

    def created(self, tenant: str, task_id: str, payload: bytes) -> None:
        """Records that a producer received the id of a task."""
        asked = self.asked[payload]
        known: Known | None = self.tasks[tenant, task_id]
        while known is not None and known.asked is not asked:
            known = known.before
        self.demand(known and asked.tenant == tenant, f"{task_id} is another's task")
        self._check_name(asked, task_id)
        self.acked.add((tenant, task_id))

    def refused(self, tenant: str, *names: tuple[str, str, int]) -> None:
        """Records that a create was rejected because another task has the id derived from one of these names."""
        self.count("refused")
        # The key of a task and the key of a batch collide.
        known = {(tenant, other) for kind, name, _ in names for other in ((kind, name, -1), (kind, name, 0))}
        self.demand(known & self.ids.keys(), f"a create is rejected for {names}, none of which is durable")

    def sent(self, request: Any, times: int = 1) -> None:
        """Records that a producer sends a request, or, with -1 times, learns that it was not processed."""
        for spec in sim_messages.specs(request):
            self.sends[spec.payload] += times

    def was_removed(self, tenant: str, payload: bytes) -> bool:
        """Returns whether a requested task existed and has been removed."""
        asked = self.asked[payload]
        known = self.tasks.get((tenant, self.ids.get((tenant, asked.name or ("", "", 0)), "")))
        return known is not None and known.removed

    def extended(self, tenant: str, task_id: str, token: int, until_ms: int) -> None:
        """Records that a worker was promised a lease until this time on the monotonic clock."""
        self.count("extended")
        slot = self._under(tenant, task_id, token).slots.get(token)
        if slot is not None:
            slot.until = max(slot.until, until_ms)

    def accepted(self, tenant: str, task_id: str, token: int, status: int, result: bytes) -> None:
        """Records that an outcome with which a worker ended a task was accepted."""
        self.count("accepted")
        known = self._under(tenant, task_id, token)
        if known.revived and (known.end is None or known.end.ended_token != token):
            return  # the end of an earlier life
        self.demand(known.end, f"the end of {task_id} is acknowledged but not durable")
        assert known.end is not None
        self.demand(
            (known.end.ended_token, known.end.status, known.end.result) == (token, status, result),
            f"{task_id} did not end as its worker was told, under lease {token}",
        )
        self.demand(known.told in {None, (token, status, result)}, f"two ends of {task_id} are accepted")
        if known.told is None:
            known.told, known.told_at = (token, status, result), self._next()

    def cancelled(self, tenant: str, task: task_pb2.Task) -> None:
        """Records that a producer got the confirmation of a cancel."""
        self.count("cancelled")
        known = self._known(tenant, task, "cancelled")
        task_id = known.task_id
        if known.revived and (known.end is None or known.end.status != Status.CANCELLED):
            return  # the end of an earlier life
        cancelled = known.end is not None and known.end.status == Status.CANCELLED
        self.demand(cancelled, f"the cancel of {task_id} is acknowledged but not durable")
        told = (0, int(Status.CANCELLED), b"")
        self.demand(known.told in {None, told}, f"{task_id} is cancelled, although its end was accepted")
        if known.told is None:
            known.told, known.told_at = told, self._next()

    @property
    def is_over(self) -> bool:
        """Whether every task has ended and was reported."""
        return not self.calls.due and all(task.end for task in self.tasks.values())

    def finish(self) -> None:
        """Judges the end of a run, after all faults are over and clients have had time to finish."""
        lost = self.acked - self.tasks.keys()
        self.demand(not lost, f"acknowledged and lost: {sorted(lost)}")
        often = [payload for payload, made in self.made.items() if made > self.sends[payload]]
        self.demand(not often, f"created more often than requested, by calls reported as unprocessed: {often}")
        waiting = sorted(task.task_id for task in self.tasks.values() if task.end is None)
        self.demand(not waiting, f"never ended: {waiting}")
        self.calls.finish(self)
