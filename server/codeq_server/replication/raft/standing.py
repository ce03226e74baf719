"""Relations between nodes: which node founds a cluster, which one gives up its own, and which one a leader rejects."""

from __future__ import annotations

from collections.abc import Mapping

from codeq_raft_core import read_conf_state

from .directory import Directory
from .group import Group
from .network import Hello


def is_unsettled(group: Group) -> bool:
    """Returns whether this member could forget the group without losing a decision.

    This holds for a founder that nobody has joined, for a learner of a cluster that is still being founded, and for a
    member that has received nothing yet.
    """
    if group.applied.lsn or group.applied.index != group.log.last:
        return False
    voters = list(read_conf_state(group.conf_state).voters)
    return (
        not voters or voters == [group.raft_id] or (group.raft_id not in voters and group.members.founding_voters > 0)
    )


def gives_way(peer: Hello, other: Hello) -> bool:
    """Returns whether a node with an unsettled cluster gives it up for another node's cluster."""
    return not other.unsettled or other.name < peer.name


def why_not_found_with_all(mine: str, peers: Mapping[str, str], directory: Directory) -> str:
    """Returns why a node does not found its cluster now; empty: it can, because all peers answer and no cluster exists.

    A node of an unsettled cluster counts as empty: in that cluster nobody has a vote but a founder whose disk was lost.

    Args:
        mine: Name of the node.
        peers: Addresses of the nodes that are to found the cluster, by name, including this node.
        directory: Nodes that answered, and members of clusters that called.
    """
    others = {name: directory.met.get(name) for name in sorted(peers) if name != mine}
    for peer in (*others.values(), *directory.callers.values()):
        if peer is not None and peer.cluster_id and not peer.unsettled:
            return f"{peer.name} belongs to the cluster {peer.cluster_id.hex()}, which must admit this node"
    missing = [name for name, peer in others.items() if peer is None]
    return f"{', '.join(missing)} must answer, too, to show that no cluster exists" if missing else ""


def why_not_found(mine: str, peers: Mapping[str, str], met: Mapping[str, Hello]) -> str:
    """Returns why a node does not found its cluster now; empty: it can.

    If several nodes with the same peers may found the cluster, the node whose name comes first founds it.

    Args:
        mine: Name of the node.
        peers: Addresses of the nodes that are to found the cluster, by name, including this node.
        met: Nodes that answered, by name.
    """
    others = {name: met.get(name) for name in sorted(peers) if name != mine}
    for name, peer in others.items():
        if peer is not None and peer.cluster_id:
            return f"{name} belongs to the cluster {peer.cluster_id.hex()}, which must admit this node"
    there = 1 + sum(peer is not None for peer in others.values())
    if there < len(peers) // 2 + 1:
        return f"only {there} of {len(peers)} founders respond, which is not a majority"
    for name, peer in others.items():
        if name < mine and (peer is None or peer.founds):
            return f"{name} comes first by name: it founds the cluster, unless it responds and has no RAFT_BOOTSTRAP"
    return ""


def why_unwelcome(group: Group, peer: Hello) -> str:
    """Returns why a leader rejects a node that claims to be a member; empty: the leader accepts it."""
    if not group.leading_term:
        return ""
    conf, raft_id = read_conf_state(group.conf_state), peer.raft_id
    listed = [member.raft_id for member in group.members.members]
    if raft_id not in (*conf.voters, *conf.voters_outgoing, *conf.learners, *listed):
        return (
            f"{peer.name} (disk {raft_id:016x}) was removed from the cluster: stop it; to bring it back, empty its "
            f"store, start it, and run `codeq cluster add {peer.name} HOST:PORT`, unless it joins by itself "
            "(RAFT_PEERS_DNS)"
        )
    matched = max((p.matched for p in group.node.progress() if p.id == raft_id), default=0)
    if peer.last_index is not None and peer.last_index < matched:
        return (
            f"{peer.name} (disk {raft_id:016x}) has entries up to {peer.last_index} and had {matched}: its store is an "
            f"old copy, or lost writes; stop it, empty its store, start it, and run "
            f"`codeq cluster add {peer.name} HOST:PORT --replace`, unless it joins by itself (RAFT_PEERS_DNS)"
        )
    return ""
