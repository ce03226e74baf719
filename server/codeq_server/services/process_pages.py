"""What the processes of one server tell each other about themselves: metrics, and the Raft groups."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc.aio
from codeq.v1 import cluster_service_pb2 as cluster_pb
from codeq_gateway.links import open_channel
from codeq_internal.v1 import call_pb2
from google.protobuf.message import Message

from .call_stream import SERVICE
from .internal_callers import Owner

PROBE_SECONDS: Final = 2.0
"""Time for a process to answer."""


class ProcessPages:
    """Asks the other processes of this server; must be created within the event loop.

    Args:
        owner: This process.
        addresses: Loopback address of each process.
    """

    def __init__(self, owner: Owner, addresses: Sequence[str]) -> None:
        self._owner = owner
        self._channels = {at: open_channel(each) for at, each in enumerate(addresses) if at != owner.shard}

    async def metrics(self) -> Mapping[int, bytes]:
        """Returns the metrics of each other process that answers."""
        answers = await asyncio.gather(*[self._metrics_of(shard) for shard in self._channels])
        return {shard: text for shard, text in zip(self._channels, answers, strict=True) if text}

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*[channel.close() for channel in self._channels.values()])

    async def groups(self) -> list[cluster_pb.RaftGroup]:
        """Returns the Raft groups of the other processes that answer."""
        answers = await asyncio.gather(
            *[
                self._ask(shard, "GetGroups", call_pb2.GetGroupsRequest(), call_pb2.GetGroupsResponse)
                for shard in self._channels
            ]
        )
        statuses = [cluster_pb.RaftStatus.FromString(answer.status) for answer in answers if answer is not None]
        return [group for status in statuses for group in status.groups]

    async def _metrics_of(self, shard: int) -> bytes:
        request = call_pb2.GetMetricsRequest(own=True)
        answer = await self._ask(shard, "GetMetrics", request, call_pb2.GetMetricsResponse)
        return b"" if answer is None else bytes(answer.text)

    async def _ask(self, shard: int, name: str, request: Message, response: type[Message]) -> Any:
        """Returns the response of a process; None: it does not answer."""
        ask: Any = self._channels[shard].unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return await ask(request, timeout=PROBE_SECONDS, metadata=self._owner.says_to(shard))
        except grpc.aio.AioRpcError:
            return None
