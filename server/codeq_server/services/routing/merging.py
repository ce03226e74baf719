"""Merges what several shards say about one thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from codeq.v1 import queue_service_pb2, server_service_pb2, tenant_service_pb2, webhook_service_pb2
from google.protobuf.message import Message

from codeq_server.services.cluster import add_groups
from codeq_server.services.convert import RATE_DIGITS
from codeq_server.services.listing import GROUPS_MAX

_QUEUE_SUMS: Final = ("ready", "scheduled", "claimed", "dlq", "failed_total")
_QUEUE_RATES: Final = ("created_rate", "completed_rate")
_QUEUE_SOMEWHERE: Final = ("paused", "purging")
_NOT_SUMMED: Final = "queues"
"""Usage that is the same thing in several shards: a queue has a part in every shard that has had tasks of it."""

_HOLDS: Final = {
    webhook_service_pb2.HOST_HOLD_DISABLED: 2,
    webhook_service_pb2.HOST_HOLD_PAUSED: 1,
    webhook_service_pb2.HOST_HOLD_FAILING: 0,
}
"""Reasons for which a host gets no callbacks, and which of two is shown."""


def first(answers: Sequence[Any]) -> Message:
    """Returns the first reply, which speaks for all."""
    answer: Message = answers[0]
    return answer


def add_queue(total: queue_service_pb2.Queue, other: queue_service_pb2.Queue) -> None:
    """Adds the part of a queue in another shard."""
    for name in _QUEUE_SUMS:
        setattr(total, name, getattr(total, name) + getattr(other, name))
    for name in _QUEUE_RATES:
        setattr(total, name, round(getattr(total, name) + getattr(other, name), RATE_DIGITS))
    for name in _QUEUE_SOMEWHERE:
        setattr(total, name, getattr(total, name) or getattr(other, name))
    total.oldest_age_seconds = max(total.oldest_age_seconds, other.oldest_age_seconds)


def add_tenant(total: tenant_service_pb2.Tenant, other: tenant_service_pb2.Tenant) -> None:
    """Adds what a tenant uses in another shard; its limits are the same in all."""
    if not other.HasField("usage"):
        return
    for field in other.usage.DESCRIPTOR.fields:
        mine, its = getattr(total.usage, field.name), getattr(other.usage, field.name)
        setattr(total.usage, field.name, max(mine, its) if field.name == _NOT_SUMMED else mine + its)


def queue(answers: Sequence[Any]) -> Message:
    """Returns the first reply, with the counters of the queue in all shards."""
    for answer in answers[1:]:
        add_queue(answers[0].queue, answer.queue)
    return first(answers)


def tenant(answers: Sequence[Any]) -> Message:
    """Returns the first reply, with the tenant's usage of all shards."""
    for answer in answers[1:]:
        add_tenant(answers[0].tenant, answer.tenant)
    return first(answers)


def paused_hosts(answers: Sequence[Any]) -> Message:
    """Returns the first reply, with the hosts that are paused in any shard."""
    hosts = sorted({host for answer in answers for host in answer.paused_hosts})
    answers[0].paused_hosts[:] = hosts
    return first(answers)


def backup(answers: Sequence[server_service_pb2.BackUpResponse]) -> Message:
    """Returns the first reply, with the files of all shards and the time of the last one."""
    made = answers[0].backup
    for answer in answers[1:]:
        made.artifacts += answer.backup.artifacts
        if answer.backup.created_at.ToNanoseconds() > made.created_at.ToNanoseconds():
            made.created_at.CopyFrom(answer.backup.created_at)
    return first(answers)


def raft_groups(answers: Sequence[Any]) -> Message:
    """Returns the first response with the Raft groups of all."""
    add_groups(answers[0].status, (group for answer in answers[1:] for group in answer.status.groups))
    return first(answers)


def groups(pages: Sequence[queue_service_pb2.ListDeadLettersResponse]) -> list[queue_service_pb2.DeadLetterGroup]:
    """Returns the largest groups of dead letters in the pages of several shards."""
    counts: Counter[str] = Counter()
    for page in pages:
        for group in page.groups:
            counts[group.error] += group.count
    made = counts.most_common(GROUPS_MAX)
    return [queue_service_pb2.DeadLetterGroup(error=error, count=count) for error, count in made]


def held_hosts(pages: Sequence[webhook_service_pb2.ListCallbacksResponse]) -> list[webhook_service_pb2.HeldHost]:
    """Returns the hosts that get no callbacks from some shard, by name."""
    found: dict[str, webhook_service_pb2.HeldHost] = {}
    for page in pages:
        for held in page.held_hosts:
            known = found.get(held.host)
            if known is None or _weight(held) > _weight(known):
                found[held.host] = held
    return [found[host] for host in sorted(found)]


def _weight(held: webhook_service_pb2.HeldHost) -> tuple[int, int]:
    return _HOLDS.get(held.reason, 0), held.until.ToNanoseconds()
