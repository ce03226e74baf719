"""Checker rules about queues: a queue's row must agree with the rows found in the queue."""

from __future__ import annotations

from collections.abc import Iterator

from codeq_internal.v1 import rows_pb2

from codeq_server.core import keys


class CheckedLane:
    """A lane according to its queue's row, and the ready tasks found in it."""

    __slots__ = ("command", "index", "mark", "ready", "state", "tail")

    def __init__(self, index: int, command: str, state: rows_pb2.LaneState | None) -> None:
        self.index = index
        self.command = command
        self.state = state
        self.mark = state.mark if state else 0
        self.tail = state.tail if state else 0
        self.ready = 0


class CheckedQueue:
    """A queue according to its row, and counts of the tasks found in it."""

    __slots__ = (
        "blocked",
        "claimed",
        "dlq",
        "ended",
        "expiring",
        "filed",
        "homes",
        "hooked",
        "lanes",
        "named",
        "row",
        "scheduled",
    )

    def __init__(self, row: rows_pb2.QueueRow) -> None:
        self.row = row
        self.lanes = {lane.lane: CheckedLane(lane.lane, row.command, lane) for lane in row.lanes}
        self.scheduled = self.claimed = self.dlq = self.named = self.homes = self.filed = self.expiring = 0
        self.blocked = self.hooked = 0
        self.ended = {"completed": 0, "failed": 0}

    def malformed(self, tick: rows_pb2.TickRow | None) -> Iterator[str]:
        """Yields the problems that the row shows by itself, as of the last batch."""
        if len(self.lanes) != len(self.row.lanes):
            yield "a lane is listed twice"
        for lane in self.row.lanes:
            if lane.mark > lane.tail:
                yield f"lane {lane.lane}: mark {lane.mark} is above the tail {lane.tail}"
            if lane.lane >= keys.LANES and (lane.lane != keys.PARKED_LANE or lane.mark or lane.ready):
                yield f"lane {lane.lane} is unknown, or has a mark or ready tasks"
        if self.row.HasField("purge"):
            yield from self._malformed_purge(tick)

    def _malformed_purge(self, tick: rows_pb2.TickRow | None) -> Iterator[str]:
        purge = self.row.purge
        # A purge moves the shard's clock past the time of its request, so the last batch is later than that.
        if not purge.at_ms or (tick is not None and purge.at_ms >= tick.wall_ms):
            yield f"a purge was requested at {purge.at_ms}, which is not before the last batch"
        seen: set[int] = set()
        for index, tail in map(keys.unpack_home, purge.tails):
            if index in seen or index not in self.lanes or not 0 < tail <= self.lanes[index].tail:
                yield f"a purge goes up to place {tail} of lane {index}, which does not exist or is listed twice"
            seen.add(index)

    def miscounted(self) -> Iterator[str]:
        """Yields counters that differ from recounts."""
        row = self.row
        counters = [("scheduled", row.scheduled, self.scheduled), ("expiring", row.expiring, self.expiring)]
        counters += [("claimed", row.claimed, self.claimed), ("dlq", row.dlq, self.dlq)]
        counters += [("blocked", row.blocked, self.blocked)]
        counters += [("named", row.named, self.named), ("filed", row.filed, self.filed)]
        counters += [("hooked", row.hooked, self.hooked)]
        counters += [("created_total less removed_total", row.created_total - row.removed_total, self.homes)]
        counters += [
            (f"ready of lane {lane.index}", lane.state.ready if lane.state else 0, lane.ready)
            for lane in self.lanes.values()
        ]
        for name, stored, found in counters:
            if stored != found:
                yield f"{name} is {stored}, but {found} were found"
        if row.completed_total < self.ended["completed"] or row.failed_total < self.ended["failed"]:
            yield "more tasks have ended than were counted"
        accounted = sum(lane.ready for lane in self.lanes.values()) + self.scheduled + self.claimed + self.dlq
        accounted += self.blocked
        if row.stored_bytes > row.accepted_bytes_total or (row.stored_bytes and not self.homes):
            yield f"{row.stored_bytes} bytes are stored in {self.homes} tasks, of {row.accepted_bytes_total} accepted"
        if row.created_total < accounted + row.completed_total + row.failed_total:
            yield f"created_total {row.created_total} is below the number of existing tasks"
