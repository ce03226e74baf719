"""Background work on an open store, whether or not this node serves the shard."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from codeq_server.config import Settings
from codeq_server.core.parsing import RowReader
from codeq_server.engine.artifacts import ArtifactKeeper
from codeq_server.engine.backups import Backups
from codeq_server.engine.contents import ContentRows
from codeq_server.engine.reclaiming import Reclaiming
from codeq_server.engine.runner import ShardRunner
from codeq_server.engine.space import SpaceWatch
from codeq_server.services.artifacts import Keeper
from codeq_server.storage.artifacts import ArtifactFiles
from codeq_server.storage.errors import StoreNotWritable
from codeq_server.storage.identity import load_identity
from codeq_server.storage.store import Store

_log = structlog.get_logger()


class Upkeep:
    """Watches and reclaims a store's disk space, and manages backups and the contents of artifacts.

    Attributes:
        space: Watches the store's free space.
        keeper: Stores artifact contents; None: they are rejected.
        backups: Makes backups; None: they are rejected.
    """

    def __init__(self, settings: Settings, store: Store, *, replicated: bool = False) -> None:
        """Starts the background work; must be called within the event loop.

        Args:
            settings: Settings of the server.
            store: The store; must stay open until `stop` has returned.
            replicated: Whether the rows are replicated, and artifact contents among them; otherwise these are in files.

        Raises:
            StoreLocked: Another process uses the folder of artifacts for the same store.
            StoreNotWritable: The configured folder of artifacts cannot be used.
        """
        self._runner: ShardRunner | None = None
        files = None if replicated else _open_keeper(settings, store, _log_artifacts)
        self._contents = ContentRows(store, _log_artifacts)
        self._files = files
        self.keeper: Keeper | None = self._contents if replicated else files
        self.backups: Backups | None = None
        if settings.backup_dir is not None and store.row_sets is not None:
            self.backups = Backups(store.row_sets, files, settings.backup_dir)
        self._reserve_bytes = settings.disk_reserve_bytes
        self.space = SpaceWatch(store.free_bytes, self._reserve_bytes, self._on_space)
        self.space.start()
        self._reclaiming = Reclaiming(store.reclaim)
        self._reclaiming.start()

    def follow(self, runner: ShardRunner | None) -> None:
        """Sets the runner of the shard to work for; None: this node does not serve the shard."""
        self._runner = runner
        if runner is not None:
            runner.shard.storage_full = self.space.full
        self._contents.follow(runner)  # a store that was a member's has rows with contents, too
        if self._files is not None:
            self._files.follow(runner)

    async def stop(self) -> None:
        """Stops the background work; on return it no longer uses the store."""
        self.space.stop()
        await self._reclaiming.stop()
        if self.backups is not None:
            await self.backups.stop()
        await self._contents.stop()
        if self._files is not None:
            await self._files.stop()

    def _on_space(self, full: bool, free_bytes: int) -> None:  # noqa: FBT001
        if self._runner is not None:
            self._runner.shard.storage_full = full
        if full:
            _log.error(
                "storage_full",
                free_bytes=free_bytes,
                reserve_bytes=self._reserve_bytes,
                hint="new tasks are rejected until the store's disk has free space again",
            )
        else:
            _log.info("storage_has_room", free_bytes=free_bytes, reserve_bytes=self._reserve_bytes)


def _open_keeper(
    settings: Settings, rows: RowReader, on_trouble: Callable[[str, Exception], None]
) -> ArtifactKeeper | None:
    """Returns the keeper of artifact contents; None: they are not stored."""
    path, identity = settings.artifacts_path, load_identity(rows)
    if path is None or identity is None:
        return None
    fsync, reserve_bytes = settings.persistence.fsync_on_commit, settings.disk_reserve_bytes
    # The default folder is created when first needed, and never by a failed start.
    named = settings.local_artifacts_dir is not None
    try:
        files = ArtifactFiles(path, identity.cluster_id, fsync=fsync, reserve_bytes=reserve_bytes, at_once=named)
    except StoreNotWritable as problem:
        if settings.local_artifacts_dir is not None:
            raise
        on_trouble("artifact contents are rejected; set LOCAL_ARTIFACTS_DIR to a writable folder", problem)
        return None
    return ArtifactKeeper(files, on_trouble)


def _log_artifacts(what: str, problem: Exception) -> None:
    _log.error("artifacts_failed", what=what, error=problem)
