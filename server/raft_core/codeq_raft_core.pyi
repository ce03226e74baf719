"""Consensus for codeq: one member of a Raft group, in numbers and bytes.

The caller owns the clock (`tick`), the network (`step`, messages of `Ready`) and the disk (`Ready`, `on_persisted`). On
each turn, until `ready()` returns None:

1. Send `messages`.
2. Answer `read_states` once their index is applied.
3. For each entry of `committed` that changes members (type 1 or 2), in order and before the next `step` or `tick`: call
   `apply_members`. Store its result together with the applied index.
4. Queue the rest for the only writer: hard state, snapshot, entries (the first replaces everything stored from its
   index on), and the committed entries. The writer works in order. Report applied entries with `on_applied`.
5. When a Ready and all before it are durable: call `on_persisted(number)`, then send its `persisted_messages`. A Ready
   without `must_sync` needs no sync of its own, but waits for those before it.
6. Report an installed snapshot with `on_applied(its index)`, after `on_persisted`.

Terms, indices and raft ids are unsigned 64-bit numbers; 0 means "none". A panic inside ends the process.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, final

_Role: TypeAlias = Literal["follower", "precandidate", "candidate", "leader"]
_ChangeKind: TypeAlias = Literal["voter", "learner", "remove"]

class ProposalRefused(Exception):
    """This node cannot carry out the request now; nothing was appended. The message says why."""

@final
class Snapshot:
    """The state of the group at an index, in its owner's format."""

    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def conf_state(self) -> bytes: ...
    @property
    def data(self) -> bytes: ...

@final
class ConfState:
    """Who belongs to the group; each list is in ascending order."""

    @property
    def voters(self) -> list[int]: ...
    @property
    def learners(self) -> list[int]: ...
    @property
    def voters_outgoing(self) -> list[int]:
        """The voters before a change through joint consensus, while it lasts."""
    @property
    def learners_next(self) -> list[int]:
        """Outgoing voters that become learners when the joint state ends."""
    @property
    def auto_leave(self) -> bool: ...

@final
class Status:
    """State of a node."""

    @property
    def role(self) -> _Role: ...
    @property
    def leader(self) -> int:
        """Raft id of the leader; 0 if unknown."""
    @property
    def term(self) -> int: ...
    @property
    def vote(self) -> int: ...
    @property
    def commit(self) -> int: ...
    @property
    def applied(self) -> int: ...
    @property
    def first_index(self) -> int:
        """Index of the first entry that is not compacted."""
    @property
    def last_index(self) -> int: ...
    @property
    def log_bytes(self) -> int:
        """Bytes of the payloads in memory."""
    @property
    def transferring(self) -> int:
        """Raft id of the member to which leadership is being transferred, else 0."""

@final
class Progress:
    """A leader's knowledge of one member."""

    @property
    def id(self) -> int: ...
    @property
    def matched(self) -> int:
        """Last index that the member is known to have durably."""
    @property
    def next_index(self) -> int: ...
    @property
    def state(self) -> Literal["probe", "replicate", "snapshot"]: ...
    @property
    def recent_active(self) -> bool:
        """Whether it was heard from since the last check of the quorum."""
    @property
    def pending_snapshot(self) -> int:
        """Index of the snapshot that was sent to it and not reported yet, else 0."""
    @property
    def is_learner(self) -> bool: ...

@final
class Ready:
    """Work to do; see the module."""

    @property
    def number(self) -> int: ...
    @property
    def must_sync(self) -> bool: ...
    @property
    def hard_state(self) -> tuple[int, int, int] | None:
        """(term, vote, commit), if changed."""
    @property
    def soft_state(self) -> tuple[int, _Role] | None:
        """(leader, role), if changed."""
    @property
    def entries(self) -> list[tuple[int, int, bytes]]:
        """(index, term, the whole entry), to store; they replace all entries stored from the first index on."""
    @property
    def snapshot(self) -> Snapshot | None:
        """Replaces state and log; entries of the same Ready follow it."""
    @property
    def messages(self) -> list[tuple[int, str, bytes]]:
        """(to, type, message), to send at once."""
    @property
    def persisted_messages(self) -> list[tuple[int, str, bytes]]:
        """(to, type, message), to send once this Ready is durable."""
    @property
    def committed(self) -> list[tuple[int, int, int, bytes, bytes]]:
        """(index, term, type, data, context), to apply.

        Type 0 is a proposal or, without data, the first entry of a leader; types 1 and 2 change members.
        """
    @property
    def read_states(self) -> list[tuple[int, bytes]]:
        """(index, context) of reads: everything committed when `read_index` was called is at or below the index."""

