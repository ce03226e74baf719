"""The third pass: rows that belong to no task, and the rows that sum up a store."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from codeq_internal.v1 import rows_pb2

from codeq_server.core import ids, keys, tenant_keys
from codeq_server.core.parsing import parsed, unpacked
from codeq_server.core.policy import policy_of

from .sources import Source, SourceQueue
from .targets import Target
from .tasks import new_count

_SUMS: Final = ("created_total", "delivered_total", "completed_total", "failed_total", "accepted_bytes_total")
"""Totals of a tenant's removed queues."""


def schedule_shard(key: bytes, count: int) -> int:
    """Returns the shard of the schedule with this key."""
    tenant, name = unpacked(tenant_keys.split_schedule_key, key, key)
    return ids.shard_of(f"{tenant}\n{name}", count)


def pinned_tasks(sources: Sequence[Source], count: int) -> dict[tuple[str, str], int]:
    """Returns the tasks that schedules know to be running, by tenant and id, with the shards of the schedules."""
    pinned = {}
    for source in sources:
        for key, value in source.table(keys.SCHEDULES):
            tenant, _ = unpacked(tenant_keys.split_schedule_key, key, key)
            for task_id in parsed(rows_pb2.ScheduleRow, key, value).running:
                pinned[tenant, task_id] = schedule_shard(key, count)
    return pinned


def limited_queues(sources: Sequence[Source]) -> set[tuple[str, str]]:
    """Returns tenants and commands whose policy limits the queue or orders its tasks."""
    limited = set()
    for source in sources:
        for key, value in source.table(keys.TOPICS):
            row = parsed(rows_pb2.TopicRow, key, value)
            if policy_of(row.policy).limits_queue:
                limited.add((row.tenant, row.command))
    return limited


def move_shared(sources: Sequence[Source], targets: Sequence[Target], next_number: Callable[[], int]) -> int:
    """Moves or copies every row that belongs to no task; returns the number of subscriptions left out."""
    _copy(sources, targets, keys.TOPICS)
    _copy(sources, targets, keys.ENDPOINTS)
    _tenants(sources, targets)
    _schedules(sources, targets, next_number)
    for number, (key, value) in enumerate(heapq.merge(*[source.table(keys.AUDIT) for source in sources]), 1):
        targets[0].put(keys.audit_key(keys.split_audit_key(key)[0], number), value)
    return sum(1 for source in sources for _ in source.table(keys.SUBSCRIPTIONS))


def _copy(sources: Sequence[Source], targets: Sequence[Target], table: bytes) -> None:
    """Writes the rows of a table, of which every shard has a copy, to all new shards; the first source decides."""
    seen: set[bytes] = set()
    for source in sources:
        for key, value in source.table(table):
            if key not in seen:
                seen.add(key)
                for target in targets:
                    target.put(key, value)


def _tenants(sources: Sequence[Source], targets: Sequence[Target]) -> None:
    """Copies limits, and adds up totals in shard 0."""
    tenants: dict[bytes, rows_pb2.TenantRow] = {}
    for source in sources:
        for key, value in source.table(keys.TENANTS):
            row = parsed(rows_pb2.TenantRow, key, value)
            made = tenants.setdefault(key, rows_pb2.TenantRow())
            if row.HasField("limits") and not made.HasField("limits"):
                made.limits.CopyFrom(row.limits)
            for name in _SUMS:
                setattr(made, name, getattr(made, name) + getattr(row, name))
    for key, made in tenants.items():
        targets[0].put(key, made.SerializeToString())
        if made.HasField("limits"):
            copy = rows_pb2.TenantRow(limits=made.limits).SerializeToString()
            for target in targets[1:]:
                target.put(key, copy)


def _schedules(sources: Sequence[Source], targets: Sequence[Target], next_number: Callable[[], int]) -> None:
    generations: set[int] = set()
    for source in sources:
        for key, value in source.table(keys.SCHEDULES):
            row = parsed(rows_pb2.ScheduleRow, key, value)
            if row.generation in generations:
                row.generation = next_number()
            generations.add(row.generation)
            targets[schedule_shard(key, len(targets))].put(key, row.SerializeToString())
        for key, value in source.table(keys.FIRES):
            schedule, _ = unpacked(tenant_keys.split_fire_key, key, key)
            targets[schedule_shard(schedule, len(targets))].put(key, value)


