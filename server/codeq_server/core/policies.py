"""The policies of a shard: rows of topics, attached to the queues of their commands.

A policy belongs to the command, not to its queue: it is set before the queue exists, survives the removal of the unused
queue, and is attached whenever the queue is opened. Only policies of existing queues are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from codeq_internal.v1 import rows_pb2

from . import tenant_keys
from .alarms import Alarms
from .batch import Batch
from .errors import CorruptRows, Reason, Rejection
from .key_rings import KeyRing
from .model import Queue
from .parsing import RowReader, parsed
from .policy import CHECKED_FIELDS, NoChecker, PayloadChecker, Policy, policy_of

TOPICS_MAX = 10_000
"""Maximum number of topics of a tenant."""
CHAIN_MAX = 8
"""Maximum number of dead-letter topics that lead from one to the next."""
PAGE_BYTES = 1 << 20
"""Bytes of policies after which a page of topics ends."""


class Rows(Protocol):
    """The rows, and the queues that policies apply to."""

    stored: RowReader
    batch: Batch
    by_name: dict[tuple[str, str], Queue]
    gates_due: Alarms[KeyRing]

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a row, decided or written; None: no such row."""
        ...

    def current(self, stored: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Returns stored rows with the changes decided but not yet written."""
        ...

    def hold(self, queue: Queue) -> None:
        """Hides a queue from claims."""
        ...

    def release(self, queue: Queue) -> None:
        """Shows a queue to claims again, unless it is held for another reason."""
        ...


class Put(NamedTuple):
    """The effect of setting a policy.

    Attributes:
        row: The topic's row.
        before: The row before; None: the topic is new.
    """

    row: rows_pb2.TopicRow
    before: rows_pb2.TopicRow | None


class Policies:
    """The policies of all tenants.

    Attributes:
        counts: Number of topics of each tenant that has any.
        retaining: Policies of existing queues with a retention of their own, by number of the queue.
        leasing: Numbers of existing queues with a policy that names the length of leases.
        freed: Queues of which a slot was freed; the caller of the core removes them once their waiters are woken.
        checker: Checks payloads. The caller of the core sets it.
        refusals: New tasks refused by a policy since the shard was opened, by field.
    """

    __slots__ = ("_shard", "checker", "counts", "freed", "leasing", "refusals", "retaining")

    def __init__(self, shard: Rows) -> None:
        self._shard = shard
        self.checker: PayloadChecker = NoChecker()
        self.counts: dict[str, int] = {}
        self.retaining: dict[int, Policy] = {}
        self.leasing: set[int] = set()
        self.freed: dict[Queue, None] = {}
        self.refusals = dict.fromkeys(CHECKED_FIELDS, 0)

    # -- policies in force -----------------------------------------------------------------------------------------

    def of(self, tenant: str, command: str) -> Policy | None:
        """Returns the policy of a command, whether or not its queue exists; None: it has none."""
        queue = self._shard.by_name.get((tenant, command))
        if queue is not None:
            return queue.policy
        row = self.row(tenant, command) if tenant in self.counts else None
        return None if row is None else _policy(tenant, row)

    def refuse(self, misfit: Rejection) -> Rejection:
        """Counts a new task that a policy refuses, and returns the rejection."""
        self.refusals[misfit.violations[0][0].rpartition(".")[2]] += 1
        return misfit

    def attach(self, queue: Queue) -> None:
        """Applies the policy of its command to a queue that was opened."""
        if queue.tenant in self.counts:
            row = self.row(queue.tenant, queue.command)
            if row is not None:
                self._apply(queue, _policy(queue.tenant, row))

    def detach(self, queue: Queue) -> None:
        """Forgets a queue that is removed; its policy stays."""
        self.retaining.pop(queue.number, None)
        self.leasing.discard(queue.number)
        self.freed.pop(queue, None)

    def limit(self, queue: Queue) -> None:
        """Hides the queue from claims while as many tasks are leased as its policy allows, and otherwise shows it."""
        full = not queue.slots(1)
        if full != queue.full:
            queue.full = full
            if full:
                self._shard.hold(queue)
            else:
                self._shard.release(queue)
                self.freed[queue] = None

    def by_retention(
        self, ended: list[tuple[int, int]], kind: int, keep_ms: int
    ) -> Iterable[tuple[int, list[tuple[int, int]]]]:
        """Returns tasks that ended, as pairs of queue and home, by the time for which they are kept.

        Args:
            ended: The tasks.
            kind: How they ended: 0, or ENDED_COMPLETED or ENDED_DEAD of `keys`.
            keep_ms: Retention of queues whose policy names none.
        """
        retaining = self.retaining
        if not retaining:
            return ((keep_ms, ended),)
        parts: dict[int, list[tuple[int, int]]] = {}
        for queue, home in ended:
            policy = retaining.get(queue)
            own_ms = 0 if policy is None else policy.retention_ms(kind)
            parts.setdefault(own_ms or keep_ms, []).append((queue, home))
        return parts.items()

    def _apply(self, queue: Queue, policy: Policy | None) -> None:
        queue.policy = policy
        if policy is not None and policy.retains:
            self.retaining[queue.number] = policy
        else:
            self.retaining.pop(queue.number, None)
        if policy is not None and policy.lease_ms:
            self.leasing.add(queue.number)
        else:
            self.leasing.discard(queue.number)
        self.limit(queue)
        queue.limit_keys(None if policy is None else policy.of_keys)
        if queue.ring is not None and queue.ring.open_all():
            self._shard.gates_due.set(queue.ring, 0)

    # -- topics ----------------------------------------------------------------------------------------------------

    def row(self, tenant: str, command: str) -> rows_pb2.TopicRow | None:
        """Returns a topic's row; None: there is no such topic."""
        key = tenant_keys.topic_key(tenant, command)
        value = self._shard.get(key)
        return None if value is None else _row(key, value)

    def put(self, tenant: str, command: str, policy: rows_pb2.PolicyRow, wall_ms: int) -> Put:
        """Sets the policy of a command; a policy that is already in force changes nothing.

        Raises:
            Rejection: LIMIT_REACHED, INVALID_POLICY.
        """
        before = self.row(tenant, command)
        self._check_chain(tenant, command, policy.dead_letter_topic_ref)
        count = self.counts.get(tenant, 0)
        if before is None and count >= TOPICS_MAX:
            raise Rejection(Reason.LIMIT_REACHED, f"the tenant has {TOPICS_MAX} topics, the most there may be")
        if before is not None and before.policy == policy:
            return Put(before, before)
        row = rows_pb2.TopicRow(
            tenant=tenant,
            command=command,
            policy=policy,
            version=1 if before is None else before.version + 1,
            created_ms=wall_ms if before is None else before.created_ms,
            updated_ms=wall_ms,
        )
        in_force = policy_of(policy)
        batch, value = self._shard.batch, row.SerializeToString()
        batch.rows[tenant_keys.topic_key(tenant, command)] = value
        batch.size += len(value)
        if before is None:
            self.counts[tenant] = count + 1
        queue = self._shard.by_name.get((tenant, command))
        if queue is not None:
            self._apply(queue, in_force)
        return Put(row, before)

    def _check_chain(self, tenant: str, command: str, following: str) -> None:
        """Checks that the dead-letter topics from `following` on do not lead back to the command."""
        for _ in range(CHAIN_MAX):
            if following == command:
                raise _bad_chain("the dead-letter topics must not lead back to the command itself")
            row = self.row(tenant, following) if following else None
            if row is None:
                return
            following = row.policy.dead_letter_topic_ref
        raise _bad_chain(f"the chain of dead-letter topics has more than {CHAIN_MAX} links")

    def delete(self, tenant: str, command: str) -> rows_pb2.TopicRow | None:
        """Removes a topic, and returns its row; None: there was no such topic."""
        before = self.row(tenant, command)
        if before is None:
            return None
        self._shard.batch.rows[tenant_keys.topic_key(tenant, command)] = None
        self.counts[tenant] -= 1
        if not self.counts[tenant]:
            del self.counts[tenant]
        queue = self._shard.by_name.get((tenant, command))
        if queue is not None:
            self._apply(queue, None)
        return before

    def page(self, tenant: str, after: str, count: int) -> tuple[list[rows_pb2.TopicRow], str]:
        """Returns a page of a tenant's written topics, in the order of commands.

        Args:
            tenant: The tenant.
            after: The first topic is that of the next command after this one.
            count: Maximum number of topics; the page also ends after PAGE_BYTES.

        Returns:
            The topics, and the command after which the next page begins; empty: there are no more.
        """
        found: list[rows_pb2.TopicRow] = []
        size = 0
        stored = self._shard.stored.scan(*tenant_keys.topics_after(tenant, after), count + 1)
        for key, value in self._shard.current(stored[:count]):
            row = _row(key, value)
            found.append(row)
            size += len(value)
            if size > PAGE_BYTES:
                return found, row.command
        return found, tenant_keys.command_of(stored[count - 1][0]) if len(stored) > count else ""

    # -- startup ---------------------------------------------------------------------------------------------------

    def adopt(self, key: bytes, value: bytes) -> None:
        """Takes over a stored topic; all queues are in memory already."""
        row = _row(key, value)
        policy = _policy(row.tenant, row)
        self.counts[row.tenant] = self.counts.get(row.tenant, 0) + 1
        queue = self._shard.by_name.get((row.tenant, row.command))
        if queue is not None:
            self._apply(queue, policy)


def _bad_chain(text: str) -> Rejection:
    field = "policy.dead_letter_topic_ref"
    return Rejection(Reason.INVALID_POLICY, f"{field}: {text}", ((field, text),))


def _row(key: bytes, value: bytes) -> rows_pb2.TopicRow:
    row = parsed(rows_pb2.TopicRow, key, value)
    if tenant_keys.topic_key(row.tenant, row.command) != key:
        raise CorruptRows(key, "holds the policy of another command")
    return row


def _policy(tenant: str, row: rows_pb2.TopicRow) -> Policy:
    try:
        return policy_of(row.policy)
    except ValueError:
        raise CorruptRows(
            tenant_keys.topic_key(tenant, row.command), "names an unknown backoff or answer to a full key"
        ) from None
