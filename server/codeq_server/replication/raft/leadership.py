"""Leadership of a group: tracks the leader, proposes, confirms reads and hands over. Also the log of one leadership."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import ProposalRefused, RaftNode

from codeq_server.core.batch import SealedBatch

from .entry import EntryTooLong, encode_batch, encode_members
from .pending import Pending
from .ports import Listener, Step, Ticks

WINDOW: Final = 4
"""Maximum batches of one leadership in flight: while one batch is being agreed on, the next ones are filled and
sent."""
_NOT_PROPOSED: Final = 1 << 62
"""Stands for the index of a barrier not yet proposed."""


class Leadership:
    """The leader as one member sees it, and the proposals and reads of this member while it leads.

    Args:
        raft_id: Raft id of this member.
        node: The consensus core.
        listener: Notified of changes of leadership.
        ticks: How time is counted.
        wake: Makes the group process the core's work.

    Attributes:
        leader: Raft id of the leader; 0: unknown.
        elections: Number of leaders that became known, at most one per term.
        pending: Waiters for proposals and reads.
    """

    def __init__(
        self, raft_id: int, node: RaftNode, listener: Listener, ticks: Ticks, wake: Callable[[], None]
    ) -> None:
        self.leader = 0
        self.elections = 0
        self._raft_id, self._node, self._listener, self._ticks, self._wake = raft_id, node, listener, ticks, wake
        self._loop = asyncio.get_running_loop()
        self.pending = Pending(self._loop, listener.refusal)
        self._elected = (0, 0)
        self._leading_term = 0
        self._barrier = 0
        """Entry that must be applied before this leader serves; 0: the leader serves."""
        self._now = 0
        self._heard: dict[int, int] = {}
        """The tick at which each other member last answered this leader; the core forgets it at each quorum check."""
        self._stopped = False

    # -- who leads -------------------------------------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        """Whether this member leads, even if it does not serve yet."""
        return bool(self._leading_term)

    @property
    def serving_term(self) -> int:
        """Term in which this member leads and serves; 0: it does not."""
        return 0 if self._barrier else self._leading_term

    def hears(self, raft_id: int) -> bool:
        """Returns whether this leader has heard from a member within an election timeout."""
        heard = self._now if raft_id == self._raft_id else self._heard.get(raft_id)
        return heard is not None and self._now - heard < self._ticks.election

    def tick(self) -> None:
        """Advances time by one tick."""
        self._now += 1
        if self._leading_term:
            self._heard |= {seen.id: self._now for seen in self._node.progress() if seen.recent_active}

    def note_state(self) -> None:
        """Compares with the core, which has a new state: leaderships begin and end here."""
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

    def applied(self, done: Sequence[tuple[int, int, bool]]) -> None:
        """Resolves the waiters of applied entries, whose rows can be read; begins to serve after the barrier."""
        written = done[-1][0]
        self.pending.applied(done)
        self.pending.reached(written)
        if self._barrier and written >= self._barrier:
            self._barrier = 0
            self._listener.leading(self._leading_term)

    def stop(self) -> None:
        """Ends the leadership, if there is one; nothing is proposed any more."""
        self._stopped = True
        self._lose()

    def _lose(self) -> None:
        if not self._leading_term:
            return
        serving = self.serving_term
        self._leading_term = self._barrier = 0
        if serving:
            self._listener.lost()  # before the waiters fail, because the listener makes their exception
        self.pending.fail()

    # -- proposals and reads ---------------------------------------------------------------------------------------

    def propose(self, term: int, batch: SealedBatch) -> asyncio.Future[None]:
        """Returns a future that is done when a batch, decided in a term, is applied here.

        The future fails with `Listener.refusal` if the outcome is unknown. A rejected batch leaves a gap, so the
        leadership ends, and starts again if this member still leads.
        """
        future = self._propose(term, lambda: self._node.propose(encode_batch(term, batch)))
        if future.done() and self.serving_term == term:
            self._loop.call_soon(self.renew, term)
        return future

    def change_members(self, change: raft_rows_pb2.MembersChange, voters: Sequence[Step] = ()) -> asyncio.Future[None]:
        """Returns a future that is done when a change of the members is applied here.

        The future fails with `Listener.refusal` if the outcome is unknown.

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
        self._wake()
        return self.pending.proposed(index, term)

    def confirm(self, term: int) -> asyncio.Future[None]:
        """Returns a future that is done once it is certain that no other member had decided anything before this call.

        The future fails with `Listener.refusal` if this member does not lead in the term, or stops leading.
        """
        return self.pending.ask(bool(term) and self.serving_term == term, self._ask)

    def _ask(self, context: bytes) -> None:
        with suppress(ProposalRefused):  # this member no longer leads; the callers are notified when it finds out
            self._node.read_index(context)
        self._wake()

    # -- beginning again and handing over --------------------------------------------------------------------------

    def renew(self, term: int) -> None:
        """Ends the leadership of a term, and starts it again in the same term if this member still leads.

        `Listener.lost` is called now, and `Listener.leading` once everything proposed so far is applied.
        """
        if not term or self.serving_term != term:
            return
        self._barrier = _NOT_PROPOSED
        self._listener.lost()
        self.pending.fail()
        self._propose_barrier()

    def retry(self) -> None:
        """Proposes the barrier of a renewed leadership again if the core has not accepted it yet."""
        if self._barrier == _NOT_PROPOSED:
            self._propose_barrier()

    def _propose_barrier(self) -> None:
        try:
            self._barrier = self._node.propose(encode_members(raft_rows_pb2.MembersChange()))
        except ProposalRefused:
            return  # retried at the next tick
        self._wake()

    def transfer(self, to: int) -> bool:
        """Asks the core to transfer the leadership to another voter, which may fail; returns whether the core tries."""
        try:
            self._node.transfer_leader(to)
        except ProposalRefused:
            return False
        self._wake()
        return True


class LeaderLog:
    """Makes batches durable on a majority, as long as this member leads in the term that the log was made for."""

    window = WINDOW

    def __init__(self, leadership: Leadership, term: int) -> None:
        self._leadership, self._term = leadership, term

    def append(self, batch: SealedBatch) -> asyncio.Future[None]:
        """See `Log.append`; fails with a Rejection if the outcome is unknown."""
        return self._leadership.propose(self._term, batch)

    def confirm(self) -> asyncio.Future[None] | None:
        """See `Log.confirm`: asks the other members once for all callers in one turn of the loop."""
        return self._leadership.confirm(self._term)

    async def close(self) -> None:
        """See `Log.close`; the store belongs to the member and stays open."""
