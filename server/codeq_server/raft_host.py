"""A node of a cluster: it serves the shard while its member of the Raft group leads."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from codeq_server.config import RaftSettings, Settings
from codeq_server.core import keys
from codeq_server.core.errors import CorruptRows, Rejection
from codeq_server.hosting import Present
from codeq_server.listeners import ListenError
from codeq_server.opening import load_shard, make_serving, verify
from codeq_server.raft_cluster import RaftCluster
from codeq_server.replication.raft.channels import TlsFiles, TransportError, TransportSettings
from codeq_server.replication.raft.exports import SnapshotMaker
from codeq_server.replication.raft.leadership import LeaderLog
from codeq_server.replication.raft.log_rows import GroupKeys
from codeq_server.replication.raft.member import GROUP, RAFT_ID_BYTES, Member, MemberSettings, prepare, raft_id_from
from codeq_server.replication.raft.ports import Made, Ticks
from codeq_server.replication.raft.transport import Transport
from codeq_server.services.cluster import Cluster
from codeq_server.services.serving import Serving
from codeq_server.storage.errors import StoreError
from codeq_server.storage.identity import next_identity
from codeq_server.storage.rocks import RocksStore
from codeq_server.upkeep import Upkeep

TICKS_PER_ELECTION: Final = 20
"""Ticks in the shortest wait of an election: two members seldom begin in the same one."""
HAND_OVER_SECONDS: Final = 1.5
"""Time for another member to take the lead at a stop."""

_log = structlog.get_logger()


class RaftHost:
    """A host whose log is that of a Raft group; see `Host`.

    Args:
        settings: Settings of the server, with those of Raft.
        raft: Those of Raft.
        on_fatal: Called once when the node cannot go on: the process must end.
        verify: Whether to check every row first.
    """

    mode = "raft"
    upkeep: Upkeep
    cluster: Cluster

    def __init__(
        self, settings: Settings, raft: RaftSettings, on_fatal: Callable[[BaseException], None], *, verify: bool
    ) -> None:
        self._settings, self._raft = settings, raft
        self._on_fatal = on_fatal
        self._verify = verify
        self._serving: Serving | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._tick_seconds = raft.election_ms / 1000 / TICKS_PER_ELECTION
        self._ticker: asyncio.TimerHandle | None = None
        self._handed_over = asyncio.Event()
        self._draining = False

    async def start(self, present: Present) -> None:
        """Opens the store and takes part in the cluster; what serves is presented when this node leads.

        Raises:
            StoreError: The store cannot be opened.
            StoreDamaged: The check of every row found differences.
            ListenError: The port of the transport cannot be opened.
        """
        settings, raft = self._settings, self._raft
        path = settings.persistence.path
        assert path is not None
        self._present = present
        self._loop = asyncio.get_running_loop()
        self._store = store = RocksStore(path, fsync=settings.persistence.fsync_on_commit, log=True)
        try:
            row = prepare(store, raft_id_from(os.urandom(RAFT_ID_BYTES)))
            if self._verify:
                verify(store)
            self.upkeep = Upkeep(settings, store, artifacts=False)
        except BaseException:
            store.close()
            raise
        beside = path.parent
        self._maker = SnapshotMaker(store, GroupKeys(GROUP), beside / f"{path.name}-snapshots")
        heartbeat = max(1, round(raft.heartbeat_ms / 1000 / self._tick_seconds))
        member_settings = MemberSettings(
            raft.self_id,
            raft.peers,
            raft.bootstrap,
            Ticks(TICKS_PER_ELECTION, heartbeat),
            raft.peer_http,
            raft.peer_grpc,
        )
        self.member = Member(store, row, member_settings, os.urandom, self, self._on_fatal)
        tls = None if raft.tls is None else TlsFiles(raft.tls.cert, raft.tls.key, raft.tls.ca)
        self.transport = Transport(
            TransportSettings(raft.bind.host, raft.bind.port, beside / f"{path.name}-incoming", raft.secret, tls),
            {name: address for name, address in raft.peers.items() if name != raft.self_id},
            self.member,
        )
        self.cluster = RaftCluster(self.member, self.transport, raft)
        try:
            self.member.start(self.transport)
            await self.transport.start()
        except BaseException as problem:
            await self.upkeep.stop()
            await self.member.close()
            if isinstance(problem, TransportError):
                raise ListenError(str(problem)) from None
            raise
        self._tick()

    def absence(self) -> Rejection:
        """Returns the refusal of calls while another node leads, or none."""
        return self.member.refusal()

    async def drain(self, grace_ms: int) -> None:
        """Hands the leadership over if another member can take it; else it ends waits, and tells streams."""
        serving = self._serving
        self._draining = True
        if serving is None:
            return
        if not self.member.others_active():
            serving.drain(grace_ms)
            return
        await serving.runner.close()  # what is decided gets through
        if self._serving is serving and self.member.hand_over():
            try:
                async with asyncio.timeout(min(HAND_OVER_SECONDS, grace_ms / 1000)):
                    await self._handed_over.wait()
            except TimeoutError:
                _log.warning("leadership_not_handed_over", hint="the other members elect a leader by themselves")
        self._step_down()

    async def close(self) -> None:
        """Takes no further part, and closes the store."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._step_down()
        await self.transport.stop()
        await self.upkeep.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.member.close()

    # -- the host of the member --------------------------------------------------------------------------------------

    def lead(self, term: int) -> None:
        """See `member.Host.lead`."""
        if not self._draining:
            self._spawn(self._lead(term), "shard-opening")

    def follow(self) -> None:
        """See `member.Host.follow`."""
        self._step_down()
        self._handed_over.set()

    def members_changed(self) -> None:
        """See `member.Host.members_changed`: keeps the address book."""
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
                self.transport.add(name, self._raft.peers.get(name, address))

    def make_snapshot(self) -> Awaitable[Made]:
        """See `member.Host.make_snapshot`."""
        return self._maker.make()

    async def _lead(self, term: int) -> None:
        """Opens the shard from its rows, which nobody changes while this node leads and does not serve."""
        settings, store, group = self._settings, self._store, self.member.group
        assert group is not None
        started = time.monotonic()
        try:
            cluster_id = self.member.row.cluster_id
            identity = next_identity(store, settings.persistence.num_shards, int(time.time()), cluster_id)
            shard = await self._loop.run_in_executor(None, load_shard, settings, store, identity.epoch)
        except (StoreError, CorruptRows) as problem:
            self._on_fatal(problem)
            return
        if group.leading_term != term or self._serving is not None or self._draining:
            return
        # The epoch is durable with the first batch, and so before the first reply.
        shard.batch.rows[keys.IDENTITY] = identity.SerializeToString()
        serving = make_serving(settings, shard, LeaderLog(group, term), None, self._on_fatal)
        self._serving = serving
        self.upkeep.follow(serving.runner)
        self._present(serving)
        _log.info("leading", term=term, seconds=round(time.monotonic() - started, 3))

    def _step_down(self) -> None:
        serving, self._serving = self._serving, None
        if serving is None:
            return
        self._present(None)
        self.upkeep.follow(None)
        serving.end(self.member.refusal())
        self._spawn(serving.close(), "serving-close")
        _log.info("following", leader=self.member.leader_name())

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        async def run() -> None:
            await work

        task = self._loop.create_task(run(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        # Ticks that were missed while the loop was busy are not made up for: they would all count at once.
        self._ticker = self._loop.call_later(self._tick_seconds * random.uniform(0.98, 1.02), self._tick)
        self.member.tick()
