"""What a group needs of others and tells them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Step = tuple[Literal["voter", "learner", "remove"], int]
"""What becomes of a member in the consensus, and its raft id."""


class Listener(Protocol):
    """Who is told what becomes of the leadership."""

    def refusal(self) -> Exception:
        """Returns what those are told who want this member to lead, and it does not."""
        ...

    def leading(self, term: int) -> None:
        """This member leads, and everything decided before stands in the rows."""
        ...

    def lost(self) -> None:
        """This member led, and does not any more."""
        ...

    def leader_changed(self) -> None:
        """Another leader is known, or none."""
        ...

    def members_changed(self) -> None:
        """The table of members is another one."""
        ...

    def snapshot_wanted(self) -> None:
        """A follower needs a snapshot; `Group.offer` gives it one."""
        ...


@dataclass(frozen=True, slots=True)
class Ticks:
    """How a member counts time.

    Attributes:
        election: Ticks without a leader before an election, at least; at most twice as many.
        heartbeat: Ticks between two heartbeats.
    """

    election: int
    heartbeat: int


def _keep() -> None:
    """Whoever made it sees to its files."""


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot that was made.

    Attributes:
        folder: Where its files are.
        index: Last entry in it.
        term: Its term.
        conf_state: Conf state of Raft then.
        data: SnapshotData.
        remove: Removes its files.
    """

    folder: Path
    index: int
    term: int
    conf_state: bytes
    data: bytes
    remove: Callable[[], None] = _keep
