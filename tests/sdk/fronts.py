"""Nodes of a cluster as clients see them: the leader forwards to one real server, the others reject calls and name it.

The real server stands for the replicated state, so a front can die, or lose an answer, at will.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from codeq import reasons
from codeq.cluster import TOPOLOGY
from codeq.v1 import cluster_service_pb2, error_pb2, producer_service_pb2, worker_service_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from server_process import ServerProcess

STREAMS = {
    "/codeq.v1.ProducerService/Produce": producer_service_pb2.ProduceResponse,
    "/codeq.v1.WorkerService/Work": worker_service_pb2.WorkResponse,
}
PRODUCE, WORK = STREAMS


class Front(grpc.GenericRpcHandler):
    """One node.

    Attributes:
        address: Where it listens, even after it was killed.
        leads: Whether it forwards.
        leader: The leader that it names when it rejects; empty: none.
        members: The topology that it reports.
        kills_itself: Whether the node dies instead of returning the real server's next answer to a unary call.
        calls: Methods called on the node, including rejected calls.
    """

    def __init__(self, backend: str) -> None:
        self._backend = grpc.aio.insecure_channel(backend)
        self.address = ""
        self.leads = False
        self.leader = ""
        self.members: list[str] = []
        self.kills_itself = False
        self.calls: list[str] = []
        self._deposed = asyncio.Event()
        self._killing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts listening."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        self._server.add_generic_rpc_handlers((self,))
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def kill(self) -> None:
        """Ends at once, with every connection."""
        self.leads = False
        await self._server.stop(None)

    async def close(self) -> None:
        """Ends for good."""
        if self._killing is not None:
            await self._killing
        await self.kill()
        await self._backend.close()

    def depose(self, leader: str) -> None:
        """Stops leading: streams get a notice and end."""
        self.leads, self.leader = False, leader
        self._deposed.set()
        self._deposed = asyncio.Event()

    def service(self, details: Any) -> Any:
        """Returns the handler of a method."""
        method = details.method
        if method == TOPOLOGY:
            return grpc.unary_unary_rpc_method_handler(self._topology)
        self.calls.append(method)
        if method in STREAMS:
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return grpc.unary_unary_rpc_method_handler(self._unary(method))

    async def _topology(self, _: bytes, __: Any) -> bytes:
        topology = cluster_service_pb2.Topology(raft_enabled=True, leader_id=self.leader)
        for address in self.members:
            topology.members.add(id=address, grpc_addr=address)
        return cluster_service_pb2.GetTopologyResponse(topology=topology).SerializeToString()

    def _unary(self, method: str) -> Any:
        async def behaviour(request: bytes, context: Any) -> bytes:
            if not self.leads:
                await self._refuse(context)
            try:
                reply: bytes = await self._backend.unary_unary(method)(request, metadata=_metadata(context))
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata()))
            if self.kills_itself:
                self.kills_itself = self.leads = False
                self._killing = asyncio.create_task(self.kill())
                await asyncio.get_running_loop().create_future()
            return reply

        return behaviour

    def _stream(self, method: str) -> Any:
        async def behaviour(_: object, context: Any) -> None:
            if not self.leads:
                await self._refuse(context)
            call = self._backend.stream_stream(method)(metadata=_metadata(context))
            deposed = asyncio.ensure_future(self._deposed.wait())
            reading, writing = asyncio.ensure_future(_up(context, call)), asyncio.ensure_future(_down(call, context))
            try:
                await asyncio.wait((deposed, writing), return_when=asyncio.FIRST_COMPLETED)
                if deposed.done():
                    writing.cancel()
                    notice = STREAMS[method]()
                    notice.notice.reason = error_pb2.ERROR_REASON_NOT_LEADER
                    notice.notice.leader = self.leader
                    await context.write(notice.SerializeToString())
                    await self._refuse(context)
            finally:
                for task in (deposed, reading, writing):
                    task.cancel()
                await asyncio.gather(deposed, reading, writing, return_exceptions=True)
                call.cancel()

        return behaviour

    async def _refuse(self, context: Any) -> None:
        row = reasons.BY_NAME["NOT_LEADER"]
        detail = any_pb2.Any()
        known = {"leaderGrpc": self.leader} if self.leader else {}
        detail.Pack(error_details_pb2.ErrorInfo(reason=row.name, domain=reasons.DOMAIN, metadata=known))
        status = status_pb2.Status(code=row.grpc_code, message="another node leads", details=[detail])
        metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "another node leads", metadata)


@contextlib.asynccontextmanager
async def fronts(server: ServerProcess, count: int = 3) -> AsyncIterator[list[Front]]:
    """Nodes in front of a server, all of them known to each other; the first one leads."""
    nodes = [Front(server.producer_addr) for _ in range(count)]
    try:
        for node in nodes:
            await node.start()
        elect(nodes, nodes[0])
        for node in nodes:
            node.members = [each.address for each in nodes]
        yield nodes
    finally:
        for node in nodes:
            await node.close()


def elect(nodes: list[Front], leader: Front) -> None:
    """Makes a node the leader that the others name."""
    for node in nodes:
        node.leads = node is leader
        node.leader = leader.address


def _metadata(context: Any) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in context.invocation_metadata() if key == "authorization")


async def _up(context: Any, call: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await call.write(message)
    # A read also ends when the call breaks. In that case the write is cancelled, and no task is given back.
    await context.write(b"")
    await call.done_writing()


async def _down(call: Any, context: Any) -> None:
    while (message := await call.read()) is not grpc.aio.EOF:
        await context.write(message)
