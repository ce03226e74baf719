"""The rules of the offline checker.

Each task has exactly one state according to its rows. Every pointer, lease and index entry leads to a task in the state
that the entry implies. Counters equal recounts. One pass over the rows in key order is enough, because the rows that
refer to a task ("b", "d", "e", "i", "l", "r", "s") come before its home ("t"). A waiting task without a state row takes
no memory unless it has an ordering key, and every other task takes a number or two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from codeq.v1.task_pb2 import Task, TaskStatus
from codeq_internal.v1 import rows_pb2
from google.protobuf.message import DecodeError

from codeq_server.core import keys, tenant_keys
from codeq_server.core.ids import shard_of
from codeq_server.core.parsing import UNREADABLE

from .checker_audit import AuditRows
from .checker_contents import ContentRows
from .checker_ended import ENDED, EndedRows
from .checker_gates import GateRows
from .checker_homes import listed_homes, pack, queues_match
from .checker_leases import TOKEN_COUNTER_BITS, LeaseRows, Slot
from .checker_names import NameRows
from .checker_outbox import OutboxRows, endpoint_problems
from .checker_places import PlaceRows
from .checker_queues import CheckedLane, CheckedQueue
from .checker_schedules import ScheduleRows
from .checker_subscriptions import subscription_problems
from .checker_times import TimeRows
from .checker_topics import topic_problems
from .findings import Difference, Summary

_QUEUED: Final = rows_pb2.PLACE_KIND_QUEUED
_DUE: Final = rows_pb2.PLACE_KIND_DUE
_RETURNED: Final = rows_pb2.PLACE_KIND_RETURNED
_BLOCKED: Final = rows_pb2.PLACE_KIND_BLOCKED
_GONE: Final = -2
"""Lane of a task that has ended."""


class Checker:
    """Processes rows in key order, and collects differences in `found`.

    Its dictionaries drop an entry when the row that confirms it arrives; entries left at the end are wrong.
    """

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.found: list[Difference] = []
        self._last = b""
        self._identity: rows_pb2.IdentityRow | None = None
        self._tick: rows_pb2.TickRow | None = None
        self._queues: dict[int, CheckedQueue] = {}
        self._names: set[tuple[str, str]] = set()
        self._audit_rows = AuditRows()
        self._content_rows = ContentRows()
        self._due_rows = TimeRows("due index")
        self._expiry_rows = TimeRows("expiry index")
        self._gate_rows = GateRows()
        self._lease_rows = LeaseRows()
        self._moved: dict[int, int] = {}
        """By home with a state row: the lane in which its task should be waiting, -1, or _GONE."""
        self._place_rows = PlaceRows()
        self._dead: dict[int, int] = {}
        """By home of a task that should be in the dead-letter index: the task's end time."""
        self._ended_rows = EndedRows()
        self._name_rows = NameRows()
        self._schedule_rows = ScheduleRows()
        self._outbox_rows = OutboxRows()
        self._prefix = b""
        self._lane_now = CheckedLane(0, "", None)
        self._handlers = {
            keys.AUDIT: self._audit_row,
            keys.BLOCKED: self._blocked_row,
            keys.CONTENTS: self._content_row,
            keys.UNDECIDED: self._undecided_row,
            keys.DUE: self._due_row,
            keys.ENDPOINTS: self._endpoint_row,
            keys.EXPIRY: self._expiry_row,
            keys.NAMES: self._name_row,
            keys.SCHEDULES: self._schedule_row,
            keys.FIRES: self._fire_row,
            keys.LEASES: self._lease_row,
            keys.META: self._meta_row,
            keys.TENANTS: self._tenant_row,
            keys.TOPICS: self._topic_row,
            keys.OUTBOX: self._outbox_row,
            keys.QUEUES: self._queue_row,
            keys.RETRIES: self._retry_row,
            keys.ENDED: self._ended_row,
            keys.STATES: self._state_row,
            keys.TASKS: self._task_row,
            keys.RETURNED: self._returned_row,
            keys.EXTENSIONS: self._extension_row,
            keys.DEAD_LETTERS: self._dead_row,
            keys.SUBSCRIPTIONS: self._subscription_row,
        }

    def row(self, key: bytes, value: bytes) -> None:
        """Processes the next row."""
        if key <= self._last:
            raise ValueError("rows are not in key order")
        self._last = key
        self.summary.rows += 1
        table = key[:1]
        handler = self._handlers.get(table)
        if handler is None:
            self._report(key, "unknown prefix")
        elif len(key) != keys.KEY_BYTES.get(table, len(key)):
            self._report(key, "malformed key")
        else:
            try:
                handler(key, value)
            except (DecodeError, *UNREADABLE) as error:
                self._report(key, f"unreadable value: {error}")

    def _report(self, key: bytes, problem: str) -> None:
        self.summary.differences += 1
        self.found.append(Difference(key, problem))

    def _report_all(self, key: bytes, problems: Iterable[str]) -> None:
        for problem in problems:
            self._report(key, problem)

    # -- rows that come before the tasks -------------------------------------------------------------------------

    def _audit_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._audit_rows.row(key, value))

    def _subscription_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, subscription_problems(key, value))

    def _blocked_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._gate_rows.row(key, value))

    def _content_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._content_rows.chunk(key, value))

    def _undecided_row(self, key: bytes, value: bytes) -> None:
        self._content_rows.undecided(key, value)

    def _due_row(self, key: bytes, value: bytes) -> None:
        keys.split_due_value(value)
        self._report_all(key, self._due_rows.row(key, value))

    def _expiry_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._expiry_rows.row(key, value))

    def _endpoint_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, endpoint_problems(key, value))

    def _outbox_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._outbox_rows.row(key, value))

    def _name_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._name_rows.row(key, value))

    def _schedule_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._schedule_rows.row(key, value))

    def _fire_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._schedule_rows.fire(key, value))

    def _lease_row(self, key: bytes, value: bytes) -> None:
        self.summary.leases += 1
        self._report_all(key, self._lease_rows.row(key, value))

    def _meta_row(self, key: bytes, value: bytes) -> None:
        if key == keys.IDENTITY:
            self._identity = rows_pb2.IdentityRow.FromString(value)
            if not 0 < self._identity.format <= keys.FORMAT:
                self._report(key, f"format {self._identity.format}, not 1 to {keys.FORMAT}")
            for token in self._lease_rows.tokens:
                self._check_token(keys.lease_key(token), token)
        elif key == keys.TICK:
            self._tick = rows_pb2.TickRow.FromString(value)
            self.summary.lsn = self._tick.lsn
            if self._audit_rows.latest_ms > self._tick.wall_ms:
                self._report(key, f"the last audit record is of {self._audit_rows.latest_ms}, after the last batch")
            oldest = min(self._lease_rows.tokens, default=self._tick.oldest_lease)
            if oldest < self._tick.oldest_lease:
                self._report(key, f"oldest lease {self._tick.oldest_lease}, but {oldest} exists")
        else:
            self._report(key, "unknown name")

    def _tenant_row(self, key: bytes, value: bytes) -> None:
        rows_pb2.TenantRow.FromString(value)
        if not tenant_keys.tenant_of(key):
            self._report(key, "names no tenant")

    def _topic_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, topic_problems(key, value, self._tick))

    def _check_token(self, key: bytes, token: int) -> None:
        if self._identity is not None and token >> TOKEN_COUNTER_BITS > self._identity.epoch:
            self._report(key, f"token {token} is above the epoch {self._identity.epoch}")

    def _check_lsn(self, key: bytes, lsn: int) -> None:
        if self._tick is not None and lsn > self._tick.lsn:
            self._report(key, f"batch {lsn} is above the last one, {self._tick.lsn}")

    def _queue_row(self, key: bytes, value: bytes) -> None:
        row = rows_pb2.QueueRow.FromString(value)
        name = (row.tenant, row.command)
        if name in self._names:
            self._report(key, f"another queue has the name {name}")
        self._names.add(name)
        queue_number = keys.queue_of(key)
        if self._tick is not None and queue_number > self._tick.last_queue:
            self._report(key, f"is above the number of the most recently opened queue, {self._tick.last_queue}")
        self._queues[queue_number] = queue = CheckedQueue(row)
        self.summary.queues += 1
        self._report_all(key, self._due_rows.queue(queue_number, row.due_mark))
        self._report_all(key, self._expiry_rows.queue(queue_number, row.expire_mark))
        self._report_all(key, queue.malformed(self._tick))
        self._report_all(key, self._outbox_rows.queue(queue_number, row))
        queue.expiring = self._expiry_rows.count(queue_number)

    def _ended_row(self, key: bytes, value: bytes) -> None:
        _, lsn, entry = keys.split_ended_key(key)
        row = rows_pb2.EndedRow.FromString(value)
        if row.lsn != lsn:
            self._report(key, f"the value says batch {row.lsn}")
        self._check_lsn(key, lsn)
        if self._tick is not None and key[1:] <= self._tick.sweep_mark:
            self._report(key, "lies before the sweep's mark")
        if not queues_match(row.queues, row.homes):
            self._report(key, "queues do not match the homes")
        dead, completed = bool(entry & keys.ENDED_DEAD), bool(entry & keys.ENDED_COMPLETED)
        homes = listed_homes(row.queues, row.homes)
        for home in self._ended_rows.row(lsn, homes, dead=dead, completed=completed):
            self._report(key, f"task {keys.packed_key(keys.TASKS, home).hex()} is listed as ended twice")

    # -- state rows ----------------------------------------------------------------------------------------------

    def _state_row(self, key: bytes, value: bytes) -> None:
        home = keys.split_packed_key(key)
        state = rows_pb2.StateRow.FromString(value)
        self._check_token(key, state.ended_token)
        live = [slot for slot in self._lease_rows.take(home) if slot.token > state.ended_token]
        queue = self._queue(key)
        queue.filed += any(each.file for each in state.artifacts)
        if state.artifacts and not state.ended_lsn:
            self._report(key, "has not ended, yet has artifacts")
        self._report_all(key, self._content_rows.state(key, state))
        self._moved[home] = -1
        self._report_all(key, self._ended_rows.state(home, state))
        self._report_all(key, self._outbox_rows.state(home, state))
        if state.ordering_number:
            self._gate_rows.renumbered(home, state.ordering_number)
        if state.ended_lsn or state.status in ENDED:
            self._moved[home] = _GONE
            if live:
                self._report(key, f"has ended, yet is leased by {live[0].token}")
            self._end(key, home, state, queue)
        elif live:
            queue.claimed += 1
            self.summary.claimed += 1
            place = 1 << 56 | state.place_lane << 48 | state.place_at
            if not state.place and not state.ended_token:
                place = 0  # progress of the first delivery
            if state.place == _RETURNED and place & (1 << 56) - 1 == home & (1 << 56) - 1:
                place = 0
            if len(live) > 1:
                self._report(key, f"is leased twice, by {live[0].token} and {live[1].token}")
            elif live[0].attempts != state.attempts or live[0].place != place:
                self._report(key, f"place or attempts differ from those in lease row {live[0].token}")
        else:
            self._wait(key, home, state, queue)

    def _end(self, key: bytes, home: int, state: rows_pb2.StateRow, queue: CheckedQueue) -> None:
        name = ENDED.get(state.status)
        if name is None or not state.ended_lsn:
            self._report(key, f"status {state.status} with an end in batch {state.ended_lsn}")
            return
        self._check_lsn(key, state.ended_lsn)
        setattr(self.summary, name, getattr(self.summary, name) + 1)
        if name in queue.ended:
            queue.ended[name] += 1
        if name == "dlq":
            queue.dlq += 1
            self._dead[home] = state.changed_ms

    def _wait(self, key: bytes, home: int, state: rows_pb2.StateRow, queue: CheckedQueue) -> None:
        scheduled = state.place == _DUE
        if state.status != (TaskStatus.TASK_STATUS_SCHEDULED if scheduled else TaskStatus.TASK_STATUS_PENDING):
            self._report(key, f"status {state.status} with place {state.place}")
        if scheduled:
            queue.scheduled += 1
            self.summary.scheduled += 1
            value = self._due_rows.take(home, state.place_at)
            if value is None:
                self._report(key, f"waits for {state.place_at}, but the due index has no such entry")
                return
            if state.place_at != state.changed_ms + state.delay_ms:
                self._report(key, f"waits for {state.place_at}, not for {state.delay_ms} ms after {state.changed_ms}")
            lane, attempts, has_state = keys.split_due_value(value)
            if attempts != state.attempts or not has_state:
                self._report(key, "attempts differ from those in the due index")
            self._moved[home] = lane
        elif state.place in {_QUEUED, _RETURNED} and state.place_lane < keys.LANES:
            table = keys.TASKS if state.place == _QUEUED else keys.RETURNED
            place = pack(home >> 56, state.place_lane, state.place_at)
            self._report_all(key, self._place_rows.waits(table, place, home, state.attempts))
            self._moved[home] = state.place_lane
        elif state.place == _BLOCKED and state.place_lane < keys.LANES:
            queue.blocked += 1
            self.summary.pending += 1
            self._report_all(key, self._gate_rows.waits(home, state, purged=queue.row.HasField("purge")))
            self._moved[home] = state.place_lane
        else:
            self._report(key, "has not ended, is not leased, and does not wait anywhere")

    # -- tasks and the indexes that come after them --------------------------------------------------------------

    def _queue(self, key: bytes) -> CheckedQueue:
        queue_number = keys.queue_of(key)
        queue = self._queues.get(queue_number)
        if queue is None:
            self._report(key, f"queue {queue_number} has no row")
            queue = self._queues[queue_number] = CheckedQueue(rows_pb2.QueueRow())
        return queue

    def _lane(self, key: bytes) -> CheckedLane:
        if key[1:6] != self._prefix:
            queue, index = self._queue(key), key[5]
            self._prefix = key[1:6]
            self._lane_now = queue.lanes.get(index) or CheckedLane(index, queue.row.command, None)
        return self._lane_now

    def _task_row(self, key: bytes, value: bytes) -> None:
        lane = self._lane(key)
        position = keys.split_place_key(key)[2]
        if position > lane.tail or not position:
            self._report(key, f"lies above the lane's tail, {lane.tail}")
        kind = value[:1]
        if kind == keys.POINTER and lane.index < keys.LANES:
            self._pointer_row(key, value, lane, position)
        elif kind == keys.HOME and lane.index < keys.LANES:
            self._home_row(key, value, lane, position, lane.index)
        elif kind == keys.DEAD and lane.index < keys.LANES:
            if keys.split_packed_key(key) not in self._moved:
                self._report(key, "was left by its task, which has no state row")
            self._home_row(key, value, lane, position, lane.index)
        elif kind == keys.PARKED and lane.index == keys.PARKED_LANE:
            self._home_row(key, value, lane, position, keys.split_parked(value)[1])
        else:
            self._report(key, f"kind {kind!r} in lane {lane.index}")

    def _pointer_row(self, key: bytes, value: bytes, lane: CheckedLane, position: int) -> None:
        if position <= lane.mark:
            self._report(key, f"a pointer not above the lane's mark, {lane.mark}")
        if self._lease_rows.lists(keys.split_packed_key(key)) or keys.split_packed_key(key) in self._moved:
            self._report(key, "rows take this pointer for a task's home")
        self._lead_home(key, value, lane)

    def _lead_home(self, key: bytes, value: bytes, lane: CheckedLane) -> None:
        """Counts the task that a pointer leads to, if it waits at this place."""
        if self._place_rows.pointer(key, value):
            self.summary.pending += 1
            lane.ready += 1
        else:
            self._report(key, "leads to a task that does not wait here with these attempts")

    def _home_row(self, key: bytes, value: bytes, lane: CheckedLane, position: int, priority_lane: int) -> None:
        identity = self._identity
        if (
            identity is not None
            and identity.num_shards > 1
            and not identity.resharded
            and (name := keys.name_of(value))
        ):
            leads_to = shard_of(name, identity.num_shards)
            if leads_to != identity.shard:
                self._report(key, f"the id {name!r} leads to shard {leads_to}, but this is shard {identity.shard}")
        if self._identity is not None and not 0 < keys.home_epoch(value) <= self._identity.epoch:
            self._report(key, f"epoch {keys.home_epoch(value)} is not within that of the store")
        queue = self._queue(key)
        queue.homes += 1
        queue.named += bool(keys.name_of(value))
        self._report_all(key, self._name_rows.home(keys.split_packed_key(key), queue.row.tenant, value))
        task = Task.FromString(keys.task_bytes(value))
        if task.command != lane.command or task.priority != keys.LANES - 1 - priority_lane:
            self._report(key, "command or priority differ from its queue and lane")
        home = keys.split_packed_key(key)
        queue.hooked += task.HasField("webhook")
        self._report_all(key, self._outbox_rows.home(home, task))
        self._report_all(key, self._expiry_rows.expires(home, task, self._tick.wall_ms if self._tick else 0))
        waits_in = self._moved.pop(home, None)
        gates = self._gate_rows.home(home, value, ended=waits_in == _GONE, keyed=queue.row.keyed)
        self._report_all(key, gates)
        slots = self._lease_rows.take(home)
        if waits_in is not None:
            if value[:1] == keys.HOME and position > lane.mark:
                self._report(key, f"has a state row, yet lies above the lane's mark, {lane.mark}")
            if waits_in not in {_GONE, -1, priority_lane}:
                self._report(key, f"waits in lane {waits_in}, but its priority's lane is {priority_lane}")
        else:
            self._new_task(key, value, lane, position, slots)

    def _new_task(self, key: bytes, value: bytes, lane: CheckedLane, position: int, slots: list[Slot]) -> None:
        """Processes the home of a task without a state row."""
        parked, home = lane.index == keys.PARKED_LANE, keys.split_packed_key(key)
        self._report_all(key, self._ended_rows.home(home))
        if slots:
            self._first_delivery(key, slots, above=parked or position > lane.mark)
        elif parked:
            self._first_due(key, value, home)
        elif position > lane.mark:
            lane.ready += 1
            self.summary.pending += 1
        else:
            self._report(key, f"is not above the lane's mark, {lane.mark}, and has neither a state row nor a lease")

    def _first_delivery(self, key: bytes, slots: list[Slot], *, above: bool) -> None:
        self._queue(key).claimed += 1
        self.summary.claimed += 1
        if len(slots) > 1:
            self._report(key, f"is leased twice, by {slots[0].token} and {slots[1].token}")
        elif slots[0].place or slots[0].attempts:
            self._report(key, f"has no state row, yet lease row {slots[0].token} knows an earlier delivery")
        if above:
            self._report(key, f"was never taken from its place, yet is leased by {slots[0].token}")

    def _first_due(self, key: bytes, value: bytes, home: int) -> None:
        self._queue(key).scheduled += 1
        self.summary.scheduled += 1
        due_ms, lane = keys.split_parked(value)
        if self._due_rows.take(home, due_ms) != keys.due_value(lane, 0, has_state=False):
            self._report(key, f"waits for {due_ms}, but the due index has no such entry")

    def _returned_row(self, key: bytes, value: bytes) -> None:
        lane = self._lane(key)
        if keys.split_place_key(key)[2] > lane.mark:
            self._report(key, f"was given back to a place above the lane's mark, {lane.mark}")
        self._lead_home(key, value, lane)

    def _extension_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._lease_rows.extension(key, value))

    def _retry_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._outbox_rows.retry(key, value))

    def _dead_row(self, key: bytes, value: bytes) -> None:
        queue, ended_ms, lane, position = keys.split_time_key(key)
        home = pack(queue, lane, position)
        if self._dead.get(home) == ended_ms and not value:
            del self._dead[home]
        else:
            self._report(key, "leads to no dead letter that ended then, or has a value")

    # -- the end -------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Reports entries that no row confirmed, and counters that differ from recounts."""
        if self.summary.rows and self._identity is None:
            self._report(keys.IDENTITY, "is missing")
        if self.summary.rows > 1 and self._tick is None:
            self._report(keys.TICK, "is missing")
        for key, problem in (*self._due_rows.finish(), *self._expiry_rows.finish(), *self._content_rows.finish()):
            self._report(key, problem)
        self._check_listed()
        for home in self._moved:
            self._report(keys.packed_key(keys.STATES, home), "has no home")
        for key, problem in (*self._place_rows.finish(), *self._gate_rows.finish()):
            self._report(key, problem)
        for home in self._dead:
            self._report(keys.packed_key(keys.STATES, home), "is not in the dead-letter index with this end")
        for key, problem in (*self._name_rows.finish(), *self._schedule_rows.finish(), *self._outbox_rows.finish()):
            self._report(key, problem)
        self._check_counters()

    def _check_listed(self) -> None:
        """Reports homes in ended rows that never existed; redriven tasks that were removed may still be listed."""
        for home, problem in self._ended_rows.finish():
            queue = self._queues.get(home >> 56)
            if queue is None and self._tick is not None and home >> 56 <= self._tick.last_queue:
                continue  # the queue was dropped as well
            index, position = keys.unpack_home(home & (1 << 56) - 1)
            lane = None if queue is None else queue.lanes.get(index)
            if lane is None or not 0 < position <= lane.tail:
                self._report(keys.packed_key(keys.TASKS, home), problem)

    def _check_counters(self) -> None:
        for queue_number, queue in self._queues.items():
            self._report_all(keys.queue_key(queue_number), queue.miscounted())
