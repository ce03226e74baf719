"""Who gets the signals of a queue, and when: targets with a pending signal each, coalesced by their intervals.

A target is a subscription, a group, or all subscriptions that share by hash. An edge (work became ready) makes the
signals of the idle targets pending, and does nothing for the others; so however many edges there are, a target costs
time once per interval.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from codeq_internal.v1 import rows_pb2

from codeq_server.core.subscriptions import Subscription

_GROUP: Final = rows_pb2.SIGNAL_MODE_GROUP
_HASH: Final = rows_pb2.SIGNAL_MODE_HASH


class Member:
    """A subscription as a receiver of one command's signals.

    Attributes:
        subscription: The subscription.
        next_ms: Time from which it may get the next signal, in monotonic milliseconds.
        posting: Whether a request is in flight.
        blocked: Target whose signal waits for the end of that request.
    """

    __slots__ = ("blocked", "next_ms", "posting", "subscription")

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.next_ms = 0
        self.posting = False
        self.blocked: Target | None = None


class Target:
    """Members of which one gets each signal.

    Attributes:
        audience: The audience that it belongs to.
        members: Its members, at least one; the one whose turn it is comes first.
        pending: Whether a signal waits to be sent.
    """

    __slots__ = ("audience", "members", "pending")

    def __init__(self, audience: Audience, members: list[Member]) -> None:
        self.audience = audience
        self.members = members
        self.pending = False

    def choose(self, now_ms: int) -> Member:
        """Returns the first member in turn that may get a signal now, or else the one that may first."""
        for member in self.members:
            if member.next_ms <= now_ms and not member.posting:
                return member
        return min(self.members, key=lambda member: (member.posting, member.next_ms))

    def sent_to(self, member: Member) -> None:
        """Moves a member that got a signal to the end of the turns."""
        if len(self.members) > 1:
            self.members.remove(member)
            self.members.append(member)


class Audience:
    """The targets of one command.

    Attributes:
        tenant: The tenant.
        command: The command.
        ready: Tasks that a claim would find, after the last durable batch that changed the queue.
        targets: The targets, by key.
        idle: Targets without a pending signal.
        version: Version of the tenant's subscriptions for which the targets were made; -1: they are outdated.
    """

    __slots__ = ("_members", "command", "idle", "ready", "targets", "tenant", "version")

    def __init__(self, tenant: str, command: str) -> None:
        self.tenant = tenant
        self.command = command
        self.ready = 0
        self.targets: dict[str, Target] = {}
        self.idle: dict[Target, None] = {}
        self.version = -1
        self._members: dict[str, Member] = {}
        """Members by id of the subscription."""

    def update(self, subscriptions: Iterable[Subscription], version: int) -> None:
        """Rebuilds the targets after subscriptions were made or ended; those that stay keep their state."""
        self.version = version
        known, self._members = self._members, {}
        by_key: dict[str, list[Member]] = {}
        hashed: list[Member] = []
        for subscription in subscriptions:
            if not subscription.wants(self.command):
                continue
            member = known.get(subscription.id) or Member(subscription)
            self._members[subscription.id] = member
            if subscription.wanted.mode == _HASH:
                hashed.append(member)
            elif subscription.wanted.mode == _GROUP:
                by_key.setdefault(f"group {subscription.wanted.group}", []).append(member)
            else:
                by_key[subscription.id] = [member]
        if hashed:
            by_key["hash"] = [max(hashed, key=lambda member: _weight(self.command, member.subscription.id))]
        earlier, self.targets, self.idle = self.targets, {}, {}
        for key, members in by_key.items():
            target = earlier.get(key) or Target(self, members)
            target.members = _in_turn(target.members, members)
            self.targets[key] = target
            if not target.pending:
                self.idle[target] = None
        for key, target in earlier.items():
            if key not in self.targets:
                target.members = []

    @property
    def is_quiet(self) -> bool:
        """Whether no signal is pending."""
        return len(self.idle) == len(self.targets)


def _in_turn(earlier: list[Member], members: list[Member]) -> list[Member]:
    """Returns the members, those that were members before first and in their order."""
    stay, knew = set(map(id, members)), set(map(id, earlier))
    stayed = [member for member in earlier if id(member) in stay]
    return stayed + [member for member in members if id(member) not in knew]


def _weight(command: str, subscription: str) -> bytes:
    """Returns the weight of a subscription for a command, by which few commands move when one comes or goes."""
    return hashlib.blake2b(f"{command} {subscription}".encode(), digest_size=8).digest()
