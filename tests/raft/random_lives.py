"""Random lives of a group: late, lost, duplicated and reordered messages, slow disks, crashes, changes of members.

    python tests/raft/random_lives.py 7 1

runs the life of seed 7. The life is checked throughout: no two members see different entries at a committed index, no
term has two leaders, no read misses an entry committed before its request, no message of a correct peer is rejected,
and no panic ends the process. At the end the network heals and the group has to accept a proposal everywhere.
"""

from __future__ import annotations

import random
import sys

from codeq_raft_core import ProposalRefused, conf_state, read_conf_state
from raft_cluster import ELECTION_TICKS, Cluster, Limits, Member

ACTIONS = 4000
MAIL_MAX = 200
"""Maximum number of messages in flight; beyond it, some are lost."""


class Life:
    """One group, driven by the random choices of its seed."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        limits = Limits(
            message_bytes_max=self.luck.choice([1, 40, 1 << 20]),
            inflight_max=self.luck.choice([1, 3, 64]),
            committed_bytes_max=self.luck.choice([1, 40, 1 << 20]),
        )
        self.group = Cluster(range(1, self.luck.choice([1, 3, 3, 5]) + 1), limits=limits, base=True)
        self.group.offers = False
        for member in self.group.members.values():
            member.slow = True
        self.leaders: dict[int, int] = {}
        self.reads: dict[bytes, int] = {}
        self.proposed = 0

    def live(self) -> None:
        """Runs the life, then heals everything."""
        for _ in range(ACTIONS):
            self.act()
            self.check()
        self.heal()

    def act(self) -> None:
        """Takes one random action."""
        member = self.luck.choice(list(self.group.members.values()))
        if not member.up:
            if self.luck.random() < 0.2:
                member.start()
            return
        deeds = (self.deliver, self.tick, self.save, self.ask, self.disturb)
        [deed] = self.luck.choices(deeds, (80, 8, 40, 8, 0.4))
        deed(member)
        member.pump()

    def deliver(self, _: Member) -> None:
        mail = self.group.mail
        if not mail:
            return
        mail.rotate(self.luck.choice([0, 0, 0, 1, 5, -1]))
        sender, to, kind, message = mail.popleft()
        if self.luck.random() < 0.05:
            mail.append((sender, to, kind, message))
        lost = self.luck.random() < 0.05 or len(mail) > MAIL_MAX
        receiver = self.group.members.get(to)
        if kind == "MsgSnapshot" and self.group[sender].up:
            self.group[sender].node.report_snapshot(to, not lost)
        if receiver is not None and receiver.up and not lost:
            receiver.node.step(message)
            receiver.pump()

    def tick(self, member: Member) -> None:
        for _ in range(self.luck.choice([1, 1, 1, 1, 3, 3, ELECTION_TICKS])):
            member.node.tick()

    def save(self, member: Member) -> None:
        member.flush(self.luck.choice([1, 1, 2, 9]))

    def ask(self, member: Member) -> None:
        """Makes a request to a node, which may reject it."""
        self.proposed += 1
        what = self.luck.choice(("propose", "propose", "propose", "read", "members", "transfer", "unreachable"))
        try:
            if what == "propose":
                member.node.propose(f"{self.proposed}{'.' * self.luck.randrange(30)}".encode())
            elif what == "read":
                context = b"%d" % self.proposed
                self.reads[context] = max(self.group.committed, default=0)
                member.node.read_index(context)
            elif what == "members":
                self.change(member)
            elif what == "transfer":
                member.node.transfer_leader(self.luck.choice(list(self.group.members)))
            else:
                member.node.report_unreachable(self.luck.choice(list(self.group.members)))
        except ProposalRefused:
            pass

    def change(self, member: Member) -> None:
        """Proposes a change that keeps about three voters; new ids get a node."""
        state = read_conf_state(member.conf_state)
        newcomer = max(self.group.members) + 1
        changes = []
        if len(self.group.members) < 8 and len(state.voters) < 5:
            changes.append((self.luck.choice(["voter", "learner"]), newcomer))
        changes += [("voter", learner) for learner in state.learners[:1]]
        if len(state.voters) > 2 and self.luck.random() < 0.6:
            changes.append((self.luck.choice(["remove", "learner"]), self.luck.choice(state.voters)))
        if changes:
            member.node.propose_members(changes, b"")  # type: ignore[arg-type]
            if any(raft_id == newcomer for _, raft_id in changes):
                self.group.add(newcomer).slow = True

    def disturb(self, member: Member) -> None:
        """Crashes, compacts, cuts and heals."""
        what = self.luck.choice(("crash", "compact", "offer", "cut", "heal", "heal", "offer and compact"))
        if what == "crash":
            member.crash()
        elif what == "cut":
            self.group.cut(*self.luck.sample(list(self.group.members), 1 + len(self.group.members) // 3))
        elif what == "heal":
            self.group.heal()
        if "offer" in what and member.applied:
            member.offer()
        if "compact" in what and not member.waiting and member.applied:
            member.compact()

    def check(self) -> None:
        for member in self.group.members.values():
            if member.up and member.status.role == "leader":
                leader = self.leaders.setdefault(member.status.term, member.id)
                assert leader == member.id, f"two leaders of term {member.status.term}"
            for index, context in member.reads:
                assert index >= self.reads[context], "a read has missed what was committed before it"

    def heal(self) -> None:
        """Repairs everything; the group has to accept a proposal and replicate it to all its members."""
        self.group.heal()
        self.group.offers = True
        for member in self.group.members.values():
            member.slow = False
            if not member.up:
                member.start()
        for _ in range(30 * ELECTION_TICKS):
            self.group.tick()
            leader = max(
                self.group.members.values(), key=lambda member: (member.status.role == "leader", member.status.term)
            )
            try:
                leader.node.propose(b"end")
            except ProposalRefused:
                continue
            self.group.tick(3 * ELECTION_TICKS)
            if leader.rows[-1:] == ["end"]:
                break
        state = read_conf_state(leader.conf_state)
        assert leader.conf_state == conf_state(state.voters, state.learners), "a joint state has not ended"
        for raft_id in (*state.voters, *state.learners):
            assert self.group[raft_id].rows == leader.rows, f"{raft_id} has not caught up with {leader.id}"
        assert leader.rows[-1] == "end"


def main(first: int, count: int) -> None:
    """Runs `count` lives starting at a seed, and prints each seed first."""
    for seed in range(first, first + count):
        print(f"python tests/raft/random_lives.py {seed} 1", flush=True)
        Life(seed).live()
    print("all lived", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
