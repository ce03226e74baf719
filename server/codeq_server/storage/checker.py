"""The rules of the offline checker.

Each task has exactly one state according to its rows; every pointer, lease and index entry leads to a task in the state
it implies; counters equal recounts. One pass over the rows in key order is enough, because the rows that refer to a
task ("d", "e", "i", "l", "r", "s") come before its home ("t"). A waiting task without a state row takes no memory,
every other task a number or two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from codeq.v1.task_pb2 import Task, TaskStatus
from codeq_internal.v1 import rows_pb2
from google.protobuf.message import DecodeError

from codeq_server.core import keys
from codeq_server.core.parsing import UNREADABLE

from .checker_ended import ENDED, EndedRows
from .checker_names import NameRows
from .checker_queues import CheckedLane, CheckedQueue
from .checker_times import TimeRows
from .findings import Difference, Summary

_TOKEN_COUNTER_BITS: Final = 34
_LEASE_SLOTS_MAX: Final = 256
_TIME: Final = keys.TIME_KEY_BYTES
_KEY_BYTES: Final = {
    b"d": _TIME,
    b"e": _TIME,
    b"l": 9,
    b"q": 5,
    b"r": 19,
    b"s": 12,
    b"t": 12,
    b"u": 12,
    b"x": 9,
    b"z": _TIME,
}
_QUEUED: Final = rows_pb2.PLACE_KIND_QUEUED
_DUE: Final = rows_pb2.PLACE_KIND_DUE
_RETURNED: Final = rows_pb2.PLACE_KIND_RETURNED


class _Slot(NamedTuple):
    """A delivery listed in a lease row."""

    token: int
    place: int
    attempts: int


def _pack(queue: int, lane: int, position: int) -> int:
    """Returns a home or a place as one number, the one in its key."""
    return queue << 56 | lane << 48 | position


def _number(key: bytes) -> int:
    return int.from_bytes(key[1:], "big")


def _key(table: bytes, packed: int) -> bytes:
    """Returns the key of a packed home or place in table "t", "s" or "u"."""
    return table + packed.to_bytes(11, "big")


class Checker:
    """Takes rows in key order, and collects differences in `found`.

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
        self._tokens: set[int] = set()
        self._due_rows = TimeRows("due index")
        self._expiry_rows = TimeRows("expiry index")
        self._slots: dict[int, list[_Slot]] = {}
        """By home: its deliveries in lease rows."""
        self._moved: dict[int, int] = {}
        """By home with a state row: the lane in which it should wait, or -1."""
        self._pointers: dict[int, tuple[int, int]] = {}
        """By place where a pointer should be: home and attempts."""
        self._returned: dict[int, tuple[int, int]] = {}
        """The same for the returned index."""
        self._dead: dict[int, int] = {}
        """By home that should be in the dead-letter index: end time."""
        self._ended_rows = EndedRows()
        self._name_rows = NameRows()
        self._prefix = b""
        self._lane_now = CheckedLane(0, "", None)
        self._handlers = {
            b"d": self._due_row,
            b"e": self._expiry_row,
            b"i": self._name_row,
            b"l": self._lease_row,
            b"m": self._meta_row,
            b"q": self._queue_row,
            b"r": self._ended_row,
            b"s": self._state_row,
            b"t": self._task_row,
            b"u": self._returned_row,
            b"x": self._extension_row,
            b"z": self._dead_row,
        }

    def row(self, key: bytes, value: bytes) -> None:
        """Takes the next row."""
        if key <= self._last:
            raise ValueError("rows are not in the order of keys")
        self._last = key
        self.summary.rows += 1
        table = key[:1]
        handler = self._handlers.get(table)
        if handler is None:
            self._report(key, "unknown prefix")
        elif len(key) != _KEY_BYTES.get(table, len(key)):
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

    def _due_row(self, key: bytes, value: bytes) -> None:
        keys.split_due_value(value)
        self._report_all(key, self._due_rows.row(key, value))

    def _expiry_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._expiry_rows.row(key, value))

    def _name_row(self, key: bytes, value: bytes) -> None:
        self._report_all(key, self._name_rows.row(key, value))

    def _lease_row(self, key: bytes, value: bytes) -> None:
        token = int.from_bytes(key[1:], "big")
        self._tokens.add(token)
        self.summary.leases += 1
        row = rows_pb2.LeaseRow.FromString(value)
        count = len(row.homes)
        if not 0 < count <= _LEASE_SLOTS_MAX:
            self._report(key, f"lists {count} deliveries")
        if len(row.places) not in {0, count} or len(row.attempts) not in {0, count}:
            self._report(key, "places or attempts do not match the homes")
            return
        places: Sequence[int] = row.places or [0] * count
        attempts: Sequence[int] = row.attempts or [0] * count
        for index, home in enumerate(self._homes(key, row.queues, row.homes)):
            self._slots.setdefault(home, []).append(_Slot(token, places[index], attempts[index]))

    def _homes(self, key: bytes, queues: Sequence[int], homes: Sequence[int]) -> list[int]:
        if len(queues) == 1:
            queues = [queues[0]] * len(homes)
        if len(queues) != len(homes):
            self._report(key, "queues do not match the homes")
        return [queue << 56 | home for queue, home in zip(queues, homes, strict=False)]

    def _meta_row(self, key: bytes, value: bytes) -> None:
        if key == keys.IDENTITY:
            self._identity = rows_pb2.IdentityRow.FromString(value)
            if self._identity.format != keys.FORMAT:
                self._report(key, f"format {self._identity.format}, not {keys.FORMAT}")
            for token in self._tokens:
                self._check_token(keys.lease_key(token), token)
        elif key == keys.TICK:
            self._tick = rows_pb2.TickRow.FromString(value)
            self.summary.lsn = self._tick.lsn
            oldest = min(self._tokens, default=self._tick.oldest_lease)
            if oldest < self._tick.oldest_lease:
                self._report(key, f"oldest lease {self._tick.oldest_lease}, but {oldest} exists")
        else:
            self._report(key, "unknown name")

    def _check_token(self, key: bytes, token: int) -> None:
        if self._identity is not None and token >> _TOKEN_COUNTER_BITS > self._identity.epoch:
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
        number = int.from_bytes(key[1:], "big")
        if self._tick is not None and number > self._tick.last_queue:
            self._report(key, f"is above the number of the queue opened last, {self._tick.last_queue}")
        self._queues[number] = queue = CheckedQueue(row)
        self.summary.queues += 1
        number = int.from_bytes(key[1:], "big")
        self._report_all(key, self._due_rows.queue(number, row.due_mark))
        self._report_all(key, self._expiry_rows.queue(number, row.expire_mark))
        self._report_all(key, queue.malformed(self._tick))
        queue.expiring = self._expiry_rows.count(number)

    def _ended_row(self, key: bytes, value: bytes) -> None:
        _, lsn, number = keys.split_ended_key(key)
        row = rows_pb2.EndedRow.FromString(value)
        if row.lsn != lsn:
            self._report(key, f"the value says batch {row.lsn}")
        self._check_lsn(key, lsn)
        if self._tick is not None and key[1:] <= self._tick.sweep_mark:
            self._report(key, "lies before the sweep's mark")
        dead, completed = bool(number & keys.ENDED_DEAD), bool(number & keys.ENDED_COMPLETED)
        homes = self._homes(key, row.queues, row.homes)
        for home in self._ended_rows.row(lsn, homes, dead=dead, completed=completed):
            self._report(key, f"task {_key(b't', home).hex()} is listed as ended twice")

    # -- state rows ----------------------------------------------------------------------------------------------

    def _state_row(self, key: bytes, value: bytes) -> None:
        home = _number(key)
        state = rows_pb2.StateRow.FromString(value)
        self._check_token(key, state.ended_token)
        live = [slot for slot in self._slots.pop(home, ()) if slot.token > state.ended_token]
        queue = self._queue(key)
        queue.filed += any(each.file for each in state.artifacts)
        if state.artifacts and not state.ended_lsn:
            self._report(key, "has not ended, yet has artifacts")
        self._moved[home] = -1
        self._report_all(key, self._ended_rows.state(home, state))
        if state.ended_lsn or state.status in ENDED:
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
                self._report(key, f"waits for {state.place_at}, but the due index does not hold it there")
                return
            lane, attempts, has_state = keys.split_due_value(value)
            if attempts != state.attempts or not has_state:
                self._report(key, "attempts differ from those in the due index")
            self._moved[home] = lane
        elif state.place in {_QUEUED, _RETURNED} and state.place_lane < keys.LANES:
            places = self._pointers if state.place == _QUEUED else self._returned
            place = _pack(home >> 56, state.place_lane, state.place_at)
            if place in places:
                self._report(key, f"shares its place with task {_key(b't', places[place][0]).hex()}")
            places[place] = (home, state.attempts)
            self._moved[home] = state.place_lane
        else:
            self._report(key, "has not ended, is not leased and waits nowhere")

    # -- tasks and the indexes that come after them --------------------------------------------------------------

    def _queue(self, key: bytes) -> CheckedQueue:
        number = int.from_bytes(key[1:5], "big")
        queue = self._queues.get(number)
        if queue is None:
            self._report(key, f"queue {number} has no row")
            queue = self._queues[number] = CheckedQueue(rows_pb2.QueueRow())
        return queue

    def _lane(self, key: bytes) -> CheckedLane:
        if key[1:6] != self._prefix:
            queue, index = self._queue(key), key[5]
            self._prefix = key[1:6]
            self._lane_now = queue.lanes.get(index) or CheckedLane(index, queue.row.command, None)
        return self._lane_now

    def _task_row(self, key: bytes, value: bytes) -> None:
        lane = self._lane(key)
        position = int.from_bytes(key[6:], "big")
        if position > lane.tail or not position:
            self._report(key, f"lies above the lane's tail, {lane.tail}")
        kind = value[:1]
        if kind == keys.POINTER and lane.index < keys.LANES:
            self._pointer_row(key, value, lane, position)
        elif kind == keys.HOME and lane.index < keys.LANES:
            self._home_row(key, value, lane, position, lane.index)
        elif kind == keys.DEAD and lane.index < keys.LANES:
            if _number(key) not in self._moved:
                self._report(key, "was left by its task, which has no state row")
            self._home_row(key, value, lane, position, lane.index)
        elif kind == keys.PARKED and lane.index == keys.PARKED_LANE:
            self._home_row(key, value, lane, position, keys.split_parked(value)[1])
        else:
            self._report(key, f"kind {kind!r} in lane {lane.index}")

    def _pointer_row(self, key: bytes, value: bytes, lane: CheckedLane, position: int) -> None:
        if position <= lane.mark:
            self._report(key, f"a pointer not above the lane's mark, {lane.mark}")
        if _number(key) in self._slots or _number(key) in self._moved:
            self._report(key, "rows take this pointer for a task's home")
        if self._leads_home(key, value, self._pointers):
            lane.ready += 1

    def _leads_home(self, key: bytes, value: bytes, expected: dict[int, tuple[int, int]]) -> bool:
        """Returns whether the task that a pointer leads to waits at this place."""
        place = _number(key)
        home_lane, home_position, attempts = keys.split_pointer(value)
        if expected.get(place) != (_pack(place >> 56, home_lane, home_position), attempts):
            self._report(key, "leads to a task that does not wait here with these attempts")
            return False
        del expected[place]
        self.summary.pending += 1
        return True

    def _home_row(self, key: bytes, value: bytes, lane: CheckedLane, position: int, priority_lane: int) -> None:
        if self._identity is not None and not 0 < keys.home_epoch(value) <= self._identity.epoch:
            self._report(key, f"epoch {keys.home_epoch(value)} is not within that of the store")
        queue = self._queue(key)
        queue.homes += 1
        queue.named += bool(keys.name_of(value))
        self._report_all(key, self._name_rows.home(_number(key), queue.row.tenant, value))
        task = Task.FromString(keys.task_bytes(value))
        if task.command != lane.command or task.priority != keys.LANES - 1 - priority_lane:
            self._report(key, "command or priority are not those of its queue and lane")
        home = _number(key)
        self._report_all(key, self._expiry_rows.expires(home, task, self._tick.wall_ms if self._tick else 0))
        waits_in = self._moved.pop(home, None)
        slots = self._slots.pop(home, None)
        if waits_in is not None:
            if value[:1] == keys.HOME and position > lane.mark:
                self._report(key, f"has a state row, yet lies above the lane's mark, {lane.mark}")
            if waits_in not in {-1, priority_lane}:
                self._report(key, f"waits in lane {waits_in}, its priority's is {priority_lane}")
        else:
            self._new_task(key, value, lane, position, slots)

    def _new_task(self, key: bytes, value: bytes, lane: CheckedLane, position: int, slots: list[_Slot] | None) -> None:
        """Takes the home of a task without a state row."""
        parked, home = lane.index == keys.PARKED_LANE, _number(key)
        self._report_all(key, self._ended_rows.home(home))
        if slots is not None:
            self._first_delivery(key, slots, above=parked or position > lane.mark)
        elif parked:
            self._first_due(key, value, home)
        elif position > lane.mark:
            lane.ready += 1
            self.summary.pending += 1
        else:
            self._report(key, f"lies not above the lane's mark, {lane.mark}, and has neither a state row nor a lease")

    def _first_delivery(self, key: bytes, slots: list[_Slot], *, above: bool) -> None:
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
            self._report(key, f"waits for {due_ms}, but the due index does not hold it there")

    def _returned_row(self, key: bytes, value: bytes) -> None:
        lane = self._lane(key)
        if int.from_bytes(key[6:], "big") > lane.mark:
            self._report(key, f"was given back to a place above the lane's mark, {lane.mark}")
        if self._leads_home(key, value, self._returned):
            lane.ready += 1

    def _extension_row(self, key: bytes, value: bytes) -> None:
        row = rows_pb2.ExtensionRow.FromString(value)
        if int.from_bytes(key[1:], "big") not in self._tokens:
            self._report(key, "extends a lease that has no row")
        if not len(row.homes) == len(row.lease_ms) == len(row.queues):
            self._report(key, "homes, lengths and queues do not match")

    def _dead_row(self, key: bytes, value: bytes) -> None:
        queue, ended_ms, lane, position = keys.split_dead_key(key)
        home = _pack(queue, lane, position)
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
        for key, problem in (*self._due_rows.finish(), *self._expiry_rows.finish()):
            self._report(key, problem)
        self._check_listed()
        for home in self._moved:
            self._report(_key(b"s", home), "has no home")
        for table, expected in ((b"t", self._pointers), (b"u", self._returned)):
            for place, (home, _) in expected.items():
                self._report(_key(b"s", home), f"waits at {_key(table, place).hex()}, where there is no pointer to it")
        for home in self._dead:
            self._report(_key(b"s", home), "is not in the dead-letter index with this end")
        for key, problem in self._name_rows.finish():
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
                self._report(_key(b"t", home), problem)

    def _check_counters(self) -> None:
        for number, queue in self._queues.items():
            self._report_all(keys.queue_key(number), queue.miscounted())