# -- sums ------------------------------------------------------------------------------------------------------------


def finish_queues(named: Mapping[tuple[str, str], Sequence[SourceQueue]], targets: Sequence[Target]) -> None:
    """Writes the rows of queues. What was counted of removed tasks is added in the home of the command."""
    for queues in named.values():
        if any(queue.row.paused for queue in queues):
            for shard in _shards_of(queues, len(targets)):
                _count(targets[shard], _queue_for(queues, shard))
        for queue in queues:
            _add_history(queue, targets)
    for target in targets:
        for number, count in target.counts.items():
            row = count.row
            row.created_total += count.homes
            for _, lane in sorted(count.lanes.items()):
                row.lanes.append(lane)
            target.put(keys.queue_key(number), row.SerializeToString())


def _shards_of(queues: Sequence[SourceQueue], count: int) -> Iterator[int]:
    numbers = queues[0].source.numbers
    sources = {queue.source.index for queue in queues}
    for shard in range(count):
        if not numbers.keeps or shard % numbers.sources in sources:
            yield shard


def _queue_for(queues: Sequence[SourceQueue], shard: int) -> SourceQueue:
    """Returns the queue from which a new shard gets tasks."""
    numbers = queues[0].source.numbers
    if not numbers.keeps:
        return queues[0]
    return next(queue for queue in queues if queue.source.index == shard % numbers.sources)


def _count(target: Target, queue: SourceQueue) -> rows_pb2.QueueRow:
    count = target.counts.get(queue.new_number)
    if count is None:
        count = target.counts[queue.new_number] = new_count(queue)
    return count.row


def _add_history(queue: SourceQueue, targets: Sequence[Target]) -> None:
    row, numbers = queue.row, queue.source.numbers
    home = ids.shard_of("\n".join(queue.name), len(targets))
    if numbers.keeps and home % numbers.sources != queue.source.index:
        home = queue.source.index
    kept = _count(targets[home], queue)
    homes = sum(queue.homes.values())
    left = row.stored_bytes
    for shard, count in queue.homes.items():
        made = _count(targets[shard], queue)
        size = row.stored_bytes * count // homes
        made.stored_bytes += size
        made.accepted_bytes_total += size
        left -= size
        made.paused, made.keyed = made.paused or row.paused, made.keyed or row.keyed
    kept.accepted_bytes_total += row.accepted_bytes_total - row.stored_bytes + left
    kept.created_total += row.created_total - homes
    kept.removed_total += row.removed_total
    kept.delivered_total += row.delivered_total
    kept.completed_total += row.completed_total - queue.completed
    kept.failed_total += row.failed_total - queue.failed
    for shard in range(len(targets)):
        _mark_outbox(queue, targets[shard])


def _mark_outbox(queue: SourceQueue, target: Target) -> None:
    if not queue.row.HasField("outbox") or queue.new_number not in target.counts:
        return
    numbers = queue.source.numbers
    if numbers.keeps and target.shard % numbers.sources != queue.source.index:
        return
    outbox = target.counts[queue.new_number].row.outbox
    factor = 1 if numbers.keeps else numbers.sources
    outbox.mark = factor * queue.outbox_high if factor > 1 else queue.row.outbox.mark
    outbox.tail = max(outbox.tail, outbox.mark, queue.callback(queue.row.outbox.tail))


def summed_tick(sources: Sequence[Source], last_queue: int) -> rows_pb2.TickRow:
    """Returns the row of the last batch: no number and no time that any source has used comes after it."""
    return rows_pb2.TickRow(
        lsn=max(source.tick.lsn for source in sources),
        wall_ms=max(source.tick.wall_ms for source in sources),
        oldest_lease=min(source.tick.oldest_lease for source in sources),
        sweep_mark=min(source.tick.sweep_mark for source in sources),
        last_queue=last_queue,
    )
