"""The ports of a member: a listener for leadership changes, and a host that serves the shard and makes snapshots."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Step = tuple[Literal["voter", "learner", "remove"], int]
"""New role of a member in the consensus, and its raft id."""


class Listener(Protocol):
    """Notified of changes of leadership."""

    def refusal(self) -> Exception:
        """Returns the exception for callers that need this member to lead although it does not."""
        ...

    def leading(self, term: int) -> None:
        """Reports that this member leads, and that the rows contain everything decided so far."""
        ...

    def lost(self) -> None:
        """Reports that this member no longer leads."""
        ...

    def leader_changed(self) -> None:
        """Reports that the leader has changed or is now unknown."""
        ...

    def members_changed(self) -> None:
        """Reports that the table of members has changed."""
        ...

    def snapshot_wanted(self) -> None:
        """Reports that a follower needs a snapshot, which `Group.offer` then offers."""
        ...


@dataclass(frozen=True, slots=True)
class Ticks:
    """How a member counts time.

    Attributes:
        election: Ticks without a leader before an election: at least this many, and fewer than twice as many.
        heartbeat: Ticks between two heartbeats.
    """

    election: int
    heartbeat: int


def _keep() -> None:
    """Does nothing: the maker removes its files itself."""


@dataclass(frozen=True, slots=True)
class Made:
    """A finished snapshot.

    Attributes:
        folder: Folder with the snapshot's files.
        index: Last entry in the snapshot.
        term: Term of that entry.
        conf_state: Conf state of Raft at that index.
        data: A serialised SnapshotData.
        remove: Removes the snapshot's files.
    """

    folder: Path
    index: int
    term: int
    conf_state: bytes
    data: bytes
    remove: Callable[[], None] = _keep


class Host(Protocol):
    """Serves the shard while this member is the leader."""

    def lead(self, term: int) -> None:
        """Starts to serve: this member leads in the term, and the rows contain everything decided so far."""
        ...

    def follow(self) -> None:
        """Stops serving: this member no longer leads."""
        ...

    def members_changed(self) -> None:
        """Reports that the members have changed."""
        ...

    def leader_changed(self) -> None:
        """Reports that the leader has changed, is now unknown, or that more is known about it."""
        ...

    def make_snapshot(self) -> Awaitable[Made]:
        """Returns a new snapshot of the written rows."""
        ...