@final
class RaftNode:
    """One member of one group. Not thread-safe. Pre-vote and check-quorum are always on."""

    def __new__(
        cls,
        id: int,
        *,
        seed: int,
        term: int,
        vote: int,
        commit: int,
        conf_state: bytes,
        base_index: int,
        base_term: int,
        entries: Sequence[bytes],
        applied: int,
        election_ticks: int,
        heartbeat_ticks: int,
        message_bytes_max: int,
        inflight_max: int,
        uncommitted_bytes_max: int,
        committed_bytes_max: int,
    ) -> RaftNode:
        """Starts from the state on disk.

        Args:
            id: Raft id of this node, not 0.
            seed: Seed of the election timeouts: the same calls with the same seed give the same bytes.
            term: From the stored hard state, like vote and commit; 0 for a disk without one.
            vote: Node that this node voted for in the term; 0: none.
            commit: At least `applied`.
            conf_state: As stored with the applied index; b"" for a node that belongs to no group yet.
            base_index: Index before the first entry, from the last compaction or snapshot; 0: none.
            base_term: Term of that entry.
            entries: The whole stored entries, from `base_index` + 1 on.
            applied: At least `base_index`; entries above it are returned as committed (again).
            election_ticks: Ticks without a leader before an election: drawn from [this, twice this).
            heartbeat_ticks: Ticks between heartbeats; fewer than `election_ticks`.
            message_bytes_max: Bytes of entries in one message; at least one entry is sent.
            inflight_max: Messages with entries in flight to one member.
            uncommitted_bytes_max: Bytes of payloads proposed and not yet committed; one is always accepted.
            committed_bytes_max: Bytes of committed entries in one Ready; at least one entry is returned.

        Raises:
            ValueError: The arguments contradict each other or are out of range.
        """

    def tick(self) -> None:
        """Advances time by one tick."""

    def step(self, message: bytes) -> None:
        """Handles a message from a peer. Types that peers do not send are dropped, including proposals and reads.

        Raises:
            ValueError: The message is not a Raft message, not for this id, or never sent by a correct peer. Nothing has
                changed.
        """

    def campaign(self) -> None:
        """Stands for election now; does nothing if this node leads.

        Raises:
            ProposalRefused: This node is not a voter, or not all of its log is durable and applied.
        """

    def propose(self, data: bytes) -> int:
        """Appends data, not empty, and returns its index. `committed` shows whether it is committed under this term.

        Raises:
            ProposalRefused: This node is not the leader, leadership is being transferred, or too much is uncommitted.
        """

    def propose_members(self, changes: Sequence[tuple[_ChangeKind, int]], context: bytes) -> int:
        """Appends a change of members and returns its index. Several changes use joint consensus, which ends by itself.

        Raises:
            ProposalRefused: As for `propose`; or an earlier change is not finished or not applied.
            ValueError: The change is invalid for this group: no change, an id twice, or no voter left.
        """

    def read_index(self, context: bytes) -> None:
        """Asks the members whether this node leads; the answer is in `read_states`, or never comes if it does not.

        Args:
            context: Not empty, and different from the context of any other read in flight.

        Raises:
            ProposalRefused: This node is not the leader, or its first entry of this term is not committed yet.
        """

    def transfer_leader(self, to: int) -> None:
        """Transfers leadership; proposals are refused until that is done or an election timeout has passed.

        A transfer to the leader's own id aborts a transfer in progress.

        Raises:
            ProposalRefused: This node is not the leader, or `to` is not a voter.
        """

    def report_unreachable(self, id: int) -> None:
        """Reports that a message to a member was lost."""

    def report_snapshot(self, id: int, ok: bool) -> None:
        """Reports the outcome of sending a MsgSnapshot. Until then nothing else is sent to the member."""

    def ready(self) -> Ready | None:
        """Returns the next work to do, or None. The log in memory already contains it."""

    def on_persisted(self, number: int) -> None:
        """Reports that the Ready of this number and all before it are durable."""

    def on_applied(self, index: int) -> None:
        """Reports that all up to index is applied. An index not committed and durable here ends the process."""

    def apply_members(self, entry_type: int, data: bytes) -> bytes:
        """Applies a committed change of members; returns the new conf state. A leader no longer a voter steps down.

        Raises:
            ValueError: The data are not a change of this group; the members are unchanged.
        """

    def offer_snapshot(self, index: int, term: int, conf_state: bytes, data: bytes) -> None:
        """Stores a snapshot, in place of the previous one, for members that need entries already compacted here."""

    def snapshot_wanted(self) -> bool:
        """Returns whether, since the last call, a member needed a snapshot that is new enough and lists it, in vain."""

    def compact(self, index: int) -> None:
        """Forgets entries up to index, which must be applied. Entries already forgotten stay so."""

    def term_of(self, index: int) -> int:
        """Returns the term of an entry in the log, or of the base.

        Raises:
            ValueError: The index is not in the log.
        """

    @property
    def status(self) -> Status: ...
    def progress(self) -> list[Progress]:
        """Returns what this leader knows of all members, itself included, by id; empty if it does not lead."""

def conf_state(voters: Sequence[int], learners: Sequence[int]) -> bytes:
    """Returns the conf state with these raft ids.

    Raises:
        ValueError: An id is 0 or named twice, or there are learners without a voter.
    """

def read_conf_state(conf_state: bytes) -> ConfState:
    """Parses a conf state.

    Raises:
        ValueError: The conf state is malformed.
    """

def snapshot_of(message: bytes) -> Snapshot | None:
    """Returns the snapshot in a message, or None.

    Raises:
        ValueError: The bytes are not a Raft message.
    """
