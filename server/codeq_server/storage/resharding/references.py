"""The second pass: rows that refer to tasks follow them to their new shards."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from typing import Final

from codeq_internal.v1 import rows_pb2

from codeq_server.core import content_keys, keys
from codeq_server.core.parsing import listed, parsed
from codeq_server.core.status import Status
from codeq_server.storage.checker_leases import TOKEN_COUNTER_BITS
from codeq_server.storage.errors import StoreDamaged

from .sources import Source, SourceQueue
from .targets import Count, Lease, Target

_PLACES: Final = frozenset({rows_pb2.PLACE_KIND_QUEUED, rows_pb2.PLACE_KIND_RETURNED, rows_pb2.PLACE_KIND_BLOCKED})
_PLACE: Final = 1 << 56
"""Bit of a place in a lease row that is not the task's home."""

TakeArtifact = Callable[[int, Source, bytes, bytes, bytes], None]
"""Takes an artifact along: target shard, source, old home, new home and name of the file."""


class ReferencePass:
    """Moves rows that refer to tasks.

    Attributes:
        leases_renewed: Deliveries whose lease token changed, because leases of another source have it.

    Args:
        targets: The new stores.
        epoch: Epoch of the new stores, which no source has used.
        artifact: Takes an artifact along.
    """

    def __init__(self, targets: Sequence[Target], epoch: int, artifact: TakeArtifact) -> None:
        self._targets, self._epoch, self._artifact = targets, epoch, artifact
        self._next_token = epoch << TOKEN_COUNTER_BITS
        self.leases_renewed = 0

    def move(self, sources: Sequence[Source]) -> None:
        """Moves all rows that refer to tasks."""
        for source in sources:
            live = self._leases(source)
            self._states(source, live)
            self._times(source)
            self._returned(source)
            self._callbacks(source)
        self._put_leases()
        self._gates(sources)
        self._ended(sources)

    def next_token(self) -> int:
        """Returns a number that nothing in any source has."""
        self._next_token += 1
        return self._next_token

    def _home(self, source: Source, key: bytes, number: int, packed: int) -> tuple[SourceQueue, Target, Count, int]:
        found = source.home(number, packed)
        if found is None:
            raise StoreDamaged(f"shard {source.index}: the row {key.hex()} leads to no task")
        queue, shard, home = found
        target = self._targets[shard]
        return queue, target, target.counts[queue.new_number], home

    # -- states --------------------------------------------------------------------------------------------------------

    def _states(self, source: Source, live: AbstractSet[tuple[int, int]]) -> None:
        for key, value in source.table(keys.STATES):
            number, lane, position = keys.split_place_key(key)
            queue, target, count, home = self._home(source, key, number, keys.pack_home(lane, position))
            state = parsed(rows_pb2.StateRow, key, value)
            new_lane, new_position = keys.unpack_home(home)
            prefix = keys.lane_prefix(keys.STATES, queue.new_number, new_lane)
            new_key = keys.place_key(prefix, new_position)
            if not source.numbers.keeps:
                _move_places(queue, state)
            target.put(new_key, value if source.numbers.keeps else state.SerializeToString())
            if state.artifacts:
                self._artifacts(source, target, count, state, keys.home_of(key), keys.home_of(new_key))
            if state.ended_lsn:
                completed, failed = state.status == Status.COMPLETED, state.status == Status.FAILED
                count.row.completed_total += completed
                count.row.failed_total += failed
                queue.completed += completed
                queue.failed += failed
            elif state.place == rows_pb2.PLACE_KIND_BLOCKED and (number, keys.pack_home(lane, position)) not in live:
                count.row.blocked += 1

    def _artifacts(
        self, source: Source, target: Target, count: Count, state: rows_pb2.StateRow, old: bytes, new: bytes
    ) -> None:
        kept = [each for each in state.artifacts if each.file]
        count.row.filed += bool(kept)
        for each in kept:
            if not each.chunks:
                self._artifact(target.shard, source, old, new, each.file)
            for number in range(each.chunks):
                chunk = source.rows.get(content_keys.content_key(old, each.file, number))
                if chunk is not None:  # the check of the new stores finds out
                    target.put(content_keys.content_key(new, each.file, number), chunk)
                    target.flush()  # chunks are large

    # -- tables by time ------------------------------------------------------------------------------------------------

    def _times(self, source: Source) -> None:
        for table, name in ((keys.DUE, "scheduled"), (keys.EXPIRY, "expiring"), (keys.DEAD_LETTERS, "dlq")):
            for key, value in source.table(table):
                number, at_ms, lane, position = keys.split_time_key(key)
                queue, target, count, home = self._home(source, key, number, keys.pack_home(lane, position))
                target.put(keys.time_key(table, queue.new_number, at_ms, *keys.unpack_home(home)), value)
                setattr(count.row, name, getattr(count.row, name) + 1)

    def _returned(self, source: Source) -> None:
        for key, value in source.table(keys.RETURNED):
            number, lane, position = keys.split_place_key(key)
            home_lane, home_position, attempts = keys.split_pointer(value)
            packed = keys.pack_home(home_lane, home_position)
            queue, target, count, home = self._home(source, key, number, packed)
            prefix = keys.lane_prefix(keys.TASKS, queue.new_number, lane)
            pointer = keys.pointer(*keys.unpack_home(home), attempts)
            target.put(keys.returned_key(prefix, queue.behind(lane, position)), pointer)
            count.ready(lane)

    # -- callbacks -----------------------------------------------------------------------------------------------------

    def _callbacks(self, source: Source) -> None:
        for key, value in source.table(keys.OUTBOX):
            number, position = keys.split_outbox_key(key)
            row = parsed(rows_pb2.OutboxRow, key, value)
            queue, target, count, row.home = self._home(source, key, number, row.home)
            if not source.numbers.keeps:
                row.epoch = self._epoch  # with the position, it names the callback: no other one may have the name
            new_position = queue.callback(position)
            target.put(keys.outbox_key(queue.new_number, new_position), row.SerializeToString())
            outbox = count.row.outbox
            waits = row.state == rows_pb2.CALLBACK_STATE_WAITING
            outbox.pending += waits or row.state == rows_pb2.CALLBACK_STATE_UNSPECIFIED
            outbox.retries += waits
            outbox.gave_up += row.state == rows_pb2.CALLBACK_STATE_GAVE_UP
            if waits:
                retry = keys.time_key(keys.RETRIES, queue.new_number, row.due_ms, keys.OUTBOX_LANE, new_position)
                target.put(retry, b"")

    # -- leases --------------------------------------------------------------------------------------------------------

    def _leases(self, source: Source) -> set[tuple[int, int]]:
        """Moves the leases; returns queue and home of each leased task, which servers keep in memory, too."""
        live: set[tuple[int, int]] = set()
        for key, value in source.table(keys.LEASES):
            token = keys.token_of(key)
            row = parsed(rows_pb2.LeaseRow, key, value)
            stored = source.rows.get(keys.extension_key(token))
            extension = rows_pb2.ExtensionRow()
            if stored is not None:
                extension = parsed(rows_pb2.ExtensionRow, keys.extension_key(token), stored)
            lengths = dict(zip(listed(key, extension.queues, extension.homes), extension.lease_ms, strict=True))
            made: dict[int, Lease] = {}
            for index, (number, packed) in enumerate(listed(key, row.queues, row.homes)):
                if not _is_live(source, number, packed, token):
                    continue
                live.add((number, packed))
                queue, target, count, home = self._home(source, key, number, packed)
                _, claim, longer = made.setdefault(target.shard, _empty(queue.row.tenant, row))
                claim.queues.append(queue.new_number)
                claim.homes.append(home)
                claim.places.append(_leased_place(queue, row.places[index]) if row.places else 0)
                claim.attempts.append(row.attempts[index] if row.attempts else 0)
                if (number, packed) in lengths:
                    longer.queues.append(queue.new_number)
                    longer.homes.append(home)
                    longer.lease_ms.append(lengths[number, packed])
                count.row.claimed += 1
            for shard, lease in made.items():
                self._add_lease(self._targets[shard], token, lease)
        return live

    def _add_lease(self, target: Target, token: int, lease: Lease) -> None:
        """Adds a lease; gives it another token if another worker has a lease with this one."""
        there = target.leases.get(token)
        if there is not None:
            if there.join(lease):
                return
            token = self.next_token()
            self.leases_renewed += len(lease.row.homes)
        target.leases[token] = lease

    def _put_leases(self) -> None:
        for target in self._targets:
            for token, lease in target.leases.items():
                target.put(keys.lease_key(token), lease.row.SerializeToString())
                if lease.extension.homes:
                    target.put(keys.extension_key(token), lease.extension.SerializeToString())

    # -- gates ---------------------------------------------------------------------------------------------------------

    def _gates(self, sources: Sequence[Source]) -> None:
        rows = heapq.merge(*[self._at_gates(source) for source in sources])
        for (number, gate), group in groupby(rows, key=lambda row: row[:2]):
            lines: dict[int, tuple[int, int, int]] = {}
            last = 0
            for _, _, at, shard, home in group:
                if shard < 0:
                    last = max(last, home)
                    continue
                self._targets[shard].put(keys.blocked_key(number, gate, at), keys.blocked_value(home))
                if gate[:1] == keys.ORDERING_GATE:
                    first, _, first_home = lines.get(shard, (at, 0, home))
                    lines[shard] = (first, last, first_home)
            for shard, line in lines.items():
                self._targets[shard].put(keys.blocked_key(number, gate, 0), keys.line(*line))

    def _at_gates(self, source: Source) -> Iterator[tuple[int, bytes, int, int, int]]:
        """Yields queue, gate, number, target shard and home of each task.

        Of an ordering gate, a row with shard -1 comes first, with the last number of the line in place of the home.
        """
        for queue in sorted(source.queues.values(), key=lambda each: each.new_number):
            for key, value in source.rows.between(*keys.queue_rows(keys.BLOCKED, queue.number)):
                _, gate, number = keys.split_blocked_key(key)
                if gate[:1] == keys.ORDERING_GATE and not number:
                    yield queue.new_number, gate, 0, -1, queue.at_gate(keys.split_line(value)[1])
                    continue
                _, target, _, home = self._home(source, key, queue.number, keys.split_blocked_value(value))
                yield queue.new_number, gate, queue.at_gate(number), target.shard, home

    # -- lists of ended tasks ------------------------------------------------------------------------------------------

    def _ended(self, sources: Sequence[Source]) -> None:
        rows = heapq.merge(*[self._lists(source) for source in sources], key=lambda row: row[0])
        for key, group in groupby(rows, key=lambda row: row[0]):
            by_shard: dict[int, list[tuple[int, int]]] = {}
            for _, lists in group:
                for shard, tasks in lists.items():
                    by_shard.setdefault(shard, []).extend(tasks)
            for shard, tasks in by_shard.items():
                tasks.sort()
                queues = [number for number, _ in tasks]
                if queues[0] == queues[-1]:
                    del queues[1:]
                row = rows_pb2.EndedRow(
                    lsn=keys.split_ended_key(key)[1], queues=queues, homes=[home for _, home in tasks]
                )
                self._targets[shard].put(key, row.SerializeToString())

    def _lists(self, source: Source) -> Iterator[tuple[bytes, dict[int, list[tuple[int, int]]]]]:
        for key, value in source.table(keys.ENDED):
            row = parsed(rows_pb2.EndedRow, key, value)
            lists: dict[int, list[tuple[int, int]]] = {}
            for number, packed in listed(key, row.queues, row.homes):
                found = source.home(number, packed)
                if found is not None:  # otherwise the task was removed since
                    queue, shard, home = found
                    lists.setdefault(shard, []).append((queue.new_number, home))
            yield key, lists


