"""A single node: serves the shard of its store from startup to shutdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from codeq_internal.v1 import rows_pb2
from prometheus_client.registry import Collector

from codeq_server.config import Settings
from codeq_server.core import keys
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.parsing import RowReader, parsed
from codeq_server.engine.runner import Clock, system_clock
from codeq_server.node.descriptors import Files
from codeq_server.node.hosting import Present
from codeq_server.node.opening import load_shard, make_serving, verify
from codeq_server.node.upkeep import Upkeep
from codeq_server.replication.local import LocalLog
from codeq_server.replication.raft.log_rows import load_node
from codeq_server.services.cluster import Cluster, NoCluster
from codeq_server.services.histograms import SyncTimes
from codeq_server.services.serving import Serving
from codeq_server.storage.errors import StoreFormat
from codeq_server.storage.identity import CLUSTER_ID_BYTES, next_identity, save
from codeq_server.storage.layout import refuse_shards
from codeq_server.storage.opening import open_store
from codeq_server.webhooks.outgoing import Outgoing


class LocalHost:
    """A host whose log is the store itself; see `Host`.

    Args:
        settings: Settings of the server.
        files: Shares of the open files.
        on_fatal: Called once when a commit has failed: nothing more is decided, and the process must end.
        verify: Whether to check every row first.
        outgoing: Makes requests to URLs of tenants.
        clock: Clock of the shard.
        shard: Index of the shard among those of the settings.
    """

    mode = "single"
    upkeep: Upkeep
    collectors: Sequence[Collector] = ()

    def __init__(
        self,
        settings: Settings,
        files: Files,
        on_fatal: Callable[[BaseException], None],
        *,
        verify: bool,
        outgoing: Outgoing | None = None,
        clock: Clock = system_clock,
        shard: int = 0,
    ) -> None:
        self._shard = shard
        self.cluster: Cluster = NoCluster()
        self._settings, self._files = settings, files
        self._on_fatal = on_fatal
        self._verify, self._outgoing = verify, outgoing
        self._clock = clock
        self._serving: Serving | None = None

    async def start(self, present: Present, absence_changed: Callable[[], None]) -> None:  # noqa: ARG002
        """Opens the store and presents the Serving of its shard.

        Raises:
            StoreError: The store, or the folder of artifacts, cannot be opened.
            StoreDamaged: The check of every row found differences.
            CorruptRows: Rows of the store contradict each other.
        """
        settings = self._settings
        persistence = settings.persistence
        if persistence.path is not None and persistence.num_shards == 1:
            refuse_shards(persistence.path)
        store = open_store(persistence.path, fsync=persistence.fsync_on_commit, files_max=self._files.store)
        try:
            _refuse_member(store)
            # Nothing may be written before the format is known and the store is known to be complete.
            unix_seconds = self._clock()[0] // 1000
            installation, count = os.urandom(CLUSTER_ID_BYTES), settings.num_shards
            is_node = settings.cluster is not None
            identity = next_identity(store, count, unix_seconds, installation, shard=self._shard, is_node=is_node)
            tick = store.get(keys.TICK)
            store.check_recovered(0 if tick is None else parsed(rows_pb2.TickRow, keys.TICK, tick).lsn)
            if self._verify:
                verify(store)
            save(store, identity)
            self.upkeep = Upkeep(settings, store)
        except BaseException:
            store.close()
            raise
        try:
            keeper = self.upkeep.keeper
            shard = load_shard(settings, store, identity.epoch, self._clock, shard=self._shard)
            log = LocalLog(store)
            self.collectors = (SyncTimes(log.syncs),)
            serving = make_serving(
                settings,
                shard,
                log,
                keeper,
                self._on_fatal,
                outgoing=self._outgoing,
                clock=self._clock,
            )
        except BaseException:
            await self.upkeep.stop()
            store.close()
            raise
        self._serving = serving
        self.upkeep.follow(serving.runner)
        present(serving)

    def absence(self) -> Rejection:
        """Returns the rejection of calls before startup is complete."""
        return Rejection(Reason.DRAINING, "the server is starting")

    def behind(self) -> str:
        """Returns an empty text once the store is open."""
        return "the server is starting" if self._serving is None else ""

    async def stale(self) -> Serving:
        """Never called in normal operation: a single node always serves. Raises the rejection of `absence`."""
        raise self.absence()

    async def drain(self, grace_ms: int) -> None:
        """Ends waits and notifies streams."""
        if self._serving is not None:
            self._serving.drain(grace_ms)

    async def close(self) -> None:
        """Commits pending decisions and closes the store."""
        if self._serving is not None:
            await self.upkeep.stop()
            await self._serving.close()


def _refuse_member(rows: RowReader) -> None:
    """Rejects a store that belongs to a cluster, because the other members write to it as well."""
    if load_node(rows) is not None:
        raise StoreFormat(
            "the store belongs to a member of a cluster; start it with RAFT_ENABLED, or convert it to a single node "
            "with `codeq cluster leave`"
        )
