"""Snapshots for followers: offers the latest one, tracks which members are receiving it, and removes its files."""

from __future__ import annotations

from typing import Final

from codeq_raft_core import RaftNode, conf_state, snapshot_of

from .network import Network
from .ports import Made
from .stored_log import StoredLog

KEPT_TICKS: Final = 600
"""Ticks that a snapshot is kept while no member is receiving it: half a minute by default. Then its files are
removed."""


class Outgoing:
    """The snapshots that one member offers.

    Args:
        node: The consensus core, which knows the members that need a snapshot.
        network: Sends the snapshots.
        group: Number of the group.
        raft_id: Raft id of this member.
        log: Keeps the entries after the snapshot while a member is receiving it.
    """

    def __init__(self, node: RaftNode, network: Network, group: int, raft_id: int, log: StoredLog) -> None:
        self._node, self._network, self._group, self._raft_id, self._log = node, network, group, raft_id, log
        self._offered: Made | None = None
        self._older: list[Made] = []
        self._sending: dict[int, Made] = {}
        self._idle_ticks = 0

    def offer(self, made: Made) -> None:
        """Offers a snapshot to all members that need one; earlier ones are removed once no member is receiving them."""
        if self._offered is not None:
            self._older.append(self._offered)
        self._offered = made
        self._idle_ticks = 0
        self._node.offer_snapshot(made.index, made.term, made.conf_state, made.data)
        self._clean()

    def send(self, to: int, message: bytes) -> None:
        """Sends the message with which the core offers a snapshot, and the snapshot's files."""
        made = self._made_of(message)
        if made is None:
            self._node.report_snapshot(to, False)  # noqa: FBT003 - the signature of the extension
            return
        self._sending[to] = made
        self._log.held = min(each.index for each in self._sending.values())
        self._network.send_snapshot(to, self._group, message, made.folder)

    def sent(self, to: int, *, ok: bool) -> None:
        """Notes the outcome of a snapshot that was sent."""
        self._sending.pop(to, None)
        self._log.held = min((each.index for each in self._sending.values()), default=None)
        self._idle_ticks = 0
        self._node.report_snapshot(to, ok)
        self._clean()

    def tick(self) -> None:
        """Withdraws a snapshot that no member has needed for KEPT_TICKS: the next snapshot will be newer."""
        made = self._offered
        if made is None or self._sending:
            return
        self._idle_ticks += 1
        if self._idle_ticks >= KEPT_TICKS:
            # The core offers a snapshot only to members that it lists: this snapshot lists only this member.
            self._node.offer_snapshot(made.index, made.term, conf_state([self._raft_id], []), b"")
            self._older.append(made)
            self._offered = self._log.held = None
            self._clean()

    def _made_of(self, message: bytes) -> Made | None:
        # A newer snapshot may have been offered since the core wrote the message; index and files must be of one
        # snapshot.
        snapshot = snapshot_of(message)
        offered = self._older if self._offered is None else [*self._older, self._offered]
        return next((made for made in offered if snapshot is not None and made.index == snapshot.index), None)

    def _clean(self) -> None:
        needed = list(self._sending.values())
        gone = [made for made in self._older if made not in needed]
        self._older = [made for made in self._older if made in needed]
        for made in gone:
            made.remove()
