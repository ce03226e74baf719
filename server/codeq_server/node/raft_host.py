"""A node of a cluster: serves the shard while its member of the Raft group is leader."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from prometheus_client.registry import Collector

from codeq_server.config import PAIR, ConfigError, RaftSettings, Settings, refuse_pair
from codeq_server.core.errors import Rejection
from codeq_server.core.shard import Shard
from codeq_server.node.certificates import Certificates, PemFiles, member_files
from codeq_server.node.descriptors import Files
from codeq_server.node.doorkeeper import Door
from codeq_server.node.hosting import Present
from codeq_server.node.leader_spread import LeaderSpread
from codeq_server.node.leading import Leading, Opening
from codeq_server.node.listeners import ListenError
from codeq_server.node.opening import load_shard, make_serving, verify
from codeq_server.node.raft_cluster import RaftCluster
from codeq_server.node.raft_metrics import RaftCollector
from codeq_server.node.stale import StaleViews
from codeq_server.node.upkeep import Upkeep
from codeq_server.replication.log import Log
from codeq_server.replication.raft.channels import TlsFiles, TransportError, TransportSettings
from codeq_server.replication.raft.disk_identity import GROUP, RAFT_ID_BYTES, prepare, raft_id_from
from codeq_server.replication.raft.exports import SnapshotMaker
from codeq_server.replication.raft.log_rows import GroupKeys
from codeq_server.replication.raft.member import Member, MemberSettings
from codeq_server.replication.raft.ports import Made, Ticks
from codeq_server.replication.raft.routes import Route
from codeq_server.replication.raft.transport import Transport
from codeq_server.services.cluster import Cluster
from codeq_server.services.serving import Serving
from codeq_server.storage.layout import refuse_shards
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.scratch import scratch_of, take_scratch
from codeq_server.webhooks.outgoing import Outgoing

TICKS_PER_ELECTION: Final = 20
"""Ticks in the minimum election timeout, so that two members seldom start an election in the same tick."""

_log = structlog.get_logger()


class RaftHost:
    """A host whose log is the log of a Raft group; see `Host`.

    Args:
        settings: Settings of the server.
        raft: Raft settings of the server.
        files: Shares of the open files.
        door: Door for connections from other nodes.
        certificates: Watches the files of TLS between members.
        on_fatal: Called once when the node cannot continue: the process must end.
        verify: Whether to check every row first.
        shard: Index of the shard that the group replicates, among those of the settings.
    """

    mode = "raft"
    upkeep: Upkeep
    cluster: Cluster
    collectors: Sequence[Collector]

    def __init__(
        self,
        settings: Settings,
        raft: RaftSettings,
        files: Files,
        door: Door,
        certificates: Certificates,
        outgoing: Outgoing,
        on_fatal: Callable[[BaseException], None],
        *,
        verify: bool,
        shard: int = 0,
    ) -> None:
        """Prepares the host.

        Raises:
            ConfigError: The files of TLS between members cannot be used.
        """
        self._settings, self._raft, self._shard = settings, raft, shard
        self._files, self._door, self._certificates = files, door, certificates
        self._outgoing = outgoing
        self._on_fatal = on_fatal
        self._verify = verify
        self._tls: PemFiles[tuple[bytes, bytes, bytes]] | None = None
        if raft.tls_cert is not None and raft.tls_key is not None and raft.tls_ca is not None:
            self._tls = member_files(raft.tls_cert, raft.tls_key, raft.tls_ca)
        self._tick_seconds = raft.election_ms / 1000 / TICKS_PER_ELECTION
        self._ticker: asyncio.TimerHandle | None = None
        self._spread: LeaderSpread | None = None
        self._leader = ""
        """Name of the leader last logged."""

    async def start(self, present: Present, absence_changed: Callable[[], None]) -> None:
        """Opens the store and joins the cluster; a Serving is presented when this node becomes leader.

        Raises:
            ConfigError: The node would found a cluster of two, or a configured folder lies in the scratch folder,
                which is emptied at startup.
            StoreError: The store cannot be opened.
            StoreDamaged: The check of every row found differences.
            ListenError: The port of the transport cannot be opened.
        """
        settings, raft = self._settings, self._raft
        path = settings.persistence.path
        assert path is not None
        if settings.persistence.num_shards == 1:
            refuse_shards(path)
        self._present, self._absence_changed = present, absence_changed
        self._loop = asyncio.get_running_loop()
        self._store = store = RocksStore(
            path, fsync=settings.persistence.fsync_on_commit, log=True, files_max=self._files.store
        )
        try:
            row = prepare(store, raft_id_from(os.urandom(RAFT_ID_BYTES)), raft.self_id)
            _judge_bootstrap(raft, bool(row.cluster_id))
            scratch = _take_scratch(settings, path)
            if self._verify:
                verify(store)
            self.upkeep = Upkeep(settings, store, replicated=True)
        except BaseException:
            store.close()
            raise
        self._leading = Leading(store, self._opening(store), self._lead_with, self._fail)
        self._maker = SnapshotMaker(store, GroupKeys(GROUP), scratch / "snapshots")
        heartbeat = max(1, round(raft.heartbeat_ms / 1000 / self._tick_seconds))
        member_settings = MemberSettings(
            raft.self_id,
            raft.peers,
            raft.bootstrap,
            Ticks(TICKS_PER_ELECTION, heartbeat),
            raft.peer_http_addrs,
            raft.peer_grpc_addrs,
            None if raft.numbered is None else raft.numbered.address_of,
        )
        self.member = Member(store, row, member_settings, os.urandom, self, self._fail)
        self.transport = Transport(
            self._transport_settings(scratch / "incoming"),
            {name: address for name, address in raft.peers.items() if name != raft.self_id},
            self.member,
            self._door.known.add,
        )
        groups = settings.persistence.num_shards
        self.cluster = RaftCluster(
            self.member, self.transport, raft, lambda: self._leading.serves, shard=self._shard, groups=groups
        )
        self.collectors = [RaftCollector(self.member, self.transport, self._maker)]
        try:
            self.member.start(self.transport)
            await self.transport.start()
            self._door.ports.add(self.transport.port)
            if self._tls is not None:
                self._certificates.watch_member(self._tls, self.transport.renew)
        except BaseException as problem:
            await self.upkeep.stop()
            await self.member.close()
            if isinstance(problem, TransportError):
                raise ListenError(str(problem)) from None
            raise
        if groups > 1:
            self._spread = LeaderSpread(self.member, self._shard, time.monotonic)
        self._views = StaleViews(settings, store, self._files.copy, scratch / "views")
        self._tick()

    def _opening(self, store: RocksStore) -> Opening:
        """Returns how this node opens its shard when it becomes leader."""
        settings = self._settings
        return Opening(
            settings.persistence.num_shards,
            lambda: int(time.time()),
            lambda epoch: load_shard(settings, store, epoch, shard=self._shard),
            self._serve,
            self._shard,
        )

    def _serve(self, shard: Shard, log: Log) -> Serving:
        return make_serving(self._settings, shard, log, self.upkeep.keeper, self._fail, outgoing=self._outgoing)

    def _transport_settings(self, incoming: Path) -> TransportSettings:
        raft = self._raft
        tls = None
        if raft.tls_cert is not None and raft.tls_key is not None and raft.tls_ca is not None:
            tls = TlsFiles(raft.tls_cert, raft.tls_key, raft.tls_ca)
        address, groups = raft.bind_addr, self._settings.persistence.num_shards
        return TransportSettings(
            address.host,
            address.port,
            incoming,
            raft.cluster_secret,
            tls,
            connections_max=self._files.peers,
            route=None if groups == 1 else Route(self._shard, groups),
        )

    def absence(self) -> Rejection:
        """Returns the rejection of calls while this node is not the leader."""
        return self.member.refusal()

    def behind(self) -> str:
        """Returns why this member has not caught up; empty: it has."""
        return self.member.why_behind()

    async def stale(self) -> Serving:
        """Returns a Serving that answers reads from this node's own rows."""
        return await self._views.current()

    async def drain(self, grace_ms: int) -> None:
        """Hands over leadership if another member can take it; otherwise ends waits and notifies streams."""
        await self._leading.drain(self.member, grace_ms)

    async def close(self) -> None:
        """Stops the Raft member and closes the store."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._leading.end(self.member)
        await self.transport.stop()
        await self.upkeep.stop()
        await self._views.close()
        await self._leading.close()
        await self.member.close()

    # -- the host of the member --------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """See `ports.Host.lead`."""
        self._leading.begin(self.member, term)

    def follow(self) -> None:
        """See `ports.Host.follow`."""
        self._leading.end(self.member)

    def members_changed(self) -> None:
        """See `ports.Host.members_changed`: updates the transport's peers."""
        group = self.member.group
        if group is None:
            return
        known = {member.name: member.address for member in group.members.members}
        known |= {invitation.name: invitation.address for invitation in group.members.invitations}
        for peer in self.transport.peers():
            if peer.name not in known and peer.name not in self._raft.peers:
                self.transport.remove(peer.name)
        for name, address in known.items():
            if name != self._raft.self_id:
                self.transport.add(name, self._address_of(name) or address)
        self.transport.introduce()

    def _address_of(self, name: str) -> str:
        """Returns the configured address of a member, which may be newer than the members' own; empty: none."""
        raft = self._raft
        return raft.peers.get(name, "") if raft.numbered is None else raft.numbered.address_of(name)

    def leader_changed(self) -> None:
        """See `ports.Host.leader_changed`."""
        self._absence_changed()
        before, self._leader = self._leader, self.member.leader_name()
        if before == self._leader:
            return
        if self._leader:
            _log.info("leader_found", leader=self._leader, before=before)
        else:
            _log.warning("leader_lost", leader=before, hint="calls are rejected until the members elect a new leader")

    def make_snapshot(self) -> Awaitable[Made]:
        """See `ports.Host.make_snapshot`."""
        return self._maker.make()

    def _lead_with(self, serving: Serving | None) -> None:
        if serving is None:
            self._present(None)
        self.upkeep.follow(None if serving is None else serving.runner)
        if serving is not None:
            self._present(serving)

    def _fail(self, problem: BaseException) -> None:
        """Stops the Raft member: a leader that cannot write must not prevent the others from electing one that can."""
        self._on_fatal(problem)
        if self.member.group is not None:
            self.member.group.stop()

    def _tick(self) -> None:
        # Ticks missed while the loop was busy are not made up for: they would all elapse at once.
        self._ticker = self._loop.call_later(self._tick_seconds * random.uniform(0.98, 1.02), self._tick)
        self.member.tick()
        if self._spread is not None and not self._leading.draining:
            self._spread.look()


def _take_scratch(settings: Settings, store: Path) -> Path:
    """Empties and returns the scratch folder.

    Raises:
        ConfigError: A configured folder lies in the scratch folder.
        StoreNotWritable: The scratch folder cannot be used.
    """
    scratch = scratch_of(store)
    for key, folder in (("BACKUP_DIR", settings.backup_dir), ("LOCAL_ARTIFACTS_DIR", settings.local_artifacts_dir)):
        if folder is not None and folder.resolve().is_relative_to(scratch.resolve()):
            raise ConfigError(key, f"{folder} lies in {scratch}, which is emptied at each start")
    take_scratch(scratch)
    return scratch


def _judge_bootstrap(raft: RaftSettings, established: bool) -> None:  # noqa: FBT001
    """Rejects founding a cluster of two; only warns an established member, which founds nothing.

    Raises:
        ConfigError: This node would found a cluster of two.
    """
    if not established:
        refuse_pair(raft)
    elif len(raft.peers) == PAIR:
        _log.warning(
            "two_members",
            peers=",".join(sorted(raft.peers)),
            hint="a cluster of two stops when either member does: add a third; RAFT_BOOTSTRAP has no effect here",
        )
