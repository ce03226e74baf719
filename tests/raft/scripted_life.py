"""One fixed life of a group, recorded as text: every message and every stored byte.

    python tests/raft/scripted_life.py > tests/raft/scripted_life.txt

renews the transcript that `test_raft_core_determinism.py` expects. The transcript changes only for a
reason, such as a version of the crate that sends other messages, or a change to the extension. Review the diff before
you commit it.
"""

from __future__ import annotations

import sys

from codeq_raft_core import Ready, read_conf_state
from raft_cluster import ELECTION_TICKS, Cluster, Member


class Recorded(Cluster):
    """A group that records its actions."""

    lines: list[str]

    def post(self, sender: int, messages: list[tuple[int, str, bytes]]) -> None:
        """Records messages, including lost ones."""
        for to, kind, message in messages:
            self.lines.append(f"  {sender} -> {to} {kind} {message.hex()}")
        super().post(sender, messages)


class Watched(Member):
    """A member whose disk writes are recorded."""

    def _store(self, ready: Ready, members: bytes, applied: int, rows: list[str]) -> None:
        parts = [f"  {self.id} stores {ready.number}"]
        parts += [f"hard {ready.hard_state}"] if ready.hard_state else []
        parts += [f"soft {ready.soft_state}"] if ready.soft_state else []
        parts += [f"snapshot {ready.snapshot.index}"] if ready.snapshot else []
        parts += [f"entry {entry.hex()}" for _, _, entry in ready.entries]
        parts += [f"committed {index}" for index, *_ in ready.committed]
        parts += [f"read {state}" for state in ready.read_states]
        parts += [f"members {read_conf_state(members)}"] if members != self.disk.conf_state else []
        self.cluster.lines.append(", ".join(parts))  # type: ignore[attr-defined]
        super()._store(ready, members, applied, rows)


def life(seeds: int = 0) -> list[str]:
    """Runs the life and returns its lines. The election timeouts depend on `seeds`."""
    group = Recorded([], base=True)
    group.lines = []
    founders = Cluster([1, 2, 3], base=True)
    for raft_id in (1, 2, 3):
        group.members[raft_id] = Watched(group, raft_id, founders[raft_id].disk, group.limits, seed=seeds + raft_id)

    def chapter(title: str) -> None:
        group.lines.append(title)

    chapter("election by time")
    leader = group.leader()
    chapter("proposals and a read")
    for data in (b"one", b"two", b"three"):
        leader.node.propose(data)
    leader.node.read_index(b"read")
    group.settle()
    chapter("one that is cut off")
    lagging = next(member for member in group.members.values() if member is not leader)
    group.cut(lagging.id)
    leader.node.propose(b"four")
    group.tick(2 * ELECTION_TICKS)
    leader.offer()
    leader.compact()
    chapter("it comes back and gets a snapshot")
    group.heal()
    group.tick(3)
    chapter("a newcomer takes the place of another")
    group.members[4] = Watched(group, 4, founders.add(4).disk, group.limits, seed=seeds + 4)
    leader.node.propose_members([("voter", 4), ("remove", lagging.id)], b"why")
    group.tick(5)
    chapter("leadership is handed over")
    leader.node.transfer_leader(4)
    group.tick(2)
    chapter("the new leader dies and comes back")
    group[4].crash()
    group.tick(4 * ELECTION_TICKS)
    group[4].start()
    group.leader().node.propose(b"last")
    group.tick(2)
    chapter("end")
    group.lines += [f"  {member.id} {member.status} {member.rows}" for member in group.members.values()]
    return group.lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(life()) + "\n")