def _is_live(source: Source, number: int, packed: int, token: int) -> bool:
    """Returns whether the delivery of a task under a token has not ended."""
    if source.home(number, packed) is None:
        return False
    lane, position = keys.unpack_home(packed)
    key = keys.place_key(keys.lane_prefix(keys.STATES, number, lane), position)
    value = source.rows.get(key)
    return value is None or parsed(rows_pb2.StateRow, key, value).ended_token < token


def _move_places(queue: SourceQueue, state: rows_pb2.StateRow) -> None:
    """Changes the positions in a state row."""
    if state.place in _PLACES and state.place_lane < keys.LANES:
        state.place_at = queue.place(state.place_lane, state.place_at)
    if state.callbacks:
        state.callbacks[:] = [queue.callback(position) for position in state.callbacks]
    if len(state.blocked) > keys.GATE_BYTES:
        gate, number = state.blocked[: keys.GATE_BYTES], int.from_bytes(state.blocked[keys.GATE_BYTES :], "big")
        state.blocked = gate
        state.blocked += queue.at_gate(number).to_bytes(8, "big")
    if state.ordering_number:
        state.ordering_number = queue.at_gate(state.ordering_number)


def _empty(tenant: str, row: rows_pb2.LeaseRow) -> Lease:
    """Returns a lease like this one, without deliveries."""
    made = rows_pb2.LeaseRow(worker=row.worker, lease_ms=row.lease_ms, claimed_ms=row.claimed_ms, subject=row.subject)
    return Lease(tenant, made, rows_pb2.ExtensionRow())


def _leased_place(queue: SourceQueue, place: int) -> int:
    if not place:
        return 0
    lane, position = keys.unpack_home(place & _PLACE - 1)
    return _PLACE | keys.pack_home(lane, queue.place(lane, position))
