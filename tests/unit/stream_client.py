"""The client end of a stream, driven by a test."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from codeq.v1 import producer_service_pb2 as producer_pb
from codeq.v1 import task_pb2, worker_service_pb2


class Client:
    """The client end of a stream.

    Attributes:
        kind: "produce" or "work".
        reads: Whether it reads.
        received: The messages received so far.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.reads = True
        self.received: list[Any] = []
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self.send(hello=producer_pb.ProducerHello() if kind == "produce" else worker_service_pb2.WorkerHello())

    def send(self, **fields: Any) -> None:
        request = producer_pb.ProduceRequest if self.kind == "produce" else worker_service_pb2.WorkRequest
        self._sent.put_nowait(request(**fields))

    def half_close(self) -> None:
        self._sent.put_nowait(grpc.aio.EOF)

    async def read(self) -> Any:
        return await self._sent.get()

    async def write(self, message: Any) -> None:
        if not self.reads:
            await asyncio.get_running_loop().create_future()
        if isinstance(message, bytes):
            message = worker_service_pb2.WorkResponse.FromString(message)
        self.received.append(message)

    def peer(self) -> str:
        """The address of the client, as gRPC writes it."""
        return "ipv4:127.0.0.1:1"

    @property
    def unread(self) -> int:
        """The messages that the server has not read yet."""
        return self._sent.qsize()

    @property
    def notices(self) -> list[producer_pb.StreamNotice]:
        return [message.notice for message in self.received if message.HasField("notice")]

    @property
    def tasks(self) -> list[task_pb2.Task]:
        return [task for message in self.received for task in getattr(message, "tasks", ())]
