"""One member of one Raft group: drives the consensus core, applies what is decided, reports who leads.

The core hands out work (`ready`): messages, entries and votes to persist, entries to apply. Everything here runs on the
event loop; the disk writes elsewhere and calls back, in order. An entry counts as applied once its rows can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import ProposalRefused, RaftNode, Ready, Status, read_conf_state, snapshot_of

from codeq_server.core.batch import SealedBatch

from . import members
from .compaction import LogKeeper
from .disk import Disk, Work
from .entry import BatchEntry, EntryTooLong, decode, encode_batch, encode_members
from .log_rows import Applied, GroupKeys, Stored, applied_value, base_value, hard_state_value
from .network import Network
from .outgoing import Outgoing
from .pending import Pending
from .ports import Listener, Made, Step, Ticks

NORMAL: Final = 0
"""Kind of an entry that does not change voters."""
MESSAGE_BYTES_MAX: Final = 1 << 20
"""Bytes of entries in one message to a follower, not counting its last entry."""
MESSAGES_MAX: Final = 64
"""Messages with entries in flight to one follower."""
UNCOMMITTED_BYTES_MAX: Final = 128 << 20
"""Bytes of entries that a leader accepts before a majority has them: more than the batches of all windows."""
COMMITTED_BYTES_MAX: Final = 8 << 20
"""Bytes of entries applied together."""
_NOT_PROPOSED: Final = 1 << 62
"""Stands for the index of a barrier not yet proposed."""


class SnapshotNotWanted(Exception):  # noqa: N818 - what it is
    """A received snapshot is not installed, for example because it is older than the local state."""


@dataclass(slots=True)
class _Staged:
    """A snapshot whose rows are imported but not yet current."""

    index: int
    rowset: str
    done: asyncio.Future[None]
    taken: bool = False


class Group:
    """A member of a group.

    Args:
        number: Number of the group: the index of its shard.
        raft_id: Raft id of this member.
        stored: Its stored state.
        disk: Persists its state.
        network: Carries messages.
        listener: Told of changes of leadership.
        ticks: How time is counted.
        seed: Determines the election timeouts.
        on_fatal: Called when this member cannot continue.
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
        self.members = stored.members
        self.conf_state = stored.conf_state
        self.applied = stored.applied
        """How far entries have been handed to the disk; those up to `written` can be read."""
        self.written = stored.applied.index
        self.leader = 0
        self.elections = 0
        """Leaders that became known, counted once per term."""
        self._elected = (0, 0)
        self.skipped = 0
        """Batches in the log that were not applied because another leader's came first."""
        self._keys = GroupKeys(number)
        self._disk, self._network, self._listener = disk, network, listener
        self._ticks, self._now = ticks, 0
        self._heard: dict[int, int] = {}
        """The tick at which each other member last answered this leader; the core forgets it at each quorum check."""
        self._on_fatal = on_fatal
        self._loop = asyncio.get_running_loop()
        self.last_index = stored.last_index
        """Last entry handed to the disk."""
        self._outstanding = 0
        """Works at the disk that the core waits for."""
        self.pending = Pending(self._loop, listener.refusal)
        self._leading_term = 0
        self._barrier = 0
        """Entry that must be applied before this leader serves; 0: it serves."""
        self._scheduled = self._stopped = False
        self._staged: _Staged | None = None
        self.log = LogKeeper(self._keys, disk, stored.base[0])
        term, vote, commit = stored.hard_state
        self._node = RaftNode(
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
        self._outgoing = Outgoing(self._node, network, number, raft_id, self.log)

    # -- what is known ---------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """Status of the consensus core."""
        return self._node.status

    @property
    def leading_term(self) -> int:
        """Term in which this member leads and serves; 0: it does not."""
        return 0 if self._barrier else self._leading_term

    @property
    def node(self) -> RaftNode:
        """The consensus core, for reading the progress of members."""
        return self._node

    # -- time and messages -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Advances time by one tick."""
        if self._stopped:
            return
        self._node.tick()
        self._outgoing.tick()
        self._now += 1
        if self._leading_term:
            self._heard |= {seen.id: self._now for seen in self._node.progress() if seen.recent_active}
        self._pump()

    def hears(self, raft_id: int) -> bool:
        """Returns whether this leader has heard from a member within an election timeout."""
        heard = self._now if raft_id == self.raft_id else self._heard.get(raft_id)
        return heard is not None and self._now - heard < self._ticks.election

    def receive(self, message: bytes) -> None:
        """Takes a message of a peer; drops it if it is invalid or not for this member."""
        if self._stopped:
            return
        try:
            self._node.step(message)
        except ValueError:
            return
        self.wake()

    def unreachable(self, raft_id: int) -> None:
        """Notes that a message did not reach a peer."""
        if not self._stopped:
            self._node.report_unreachable(raft_id)

    def stop(self) -> None:
        """Stops taking part; work at the disk is still written."""
        self._stopped = True
        self._lose()

    def abandon(self) -> dict[bytes, bytes | None]:
        """Stops taking part; returns the row changes that make the disk forget the group."""
        self.stop()
        return self._keys.forgotten(self.log.base, self.last_index)

    def wake(self) -> None:
        """Schedules the pump for this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._scheduled = False
        self._pump()

    # -- proposals and reads ---------------------------------------------------------------------------------------

    def propose(self, term: int, batch: SealedBatch) -> asyncio.Future[None]:
        """Returns a future that is done when a batch, decided in a term, is applied here.

        It fails with `Listener.refusal` if the outcome is unknown. A batch that is refused leaves a gap, so the
        leadership ends, and starts again if this member still leads.
        """
        future = self._propose(term, lambda: self._node.propose(encode_batch(term, batch)))
        if future.done() and self.leading_term == term:
            self._loop.call_soon(self.renew, term)
        return future

    def change_members(self, change: raft_rows_pb2.MembersChange, voters: Sequence[Step] = ()) -> asyncio.Future[None]:
        """Returns a future that is done when a change of the members is applied here.

        It fails with `Listener.refusal` if the outcome is unknown.

        Args:
            change: The change of the table of members.
            voters: ("voter" | "learner" | "remove", raft id) of each member whose role in the consensus changes.
        """
        if voters:
            context = change.SerializeToString()
            return self._propose(self._leading_term, lambda: self._node.propose_members(voters, context))
        return self._propose(self._leading_term, lambda: self._node.propose(encode_members(change)))

    def _propose(self, term: int, propose: Callable[[], int]) -> asyncio.Future[None]:
        if self._stopped or not term or term != self._leading_term or term != self._node.status.term:
            return self.pending.failed()
        try:
            index = propose()
        except (ProposalRefused, EntryTooLong):
            return self.pending.failed()
        self.wake()
        return self.pending.proposed(index, term)

    def confirm(self, term: int) -> asyncio.Future[None]:
        """Returns a future that is done once it is certain that nothing was decided elsewhere before this call.

        It fails with `Listener.refusal` if this member does not lead in the term, or stops leading.
        """
        return self.pending.ask(bool(term) and self.leading_term == term, self._ask)

    def _ask(self, context: bytes) -> None:
        with suppress(ProposalRefused):  # it no longer leads: the callers are told when that is noticed
            self._node.read_index(context)
        self.wake()

    def renew(self, term: int) -> None:
        """Ends the leadership of a term, and starts it again in the same term if this member still leads.

        `Listener.lost` is called now, `Listener.leading` once everything proposed before is applied.
        """
        if not term or self.leading_term != term:
            return
        self._barrier = _NOT_PROPOSED
        self._listener.lost()
        self.pending.fail()
        self._propose_barrier()

    def _propose_barrier(self) -> None:
        try:
            self._barrier = self._node.propose(encode_members(raft_rows_pb2.MembersChange()))
        except ProposalRefused:
            return  # retried at the next tick
        self.wake()

    def transfer(self, to: int) -> bool:
        """Asks the core to transfer the leadership to another voter, which may fail; returns whether it tries."""
        try:
            self._node.transfer_leader(to)
        except ProposalRefused:
            return False
        self.wake()
        return True

    # -- the pump ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if self._stopped:
            return
        try:
            if self._barrier == _NOT_PROPOSED:
                self._propose_barrier()
            while (ready := self._node.ready()) is not None:
                self._take(ready)
            if self._node.snapshot_wanted():
                self._listener.snapshot_wanted()
        except Exception as problem:  # noqa: BLE001 - the member may be halfway through a step
            self._stopped = True
            self._lose()
            self._on_fatal(problem)

    def _take(self, ready: Ready) -> None:
        if ready.soft_state is not None or ready.hard_state is not None:
            self._note_state()
        for to, kind, message in ready.messages:
            self._send(to, kind, message)
        if ready.snapshot is not None:
            self._take_snapshot(ready)
        elif ready.entries or ready.hard_state is not None or ready.must_sync or self._outstanding:
            self._persist(ready, {})
        else:
            self._on_persisted(ready, counted=False)
        if ready.committed:
            self._apply(ready)
        if ready.read_states:
            for index, context in ready.read_states:
                self.pending.answered(index, context)
            self.pending.reached(self.written)

    def _note_state(self) -> None:
        status = self._node.status
        term = status.term if status.role == "leader" else 0
        if term != self._leading_term:
            self._lose()
            self._leading_term, self._heard = term, {}
            self._barrier = status.last_index if term else 0
        if status.leader and (status.leader, status.term) != self._elected:
            self._elected = (status.leader, status.term)
            self.elections += 1
        if status.leader != self.leader:
            self.leader = status.leader
            self._listener.leader_changed()

    def _lose(self) -> None:
        if not self._leading_term:
            return
        serving = self.leading_term
        self._leading_term = self._barrier = 0
        if serving:
            self._listener.lost()  # before the waiters fail: it knows what to tell them
        self.pending.fail()

    def _send(self, to: int, kind: str, message: bytes) -> None:
        if kind != "MsgSnapshot":
            self._network.send(to, self.number, message)
        else:
            self._outgoing.send(to, message)

    # -- persisting ----------------------------------------------------------------------------------------------------

    def _persist(self, ready: Ready, rows: dict[bytes, bytes | None], rowset: str | None = None) -> None:
        keys, size = self._keys, 0
        if ready.hard_state is not None:
            rows[keys.hard_state] = hard_state_value(ready.hard_state)
        if ready.entries:
            for index, _, content in ready.entries:
                rows[keys.entry(index)] = content
                size += len(content)
            last = ready.entries[-1][0]
            for index in range(last + 1, self.last_index + 1):
                rows[keys.entry(index)] = None  # a stale tail would be taken for decided after a restart
            self.last_index = last
        self._outstanding += 1
        sync = ready.must_sync or rowset is not None
        self._disk.submit(Work(rows, size, sync=sync, synced=partial(self._on_persisted, ready), rowset=rowset))

    def _on_persisted(self, ready: Ready, *, counted: bool = True) -> None:
        self._outstanding -= counted
        self._node.on_persisted(ready.number)
        if ready.snapshot is not None:
            self._installed(ready.snapshot.index)
        for to, kind, message in ready.persisted_messages:
            self._send(to, kind, message)
        if counted:
            self.wake()

    # -- applying ------------------------------------------------------------------------------------------------------

    def _apply(self, ready: Ready) -> None:
        rows: dict[bytes, bytes | None] = {}
        done: list[tuple[int, int, bool]] = []
        size = 0
        for index, term, kind, data, context in ready.committed:
            accepted = True
            self.applied = self.applied._replace(index=index, term=term)
            if kind != NORMAL:
                self._apply_voters(kind, data, context, rows)
            elif data:
                accepted = self._apply_entry(term, data, rows)
                size += len(data)
            done.append((index, term, accepted))
        rows[self._keys.applied] = applied_value(self.applied)
        self._disk.submit(Work(rows, size, written=partial(self._on_applied, done)))

    def _apply_entry(self, term: int, data: bytes, rows: dict[bytes, bytes | None]) -> bool:
        """Applies an entry; returns False if it changes nothing, which is so on every member alike."""
        entry = decode(data)
        if not isinstance(entry, BatchEntry):
            self._apply_members(entry, rows)
            return True
        if entry.term != term or entry.previous != self.applied.lsn:
            self.skipped += 1
            return False
        rows.update(entry.rows)
        self.applied = self.applied._replace(lsn=entry.lsn)
        return True

    def _apply_voters(self, kind: int, data: bytes, context: bytes, rows: dict[bytes, bytes | None]) -> None:
        self.conf_state = self._node.apply_members(kind, data)
        rows[self._keys.conf_state] = self.conf_state
        self._apply_members(raft_rows_pb2.MembersChange.FromString(context), rows)

    def _apply_members(self, change: raft_rows_pb2.MembersChange, rows: dict[bytes, bytes | None]) -> None:
        voters = len(read_conf_state(self.conf_state).voters)
        self.members = members.changed(self.members, change, voters)
        rows[self._keys.members] = self.members.SerializeToString()
        self._loop.call_soon(self._listener.members_changed)

    def _on_applied(self, done: list[tuple[int, int, bool]]) -> None:
        self.written = done[-1][0]
        self._node.on_applied(self.written)
        self.pending.applied(done)
        self.pending.reached(self.written)
        if self._barrier and self.written >= self._barrier:
            self._barrier = 0
            self._listener.leading(self._leading_term)
        self.log.keep_short(self._node, self.written, leading=bool(self._leading_term))
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
        """Replaces the rows and the log by a snapshot; returns when it is durable.

        A snapshot no newer than the local state counts as installed; otherwise its leader would send it forever.

        Args:
            message: The Raft message that came with it.
            files: Its rows, in key order.

        Raises:
            SnapshotNotWanted: The message has none, it is older than the term, or another one is being installed.
            StoreError: The files cannot be imported.
        """
        snapshot = snapshot_of(message)
        if snapshot is None or self._staged is not None or self._stopped:
            raise SnapshotNotWanted
        if snapshot.index <= self.applied.index:
            self.receive(message)  # the core tells the leader how far this member is
            return
        staged = self._staged = _Staged(snapshot.index, "", self._loop.create_future())
        try:
            staged.rowset = await self._disk.import_rows(files)
            self.receive(message)
            self._pump()
            if not staged.taken:
                if not self._stopped:  # otherwise the next opening of the store drops them
                    await self._disk.drop_rows(staged.rowset)
                raise SnapshotNotWanted
            await staged.done
        finally:
            self._staged = None

    def _take_snapshot(self, ready: Ready) -> None:
        snapshot, staged, keys = ready.snapshot, self._staged, self._keys
        assert snapshot is not None
        assert staged is not None, "a snapshot without its rows"
        assert staged.index == snapshot.index, "a snapshot without its rows"
        staged.taken = True
        data = raft_rows_pb2.SnapshotData.FromString(snapshot.data)
        self.applied = Applied(snapshot.index, snapshot.term, data.lsn)
        self.conf_state, self.members = snapshot.conf_state, data.members
        rows: dict[bytes, bytes | None] = {
            keys.entry(index): None for index in range(self.log.base + 1, self.last_index + 1)
        }
        rows[keys.base] = base_value(snapshot.index, snapshot.term)
        rows[keys.applied] = applied_value(self.applied)
        rows[keys.conf_state] = snapshot.conf_state
        rows[keys.members] = data.members.SerializeToString()
        self.last_index = self.log.base = snapshot.index
        self._persist(ready, rows, staged.rowset)

    def _installed(self, index: int) -> None:
        # Only once the core knows that it is persisted: it treats an index beyond its log as a fault.
        self.written = index
        self._node.on_applied(index)
        if self._staged is not None and not self._staged.done.done():
            self._staged.done.set_result(None)
        self._listener.members_changed()
