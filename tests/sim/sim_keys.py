"""Gives keys to tasks, sets their limits, and judges that no claim exceeds a limit or breaks an order."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from codeq.v1 import task_pb2
from codeq.v1.topic_service_pb2 import QueuePolicy
from codeq_internal.v1.rows_pb2 import PolicyRow
from codeq_server.core.clock import Now
from codeq_server.core.shard import Shard
from sim_receiver import URLS

if TYPE_CHECKING:
    from sim_audit import Audit, Known

LIMITS = {
    "a": QueuePolicy(concurrency_per_key=1, webhook=URLS[0]),
    "b": QueuePolicy(concurrency_per_key=2, rate_per_key_per_second=5),
}
"""Limits of each command, of every tenant."""
TENANTS = ("acme", "globex")


class TaskKeys(NamedTuple):
    """Concurrency key and ordering key that a task was asked to have; empty: none."""

    concurrency: str = ""
    ordering: str = ""


NO_KEYS = TaskKeys()


def set_limits(shard: Shard, now: Now) -> None:
    """Sets the limits on a new store, and after a crash that lost them."""
    for tenant in TENANTS:
        for command, policy in LIMITS.items():
            if shard.policies.row(tenant, command) is None:
                row = PolicyRow.FromString(policy.SerializeToString())
                shard.policies.put(tenant, command, row, now.wall_ms)


def give_keys(chance: random.Random, spec: task_pb2.TaskSpec) -> None:
    """Gives keys to some tasks."""
    if chance.random() < 0.3:
        spec.concurrency_key = chance.choice(("c1", "c2"))
    if chance.random() < 0.3:
        spec.ordering_key = chance.choice(("o1", "o2"))
    if chance.random() < 0.2:
        spec.rate_key = "r1"


def keys_of(spec: task_pb2.TaskSpec) -> TaskKeys:
    """Returns the keys of a request that the judge knows."""
    return TaskKeys(spec.concurrency_key, spec.ordering_key)


def judge(audit: Audit) -> None:
    """Judges the leases of a durable batch against the limits and orders of keys."""
    running: dict[tuple[str, str, str], int] = {}
    lines: dict[tuple[str, str, str], list[Known]] = {}
    for task in audit.by_home.values():
        asked = task.asked
        if task.removed or task.end is not None or asked.keys == NO_KEYS:
            continue
        if asked.keys.concurrency and is_running(task):
            key = (asked.tenant, asked.command, asked.keys.concurrency)
            running[key] = running.get(key, 0) + 1
        if asked.keys.ordering:
            lines.setdefault((asked.tenant, asked.command, asked.keys.ordering), []).append(task)
    for (tenant, command, key), count in running.items():
        limit = LIMITS[command].concurrency_per_key
        audit.demand(count <= limit, f"{count} tasks of {tenant} with the key {key} are leased, {limit} may be")
        if count == limit:
            audit.count("limit of a key reached")
    for line in lines.values():
        leased = [task for task in line if is_running(task)]
        audit.demand(len(leased) <= 1, f"{len(leased)} tasks of one ordering key are leased")
        for task in leased:
            passed = [other for other in line if not other.revived and other.born < task.born]
            audit.demand(task.revived or not passed, f"{task.task_id} passed {passed} of its ordering key")
            if len(line) > 1:
                audit.count("waited for its turn")


def is_running(task: Known) -> bool:
    """Returns whether a delivery of a task is live according to the durable rows."""
    ended_token = task.state.ended_token if task.state else 0
    return any(token > ended_token for token in task.slots)
