"""ShardCreateService: creates tasks of producers whose streams other processes serve."""

from __future__ import annotations

from codeq.v1 import producer_service_pb2
from codeq_internal.v1 import shard_create_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.engine.runner import ShardRunner

from .frame_creator import FrameCreator


class ShardCreateService:
    """Creates tasks. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    async def CreateOnShard(self, claims: Claims, request: pb.CreateOnShardRequest) -> pb.CreateOnShardResponse:  # noqa: N802
        """Creates the tasks of a part of a frame."""
        frame = producer_service_pb2.ProduceRequest.FromString(request.frame)
        creator = FrameCreator(self._runner, claims.tenant_id, "")
        ack = await creator.create(claims, frame, len(request.frame))
        await self._runner.wait_durable()
        return pb.CreateOnShardResponse(ack=ack)
