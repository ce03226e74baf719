"""A node in a cluster, or on its way into one.

A new disk gets a random raft id and waits. It founds a cluster if it is configured to, and if most of the founders
respond and are empty, too. Otherwise a leader admits it after an operator has added it or, if all nodes are set up for
that, after the node has asked for it. Nothing else makes it a member, so neither an emptied disk nor a forgotten
setting can lead to votes outside an existing cluster.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codeq_internal.v1 import raft_rows_pb2
from codeq_raft_core import read_conf_state

from codeq_server.core.errors import Reason, Rejection
from codeq_server.storage.errors import StoreError
from codeq_server.storage.store import ReplaceableRows

from . import log_rows, members
from .directory import Directory
from .disk import Disk, Work
from .disk_identity import CLUSTER_ID_BYTES, GROUP, founder_rows
from .group import Group
from .log_rows import GroupKeys, Stored
from .membership import Membership
from .network import Hello, Network, Unwelcome
from .ports import Host, Ticks
from .standing import gives_way, is_unsettled, why_not_found, why_not_found_with_all, why_unwelcome

HANG_SECONDS: Final = 2.0
"""Time that a round of writes may take before the member, if it is the leader, asks another member to lead."""
RETRY_SECONDS: Final = 5.0
"""Time from a failed snapshot to the next attempt."""

_log = logging.getLogger("codeq.raft.member")


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """How a node takes part in a cluster.

    Attributes:
        name: Name of the node.
        peers: Addresses of the nodes that found the cluster, by name, including this node.
        bootstrap: Whether the node founds the cluster.
        http: Base URLs under which clients reach nodes over HTTP, by name.
        grpc: Addresses under which clients reach nodes over gRPC, by name.
        ticks: How time is counted.
        admits: Returns the address at which a node with a name becomes a member when it asks, and its disk is empty;
            empty: it does not. Such a node founds a cluster only if all `peers` answer. None: operators add members.
    """

    name: str
    peers: Mapping[str, str]
    bootstrap: bool
    ticks: Ticks
    http: Mapping[str, str] = field(default_factory=dict)
    grpc: Mapping[str, str] = field(default_factory=dict)
    admits: Callable[[str], str] | None = None


class Member:
    """A node in a cluster, or on its way into one. It is the handler of its network and the listener of its group.

    Args:
        store: The store, prepared.
        row: Identity of the disk.
        settings: How the node takes part.
        random: Returns that many random bytes.
        host: Serves the shard.
        on_fatal: Called when the process must end.
    """

    def __init__(
        self,
        store: ReplaceableRows,
        row: raft_rows_pb2.NodeRow,
        settings: MemberSettings,
        random: Callable[[int], bytes],
        host: Host,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.row, self.settings = row, settings
        self.group: Group | None = None
        self.membership: Membership | None = None
        self.directory = Directory(settings.http, settings.grpc)
        self.disk = Disk(store, self._on_disk_failed)
        self._store, self._random, self._host, self._on_fatal = store, random, host, on_fatal
        self._loop = asyncio.get_running_loop()
        self._network: Network | None = None
        self._joining = False
        self._hindrance = ""
        self._serving_term = 0
        self._making: asyncio.Task[None] | None = None

    def start(self, network: Network) -> None:
        """Starts taking part; from now on `tick` must be called regularly."""
        self._network = network
        if self.row.cluster_id:
            self._open_group(GroupKeys(GROUP).load(self._store))

    # -- the handler of the network ----------------------------------------------------------------------------------

    def hello(self) -> Hello:
        """See `Handler.hello`."""
        settings, group = self.settings, self.group
        name = settings.name
        return Hello(
            name,
            self.row.raft_id,
            self.row.cluster_id,
            settings.http.get(name, ""),
            settings.grpc.get(name, ""),
            founds=settings.bootstrap,
            unsettled=group is not None and is_unsettled(group),
            last_index=0 if group is None else group.log.last,
            joins=settings.admits is not None and not self.row.cluster_id,
        )

    def met(self, peer: Hello, address: str) -> None:
        """See `Handler.met`."""
        if self.group is not None and peer.cluster_id == self.row.cluster_id:
            why = why_unwelcome(self.group, peer)
            if why:
                raise Unwelcome(why)
        self._note_caller(peer)
        known = self.directory.met.get(peer.name)
        if not address and (known is None or known.raft_id != peer.raft_id):
            return  # a caller can give any name; only the node that answers at an address is the expected one
        self.directory.met[peer.name] = peer
        if self.membership is not None:
            self.membership.met(peer)
        if known is None or (known.http, known.grpc) != (peer.http, peer.grpc):
            self._host.leader_changed()

    def parted(self, name: str) -> None:
        """See `Handler.parted`: only nodes that answer now found a cluster with this one, or are admitted."""
        self.directory.asking.pop(name, None)
        if self.membership is None:
            self.directory.met.pop(name, None)
        else:
            self.membership.parted(name)

    def receive(self, group: int, message: bytes, sender: Hello) -> None:
        """See `Handler.receive`: a node that sends to this disk has made it a member."""
        if group != GROUP or self._joining:
            return
        if self.group is not None and sender.cluster_id == self.row.cluster_id:
            self.group.receive(message)
        elif sender.cluster_id:
            self._join(sender)

    def unreachable(self, raft_id: int) -> None:
        """See `Handler.unreachable`."""
        if self.group is not None:
            self.group.unreachable(raft_id)

    def snapshot_sent(self, group: int, to: int, ok: bool) -> None:  # noqa: FBT001
        """See `Handler.snapshot_sent`."""
        if group == GROUP and self.group is not None:
            self.group.snapshot_sent(to, ok=ok)

    async def install(self, group: int, message: bytes, folder: Path) -> None:
        """See `Handler.install`."""
        if group != GROUP or self.group is None:
            raise LookupError("this node has not joined the group yet")
        content = await self._loop.run_in_executor(None, (folder / "manifest.json").read_bytes)
        files = [folder / file["name"] for file in json.loads(content)["files"]]
        await self.group.install(message, files)

    # -- the listener of the group -----------------------------------------------------------------------------------

    def refusal(self) -> Rejection:
        """See `Listener.refusal`: names the leader if it is known."""
        name, metadata = self.leader_name(), {}
        if name and name != self.settings.name:
            directory = self.directory
            metadata = {"leader": name, "leaderHttp": directory.http_of(name), "leaderGrpc": directory.grpc_of(name)}
            metadata = {key: value for key, value in metadata.items() if value}
            return Rejection(Reason.NOT_LEADER, f"this node does not lead; {name} does", metadata=metadata)
        return Rejection(Reason.NOT_LEADER, "no leader is known; try again")

    def leading(self, term: int) -> None:
        """See `Listener.leading`."""
        self._serving_term = 0
        self._serve(term)

    def lost(self) -> None:
        """See `Listener.lost`."""
        if self._serving_term:
            self._serving_term = 0
            self._host.follow()

    def leader_changed(self) -> None:
        """See `Listener.leader_changed`."""
        self._host.leader_changed()

    def members_changed(self) -> None:
        """See `Listener.members_changed`."""
        self._drop_admitted()
        self._host.members_changed()
        self._host.leader_changed()  # only now may the leader's name be known
        if self.group is not None and self.group.leading_term and not self._serving_term:
            self._serve(self.group.leading_term)

    def snapshot_wanted(self) -> None:
        """See `Listener.snapshot_wanted`; makes one snapshot at a time."""
        if self._making is None:
            self._making = self._loop.create_task(self._make_snapshot(), name="raft-snapshot")

    # -- who leads --------------------------------------------------------------------------------------

    def leader_name(self) -> str:
        """Returns the name of the leader; empty: unknown."""
        if self.group is None:
            return ""
        member = members.with_id(self.group.members, self.group.leader)
        return "" if member is None else member.name

    def why_behind(self) -> str:
        """Returns why this node cannot yet take another one's place; empty: it can.

        It can as a voter that has the entries that the leader had when this node met it. A change of votes must be
        finished: until then, decisions need a majority of the former voters, too, which may include a lost disk.
        """
        group = self.group
        if group is None:
            return "this node is not a member of a cluster yet"
        conf = read_conf_state(group.conf_state)
        if group.raft_id not in conf.voters:
            return "this node has no vote yet"
        if conf.voters_outgoing:
            return "the change of votes is not finished yet"
        if self._serving_term:
            return ""
        leader = self.directory.met.get(self.leader_name())
        if leader is None or leader.raft_id != group.leader:
            return "no leader is known yet"
        if group.written < (leader.last_index or 0):
            return f"this node has entries up to {group.written} of {leader.last_index}"
        return ""

    # -- life ----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Advances time by one tick."""
        if self.group is not None and self.membership is not None:
            self.group.tick()
            self.membership.drive(self.may_join, self._asking())
            if self.disk.round_seconds > HANG_SECONDS:
                self.hand_over()  # it still sends heartbeats, but commits nothing
        elif self.settings.bootstrap and not self._joining:
            self._found()

    def may_join(self, peer: Hello) -> bool:
        """Returns whether a node can become a member: its cluster is none or this one, or it gives up its own."""
        if peer.cluster_id in (b"", self.row.cluster_id):
            return True
        mine = self.hello()
        return peer.unsettled and gives_way(peer, mine)

    def others_active(self) -> list[int]:
        """Returns the raft ids of the other voters that respond, most advanced first."""
        group = self.group
        if group is None or not group.leading_term:
            return []
        voters = read_conf_state(group.conf_state).voters
        others = [
            p
            for p in group.node.progress()
            if p.id in voters and p.id != group.raft_id and group.leadership.hears(p.id)
        ]
        return [p.id for p in sorted(others, key=lambda p: -p.matched)]

    def leads_others(self) -> bool:
        """Returns whether this member leads and there are other voters, responsive or not."""
        group = self.group
        return group is not None and bool(group.leading_term) and len(read_conf_state(group.conf_state).voters) > 1

    def hand_over(self, to: int = 0) -> bool:
        """Asks a voter to lead: the voter `to`, or else the most advanced one. Returns whether a voter was asked."""
        others = self.others_active()
        if self.group is None or not others or (to and to not in others):
            return False
        return self.group.leadership.transfer(to or others[0])

    def stop(self) -> None:
        """Stops taking part in the group; the others elect a leader if this member led."""
        if self.group is not None:
            self.group.stop()

    async def close(self) -> None:
        """Stops taking part, writes all pending work to disk, and closes the store."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])  # after this, nothing uses the store
        self.stop()
        await self.disk.close()

    def _on_disk_failed(self, problem: BaseException) -> None:
        # A leader that cannot write must not delay the election of another leader while the process ends.
        self.stop()
        self._on_fatal(problem)

    def _serve(self, term: int) -> None:
        group = self.group
        if group is not None and group.members.founding_voters == 0:
            self._serving_term = term
            self._host.lead(term)

    def _open_group(self, stored: Stored) -> None:
        assert self._network is not None
        seed = int.from_bytes(self._random(8), "big")
        self.group = Group(
            GROUP,
            self.row.raft_id,
            stored,
            self.disk,
            self._network,
            self,
            self.settings.ticks,
            seed,
            self._on_fatal,
        )
        self.membership = Membership(self.group)
        for peer in self.directory.met.values():
            self.membership.met(peer)
        self._host.members_changed()

    def _note_caller(self, peer: Hello) -> None:
        """Remembers an empty node while it asks to join, and a member of a cluster while this node is empty."""
        admits, directory = self.settings.admits, self.directory
        if admits is None or not admits(peer.name):
            return
        directory.asking.pop(peer.name, None)
        if peer.joins and not peer.cluster_id:
            directory.asking[peer.name] = peer
        elif self.group is None and peer.cluster_id and not peer.unsettled:
            directory.callers[peer.name] = peer

    def _asking(self) -> Mapping[str, str]:
        """Returns the addresses of the nodes that ask to become members, by name."""
        admits, asking = self.settings.admits, self.directory.asking
        return {name: admits(name) for name in asking} if asking and admits is not None else {}

    def _drop_admitted(self) -> None:
        """Forgets the nodes that have become members, so that they do not come back once they are removed."""
        asking = self.directory.asking
        if asking and self.group is not None:
            for member in self.group.members.members:
                peer = asking.get(member.name)
                if peer is not None and peer.raft_id == member.raft_id:
                    del asking[member.name]

    def _found(self) -> None:
        """Founds the cluster, if nothing prevents the founding."""
        settings, directory = self.settings, self.directory
        if settings.admits is None:
            hindrance = why_not_found(settings.name, settings.peers, directory.met)
        else:
            hindrance = why_not_found_with_all(settings.name, settings.peers, directory)
        if not hindrance:
            self._become(self._random(CLUSTER_ID_BYTES), {}, founder=True)
        elif hindrance != self._hindrance:
            self._hindrance = hindrance
            _log.info("raft_founding_waits", extra={"fields": {"reason": hindrance}})

    def _join(self, leader: Hello) -> None:
        """Joins the cluster of a leader that made this disk a member, unless the disk must keep its own cluster."""
        mine, forgotten = self.hello(), dict[bytes, bytes | None]()
        if mine.cluster_id:
            if self.group is None or not mine.unsettled or not gives_way(mine, leader):
                return
            clusters = {"cluster": mine.cluster_id.hex(), "joins": leader.cluster_id.hex(), "of": leader.name}
            fields = {**clusters, "reason": "nothing was decided in it"}
            _log.warning("raft_founder_steps_back", extra={"fields": fields})
            forgotten = self.group.abandon()
            self.group = self.membership = None
            self.row.cluster_id = b""
        self.directory.keep(leader.cluster_id)
        self._become(leader.cluster_id, forgotten, founder=False)

    def _become(self, cluster_id: bytes, rows: dict[bytes, bytes | None], *, founder: bool) -> None:
        """Founds or joins a cluster, durably, together with other row changes."""
        self._joining = True
        row = self.row
        if founder:
            rows |= founder_rows(row, cluster_id, self.settings.name, self.settings.peers, 0)
        else:
            joined = raft_rows_pb2.NodeRow(format=row.format, raft_id=row.raft_id, cluster_id=cluster_id)
            rows[log_rows.NODE] = joined.SerializeToString()

        def joined_durably() -> None:
            self._joining = False
            row.cluster_id = cluster_id
            self._open_group(GroupKeys(GROUP).load(self._store))

        self.disk.submit(Work(rows, sync=True, synced=joined_durably))

    async def _make_snapshot(self) -> None:
        group = self.group
        assert group is not None
        try:
            group.log.held = group.written  # the entries after the snapshot must be kept for the follower
            group.offer(await self._host.make_snapshot())
        except StoreError as problem:
            # Nothing is damaged: the follower waits, and the disk may have room later.
            group.log.held = None
            _log.warning("raft_snapshot_failed", extra={"fields": {"error": problem}})
            await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._making = None
