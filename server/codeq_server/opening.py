"""Opens the store of a server and the shard in it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

from codeq_internal.v1 import rows_pb2

from codeq_server.config import PersistenceSettings, Settings
from codeq_server.core import keys
from codeq_server.core.backoff import BackoffPolicy
from codeq_server.core.parsing import parsed
from codeq_server.core.recovery import open_shard
from codeq_server.core.shard import ShardSettings
from codeq_server.engine.artifacts import ArtifactKeeper
from codeq_server.engine.runner import ShardRunner, system_clock
from codeq_server.replication.local import LocalLog
from codeq_server.storage.artifacts import ArtifactFiles
from codeq_server.storage.check import check_open
from codeq_server.storage.errors import StoreDamaged, StoreNotWritable
from codeq_server.storage.identity import CLUSTER_ID_BYTES, load_identity, next_identity, save
from codeq_server.storage.memory import MemoryStore
from codeq_server.storage.rocks import RocksStore
from codeq_server.storage.store import Store


def open_runner(
    settings: Settings, on_fatal: Callable[[BaseException], None], *, verify: bool = False
) -> tuple[ShardRunner, Store]:
    """Returns the runner of the shard that the store holds, and the store, which the runner closes.

    Must be called within the event loop that serves it.

    Args:
        settings: Settings of the server.
        on_fatal: Called once when a commit failed: nothing is decided any more, the process must end.
        verify: Whether to check every row first.

    Raises:
        StoreError: The store cannot be opened.
        StoreDamaged: `verify` found differences.
        CorruptRows: Its rows contradict each other.
    """
    store = _open_store(settings.persistence)
    try:
        # Nothing may be written before the format is known and nothing durable is missing.
        identity = next_identity(store, settings.persistence.num_shards, int(time.time()), os.urandom(CLUSTER_ID_BYTES))
        tick = store.get(keys.TICK)
        store.check_recovered(0 if tick is None else parsed(rows_pb2.TickRow, keys.TICK, tick).lsn)
        if verify:
            _verify(store)
        save(store, identity)
        shard = open_shard(store, _shard_settings(settings), identity.epoch, *system_clock())
        runner = ShardRunner(shard, LocalLog(store), system_clock, random.SystemRandom().random, on_fatal)
    except BaseException:
        store.close()
        raise
    runner.changed()  # leases and due times of before are watched from now on
    return runner, store


def open_keeper(
    settings: Settings, runner: ShardRunner, store: Store, on_trouble: Callable[[str, Exception], None]
) -> ArtifactKeeper | None:
    """Returns who keeps the contents of artifacts, at work; None: nobody does, so they are refused.

    Args:
        settings: Settings of the server.
        runner: Runner of the shard.
        store: Its store.
        on_trouble: Called with what failed, and why.

    Raises:
        StoreLocked: Another process uses the folder for the same store.
        StoreNotWritable: The folder is configured, and cannot be used.
    """
    path, identity = settings.artifacts_path, load_identity(store)
    if path is None or identity is None:
        return None
    fsync, reserve_bytes = settings.persistence.fsync_on_commit, settings.disk_reserve_bytes
    try:
        files = ArtifactFiles(path, identity.cluster_id, fsync=fsync, reserve_bytes=reserve_bytes)
    except StoreNotWritable as problem:
        if settings.local_artifacts_dir is not None:
            raise
        on_trouble(
            "contents of artifacts are refused; set LOCAL_ARTIFACTS_DIR to a folder that can be written", problem
        )
        return None
    keeper = ArtifactKeeper(runner, files, on_trouble)
    keeper.start()
    return keeper


def _verify(store: Store) -> None:
    differences, _ = check_open(store)
    if differences:
        raise StoreDamaged(
            f"the store's rows contradict each other, {len(differences)} times or more; the first: {differences[0]}. "
            "`codeq store check` lists them; restore a backup"
        )


def _open_store(persistence: PersistenceSettings) -> Store:
    if persistence.path is None:
        return MemoryStore()
    return RocksStore(persistence.path, fsync=persistence.fsync_on_commit)


def _shard_settings(settings: Settings) -> ShardSettings:
    return ShardSettings(
        max_attempts=settings.max_attempts_default,
        backoff_policy=BackoffPolicy(settings.backoff.policy),
        backoff_base_seconds=settings.backoff.base_seconds,
        backoff_max_seconds=settings.backoff.max_seconds,
        retention_ms=settings.retention_seconds * 1000,
        dlq_retention_ms=settings.dlq_retention_seconds * 1000,
        queues_per_tenant_max=settings.queues_per_tenant_max,
        queue_idle_ms=settings.queue_idle_seconds * 1000,
    )
