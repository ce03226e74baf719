"""ServerService: information about the server, and backups."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from codeq.v1 import server_service_pb2 as pb

from codeq_server import is_compiled
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.engine.backups import Backups
from codeq_server.storage.errors import StoreError

from .convert import timestamp

PAYLOAD_BYTES_MAX = 1 << 20
BATCH_ITEMS_MAX = 1000


class ServerService:
    """Reports version, mode and limits, and makes backups."""

    def __init__(
        self,
        *,
        version: str,
        mode: str,
        fsync: bool,
        persistence_provider: str,
        num_shards: int,
        backups: Backups | None,
        settled: Callable[[], Awaitable[None]],
        on_trouble: Callable[[str, Exception], None],
    ) -> None:
        """Creates the service.

        Args:
            version: Version of the server.
            mode: Whether it runs as a single node or in a cluster.
            fsync: Whether acknowledgements wait for fsync.
            persistence_provider: Storage engine.
            num_shards: Number of shards.
            backups: Makes backups; None: they are rejected.
            settled: Waits until everything acknowledged is in this server's rows; raises a Rejection if another server
                leads.
            on_trouble: Called with a description of a failure and its exception.
        """
        self._backups = backups
        self._settled = settled
        self._on_trouble = on_trouble
        self._info = pb.ServerInfo(
            version=version,
            mode=mode,
            fsync=fsync,
            persistence_provider=persistence_provider,
            num_shards=num_shards,
            payload_bytes_max=PAYLOAD_BYTES_MAX,
            batch_items_max=BATCH_ITEMS_MAX,
            compiled=is_compiled(),
        )

    async def GetServerInfo(self, claims: Claims, request: pb.GetServerInfoRequest) -> pb.GetServerInfoResponse:  # noqa: N802, ARG002
        """Returns information about the server."""
        return pb.GetServerInfoResponse(server=self._info)

    async def BackUp(self, claims: Claims, request: pb.BackUpRequest) -> pb.BackUpResponse:  # noqa: N802, ARG002
        """Makes a backup."""
        if self._backups is None:
            raise Rejection(Reason.BACKUP_NOT_CONFIGURED, "backups are disabled: set BACKUP_DIR")
        await self._settled()
        try:
            artifacts = await self._backups.make(request.name)
        except StoreError as problem:
            self._on_trouble(f"the backup {request.name} failed", problem)
            raise Rejection(Reason.INTERNAL, "the backup failed; see the server's log") from None
        made = pb.Backup(name=request.name, artifacts=artifacts, created_at=timestamp(time.time_ns() // 1_000_000))
        return pb.BackUpResponse(backup=made)
