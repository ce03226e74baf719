"""ServerService: what the server is."""

from __future__ import annotations

from codeq.v1 import server_service_pb2 as pb

from codeq_server.auth.claims import Claims

PAYLOAD_BYTES_MAX = 1 << 20
BATCH_ITEMS_MAX = 1000


class ServerService:
    """Tells version, mode and limits."""

    def __init__(self, *, version: str, fsync: bool, persistence_provider: str) -> None:
        self._info = pb.ServerInfo(
            version=version,
            mode="single",
            fsync=fsync,
            persistence_provider=persistence_provider,
            num_shards=1,
            payload_bytes_max=PAYLOAD_BYTES_MAX,
            batch_items_max=BATCH_ITEMS_MAX,
        )

    async def GetServerInfo(self, claims: Claims, request: pb.GetServerInfoRequest) -> pb.GetServerInfoResponse:  # noqa: N802, ARG002
        """Tells the server."""
        return pb.GetServerInfoResponse(server=self._info)
