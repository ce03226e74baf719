"""ShardCreateService: creates tasks of producers whose streams other processes serve."""

from __future__ import annotations

from codeq.v1 import producer_service_pb2
from codeq_internal.v1 import shard_create_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Rejection
from codeq_server.engine.runner import ShardRunner

from .frame_creator import FrameCreator


class ShardCreateService:
    """Creates tasks. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    async def CreateOnShard(self, claims: Claims, request: pb.CreateOnShardRequest) -> pb.CreateOnShardResponse:  # noqa: N802
        """Creates the tasks of a part of a frame.

        Raises:
            Rejection: OUTCOME_UNKNOWN, even if the runner ends for another reason, once some tasks have been decided:
                the call is not to be repeated.
        """
        frame = producer_service_pb2.ProduceRequest.FromString(request.frame)
        creator = FrameCreator(self._runner, claims.tenant_id, "")
        try:
            ack = await creator.create(claims, frame, len(request.frame))
        except Rejection as refusal:
            raise self._runner.refused(refusal, decided=creator.has_begun) from None
        await self._runner.wait_durable()
        return pb.CreateOnShardResponse(ack=ack)
