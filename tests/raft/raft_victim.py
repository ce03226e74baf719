"""A process that runs scripts from its standard input against one node, for tests that look for panics.

A panic ends a process, so code that may panic runs here. Each command is a pickled script: the name of a starting state
and a list of steps; the answer is one byte. `Victim` is the other end.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Step = tuple[str, Any]
Script = tuple[str, list[Step]]

STATES = ("follower", "leader", "candidate", "precandidate", "newcomer", "learner", "sole", "installing", "joint")
SELF = 1


class Victim:
    """Runs scripts in a separate process, which is restarted after it ends."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, script: Script) -> str:
        """Runs a script; returns the output of the process if it ended, or "" if it survived."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        streams = self.process.stdin, self.process.stdout, self.process.stderr
        assert all(streams)
        order = pickle.dumps(script)
        streams[0].write(len(order).to_bytes(4) + order)
        streams[0].flush()
        if streams[1].read(1):
            return ""
        said = streams[2].read().decode() + f"exit code {self.process.wait()}"
        self.close()
        return said

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


class Target:
    """One node in a given state, whose disk and state machine act at once, or when the script says so."""

    def __init__(self, state: str) -> None:
        from raft_cluster import Cluster
        from raft_wire import Snapshot, message

        voters = {"sole": [SELF], "newcomer": [], "learner": [2, 3]}.get(state, [SELF, 2, 3])
        cluster = Cluster(voters, [SELF] if state == "learner" else [])
        member = cluster.members.get(SELF) or cluster.add(SELF)
        if state not in ("newcomer", "learner", "sole"):
            cluster.elect(SELF if state in ("leader", "joint") else 2)
            cluster.leader().node.propose(b"x")
            cluster.settle()
        if state == "joint":
            member.node.propose_members([("voter", 4), ("voter", 5)], b"")
            cluster.cut(2, 3)
            cluster.settle()
        if state == "sole":
            cluster.elect(SELF)
        if state in ("candidate", "precandidate"):
            cluster.cut(SELF)
            cluster.tick(30, SELF)
        if state == "candidate":
            answer = message("MsgRequestPreVoteResponse", to=SELF, from_=2, term=member.status.term + 1)
            member.node.step(answer)
            cluster.settle()
        if state == "installing":
            snapshot = Snapshot(metadata={"index": 9, "term": 1, "conf_state": {"voters": [1, 2, 3]}})
            member.node.step(message("MsgSnapshot", to=SELF, from_=2, term=1, snapshot=snapshot))
            assert member.node.ready() is not None
        self.node = member.node
        self.unsaved: list[tuple[int, int]] = []

    def do(self, name: str, argument: Any) -> None:
        """Does one step; rejections are expected."""
        from codeq_raft_core import ProposalRefused

        with contextlib.suppress(ValueError, ProposalRefused):
            STEPS[name](self, argument)

    def step(self, sent: bytes) -> None:
        """Hands a message to the node."""
        before = self.node.status
        try:
            self.node.step(sent)
        except ValueError:
            assert self.node.status == before, "a refused message has changed something"

    def tick(self, count: int) -> None:
        """Lets time pass."""
        for _ in range(count):
            self.node.tick()

    def ready(self) -> None:
        """Takes the node's pending work, to be saved later."""
        while (ready := self.node.ready()) is not None:
            applied = 0 if ready.snapshot is None else ready.snapshot.index
            for index, _, kind, data, _ in ready.committed:
                applied = index
                if kind:
                    with contextlib.suppress(ValueError):  # a forged change leaves the members as before
                        self.node.apply_members(kind, data)
            self.unsaved.append((ready.number, applied))

    def save(self) -> None:
        """Makes the taken work durable and applies it."""
        for number, applied in self.unsaved:
            self.node.on_persisted(number)
            if applied:
                self.node.on_applied(max(applied, self.node.status.applied))
        self.unsaved.clear()


STEPS: dict[str, Callable[[Target, Any], object]] = {
    "step": Target.step,
    "tick": Target.tick,
    "ready": lambda target, _: target.ready(),
    "save": lambda target, _: target.save(),
    "propose": lambda target, size: target.node.propose(b"y" * size),
    "members": lambda target, changes: target.node.propose_members(changes, b""),
    "read": lambda target, number: target.node.read_index(b"r%d" % number),
    "transfer": lambda target, to: target.node.transfer_leader(to),
    "compact": lambda target, _: target.node.compact(target.node.status.applied),
}


def main() -> None:
    """Runs scripts until the input ends."""
    while size := sys.stdin.buffer.read(4):
        state, steps = pickle.loads(sys.stdin.buffer.read(int.from_bytes(size)))
        target = Target(state)
        for name, argument in steps:
            target.do(name, argument)
        target.ready()
        target.save()
        sys.stdout.buffer.write(b".")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
