"""An operator of a cluster, who adds and removes machines, and replaces machines that lost their disks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from cluster_machine import Machine
from cluster_net import Net
from cluster_oracle import KEYS
from codeq_raft_core import read_conf_state
from codeq_server.core.errors import Rejection
from codeq_server.core.shard import ShardSettings
from codeq_server.node.raft_cluster import RaftCluster
from sim_audit import Audit

MACHINES_MAX = 6


def voters_known_to(machine: Machine) -> list[int]:
    """Returns the raft ids of the voters in a machine's stored configuration."""
    return list(read_conf_state(machine.disk.written.log.get(KEYS.conf_state) or b"").voters)


class Operator:
    """Changes the members, one at a time.

    Attributes:
        lost: Raft id of a lost disk and the name of its machine, until it is replaced.
    """

    def __init__(self, net: Net, audit: Audit, settings: ShardSettings, peers: dict[str, str]) -> None:
        self._net, self._audit, self._settings, self._peers = net, audit, settings, peers
        self.lost: tuple[int, str] | None = None

    def add(self, leader: Machine) -> None:
        """Adds a new machine."""
        if len(self._net.machines) >= MACHINES_MAX:
            return
        name = f"n{len(self._net.machines)}"
        Machine(self._net, name, self._peers, self._audit, self._settings, bootstrap=False).start()
        if not self._net.admits:
            self._ask(leader, lambda cluster: cluster.add(name, f"{name}:7000", replace=False), "member added")

    def remove(self, leader: Machine, name: str) -> None:
        """Removes a machine, which keeps running without noticing its removal."""
        if len(voters_known_to(leader)) > 3 and self.lost is None:
            self._ask(leader, lambda cluster: cluster.remove(name), "member removed")

    def lose_disk(self, leader: Machine, machine: Machine) -> None:
        """Loses the disk of a voter, if there are enough voters; no other disk is lost until it is replaced."""
        voters = voters_known_to(leader)
        if self.lost is None and len(voters) >= 3 and machine.disk.raft_id in voters and machine is not leader:
            self.lost = machine.disk.raft_id, machine.name
            machine.empty()
            machine.start()

    def replace(self, leader: Machine) -> None:
        """Adds the machine with its new disk, and removes the machine's former member."""
        if self.lost is None:
            return
        raft_id, name = self.lost
        conf = read_conf_state(leader.disk.written.log.get(KEYS.conf_state) or b"")
        if raft_id not in (*conf.voters, *conf.voters_outgoing, *conf.learners):
            self.lost = None
            if self._net.admits:
                self._audit.count("member replaced itself")
        elif name != leader.name and not self._net.admits:
            self._ask(leader, lambda cluster: cluster.add(name, f"{name}:7000", replace=True), "member replaced")

    def _ask(self, leader: Machine, ask: Any, what: str) -> None:
        if leader.process is None or leader.server is None:
            return
        raft = SimpleNamespace(self_id=leader.name, peers=self._peers)
        member, port = leader.server.member, leader.server.port
        cluster = RaftCluster(member, port, cast("Any", raft), lambda: bool(leader.term))

        async def change() -> None:
            try:
                await ask(cluster)
            except Rejection as refusal:
                self._audit.count(f"{what}: {refusal.reason.name}")
            else:
                self._audit.count(what)

        leader.process.start(change())
