"""One member of one Raft group: drives the consensus core.

The core hands out work (`ready`): messages, entries and votes to persist, entries to apply. The group passes messages
to the network and writes to the disk, and reports to the core what is durable and what is applied. Everything here runs
on the event loop; the disk writes elsewhere and calls back, in order. An entry counts as applied once its rows can be
read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import RaftNode, Ready, Status

from .applying import AppliedState
from .disk import Disk, Work
from .installing import Installer
from .leadership import Leadership
from .log_rows import Applied, GroupKeys, Stored, hard_state_value
from .network import Network
from .outgoing import Outgoing
from .ports import Listener, Made, Ticks
from .stored_log import StoredLog

MESSAGE_BYTES_MAX: Final = 1 << 20
"""Maximum bytes of entries in one message to a follower, not counting the last entry."""
MESSAGES_MAX: Final = 64
"""Maximum number of messages with entries in flight to one follower."""
UNCOMMITTED_BYTES_MAX: Final = 128 << 20
"""Maximum bytes of entries that a leader accepts before a majority has them; this exceeds the batches of all
windows."""
COMMITTED_BYTES_MAX: Final = 8 << 20
"""Maximum bytes of entries applied together."""


class Group:
    """A member of a group.

    Args:
        number: Number of the group: the index of its shard.
        raft_id: Raft id of this member.
        stored: Stored state of this member.
        disk: Persists the state.
        network: Carries messages.
        listener: Notified of changes of leadership.
        ticks: How time is counted.
        seed: Determines the election timeouts.
        on_fatal: Called when this member cannot continue.

    Attributes:
        node: The consensus core, for reading the progress of members.
        log: The log on the disk.
        leadership: Who leads, and the proposals of this member.
        written: Last entry whose rows can be read.
    """

    def __init__(
        self,
        number: int,
        raft_id: int,
        stored: Stored,
        disk: Disk,
        network: Network,
        listener: Listener,
        ticks: Ticks,
        seed: int,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.number, self.raft_id = number, raft_id
        self.node = _core(raft_id, stored, ticks, seed)
        self.written = stored.applied.index
        self._keys = keys = GroupKeys(number)
        self._disk, self._network, self._listener, self._on_fatal = disk, network, listener, on_fatal
        self._loop = asyncio.get_running_loop()
        self._outstanding = 0
        """Number of disk writes that the core waits for."""
        self._scheduled = self._stopped = False
        self.log = StoredLog(keys, disk, stored.base[0], stored.last_index)
        self.leadership = Leadership(raft_id, self.node, listener, ticks, self.wake)
        self._state = AppliedState(keys, stored, self.node, self._on_members)
        self._outgoing = Outgoing(self.node, network, number, raft_id, self.log)
        self._installer = Installer(disk, self.log, self._state, self.receive, self._pump)

    # -- what is known ---------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """Status of the consensus core."""
        return self.node.status

    @property
    def leader(self) -> int:
        """Raft id of the leader; 0: unknown."""
        return self.leadership.leader

    @property
    def leading_term(self) -> int:
        """Term in which this member leads and serves; 0: it does not."""
        return self.leadership.serving_term

    @property
    def applied(self) -> Applied:
        """How far entries have been handed to the disk; those up to `written` can be read."""
        return self._state.applied

    @property
    def skipped(self) -> int:
        """Batches in the log that were not applied because another leader's batches came first."""
        return self._state.skipped

    @property
    def conf_state(self) -> bytes:
        """Conf state of Raft as of `applied`."""
        return self._state.conf_state

    @property
    def members(self) -> raft_rows_pb2.MembersRow:
        """Table of members as of `applied`."""
        return self._state.members

    # -- time and messages -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Advances time by one tick."""
        if self._stopped:
            return
        self.node.tick()
        self._outgoing.tick()
        self.leadership.tick()
        self._pump()

    def receive(self, message: bytes) -> None:
        """Handles a message from a peer; drops it if it is invalid or not for this member."""
        if self._stopped:
            return
        try:
            self.node.step(message)
        except ValueError:
            return
        self.wake()

    def unreachable(self, raft_id: int) -> None:
        """Notes that a message did not reach a peer."""
        if not self._stopped:
            self.node.report_unreachable(raft_id)

    def stop(self) -> None:
        """Stops taking part in the group; submitted work is still written."""
        self._stopped = True
        self._installer.stop()
        self.leadership.stop()

    def abandon(self) -> dict[bytes, bytes | None]:
        """Stops taking part in the group; returns the row changes that make the disk forget it."""
        self.stop()
        return self._keys.forgotten(self.log.base, self.log.last)

    def wake(self) -> None:
        """Schedules the pump for this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._scheduled = False
        self._pump()

    # -- the work of the core --------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Handles all work that the core has."""
        if self._stopped:
            return
        try:
            self.leadership.retry()
            while (ready := self.node.ready()) is not None:
                self._take(ready)
            if self.node.snapshot_wanted():
                self._listener.snapshot_wanted()
        except Exception as problem:  # noqa: BLE001 - the member may be halfway through a step
            self.stop()
            self._on_fatal(problem)

    def _take(self, ready: Ready) -> None:
        if ready.soft_state is not None or ready.hard_state is not None:
            self.leadership.note_state()
        for to, kind, message in ready.messages:
            self._send(to, kind, message)
        if ready.snapshot is not None:
            self._persist(ready, *self._installer.take(ready.snapshot))
        elif ready.entries or ready.hard_state is not None or ready.must_sync or self._outstanding:
            self._persist(ready, {})
        else:
            self._on_persisted(ready, counted=False)
        if ready.committed:
            self._apply(ready)
        if ready.read_states:
            pending = self.leadership.pending
            for index, context in ready.read_states:
                pending.answered(index, context)
            pending.reached(self.written)

    def _send(self, to: int, kind: str, message: bytes) -> None:
        if kind != "MsgSnapshot":
            self._network.send(to, self.number, message)
        else:
            self._outgoing.send(to, message)

    def _persist(self, ready: Ready, rows: dict[bytes, bytes | None], rowset: str | None = None) -> None:
        size = 0
        if ready.hard_state is not None:
            rows[self._keys.hard_state] = hard_state_value(ready.hard_state)
        if ready.entries:
            size = self.log.append(ready.entries, rows)
        self._outstanding += 1
        sync = ready.must_sync or rowset is not None
        self._disk.submit(Work(rows, size, sync=sync, synced=partial(self._on_persisted, ready), rowset=rowset))

    def _on_persisted(self, ready: Ready, *, counted: bool = True) -> None:
        self._outstanding -= counted
        self.node.on_persisted(ready.number)
        if ready.snapshot is not None:
            # Only once the core knows that the snapshot is persisted, because it treats an index beyond its log as a
            # fault.
            self.written = ready.snapshot.index
            self.node.on_applied(self.written)
            self._installer.persisted()
            self._listener.members_changed()
        for to, kind, message in ready.persisted_messages:
            self._send(to, kind, message)
        if counted:
            self.wake()

    def _apply(self, ready: Ready) -> None:
        rows, size, done = self._state.apply(ready.committed)
        self._disk.submit(Work(rows, size, written=partial(self._on_applied, done)))

    def _on_members(self) -> None:
        self._loop.call_soon(self._listener.members_changed)

    def _on_applied(self, done: list[tuple[int, int, bool]]) -> None:
        self.written = done[-1][0]
        self.node.on_applied(self.written)
        self.leadership.applied(done)
        self.log.keep_short(self.node, self.written, leading=self.leadership.leads)
        self.wake()

    # -- snapshots -----------------------------------------------------------------------------------------------------

    def offer(self, made: Made) -> None:
        """Offers a snapshot to the followers that need one."""
        self._outgoing.offer(made)
        self.wake()

    def snapshot_sent(self, raft_id: int, *, ok: bool) -> None:
        """Notes the outcome of a snapshot sent to a follower."""
        if not self._stopped:
            self._outgoing.sent(raft_id, ok=ok)
            self.wake()

    async def install(self, message: bytes, files: Sequence[Path]) -> None:
        """Replaces the rows and the log with a snapshot; see `Installer.install`."""
        await self._installer.install(message, files)


def _core(raft_id: int, stored: Stored, ticks: Ticks, seed: int) -> RaftNode:
    """Returns the consensus core of a member with its stored state."""
    term, vote, commit = stored.hard_state
    return RaftNode(
        raft_id,
        seed=seed,
        term=term,
        vote=vote,
        commit=commit,
        conf_state=stored.conf_state,
        base_index=stored.base[0],
        base_term=stored.base[1],
        entries=stored.entries,
        applied=stored.applied.index,
        election_ticks=ticks.election,
        heartbeat_ticks=ticks.heartbeat,
        message_bytes_max=MESSAGE_BYTES_MAX,
        inflight_max=MESSAGES_MAX,
        uncommitted_bytes_max=UNCOMMITTED_BYTES_MAX,
        committed_bytes_max=COMMITTED_BYTES_MAX,
    )
