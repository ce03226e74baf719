"""A client that follows the leader over gRPC and separates rejected calls from those with an unknown outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

import grpc
from codeq.v1 import (
    cluster_service_pb2_grpc,
    queue_service_pb2_grpc,
    schedule_service_pb2_grpc,
    task_service_pb2_grpc,
    topic_service_pb2_grpc,
    worker_service_pb2_grpc,
)
from google.rpc import error_details_pb2, status_pb2

ATTEMPT_SECONDS: Final = 1.5
"""Time that one node has to answer; a paused or isolated node never answers."""
PAUSE_SECONDS: Final = 0.03
CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)
_STATUS_KEY: Final = "grpc-status-details-bin"
_DONE_NOTHING: Final = frozenset({"NOT_LEADER", "DRAINING", "SERVER_UNREACHABLE"})
"""Reasons that guarantee that the call had no effect."""
_ELSEWHERE: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class OutcomeUnknown(Exception):  # noqa: N818 - as the product names it
    """The call may or may not have been executed."""


class Refused(Exception):  # noqa: N818 - what it is
    """A leader rejected the call.

    Attributes:
        reason: Name of the reason, or of the gRPC code if there is no reason.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


def reason_of(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """Returns the reason of an error and its metadata; "" if there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason, dict(info.metadata)
    return "", {}


class Node:
    """Channel and stubs of one node."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.stubs = {
            "tasks": task_service_pb2_grpc.TaskServiceStub(self.channel),
            "queues": queue_service_pb2_grpc.QueueServiceStub(self.channel),
            "schedules": schedule_service_pb2_grpc.ScheduleServiceStub(self.channel),
            "cluster": cluster_service_pb2_grpc.ClusterServiceStub(self.channel),
            "topics": topic_service_pb2_grpc.TopicServiceStub(self.channel),
            "work": worker_service_pb2_grpc.WorkerServiceStub(self.channel),
        }


class Follower:
    """Calls the current leader.

    Attributes:
        leader: Address that answered last or was named as the leader's; "": unknown.
    """

    def __init__(self, addresses: Sequence[str], token: str) -> None:
        self.leader = ""
        self.token = token
        self.metadata = (("authorization", f"Bearer {token}"),)
        self._nodes = {address: Node(address) for address in addresses}
        self._next = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self._nodes.values():
            with suppress(asyncio.CancelledError):
                await node.channel.close()

    def node(self) -> Node:
        """Returns the leader if it is known, else each node in turn."""
        if self.leader in self._nodes:
            return self._nodes[self.leader]
        self._next += 1
        return list(self._nodes.values())[self._next % len(self._nodes)]

    def know(self, address: str) -> None:
        """Adds a further node."""
        self._nodes.setdefault(address, Node(address))

    def failed(self, node: Node, leader: str = "") -> None:
        """Records that a node does not lead, or does not answer."""
        if self.leader in ("", node.address):
            self.leader = leader

    async def each(self, service: str, method: str, request: Any) -> list[Any]:
        """Returns the answers of all nodes that answer, whether they lead or not."""
        answers = []
        for node in self._nodes.values():
            send = getattr(node.stubs[service], method)
            with suppress(grpc.aio.AioRpcError):
                answers.append(await send(request, metadata=self.metadata, timeout=ATTEMPT_SECONDS))
        return answers

    async def call(
        self,
        service: str,
        method: str,
        request: Any,
        *,
        again: bool,
        seconds: float = 30.0,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> tuple[Any, str]:
        """Returns the leader's answer and address.

        Args:
            service: tasks, queues, schedules, topics or cluster.
            method: Method of the service.
            request: The request.
            again: Whether to send the request again if its outcome is unknown.
            seconds: Time for all attempts.
            attempt_seconds: Time for each attempt.

        Raises:
            OutcomeUnknown: It is unknown whether the call was executed, and the call may not be sent again.
            Refused: The leader rejected the call.
            TimeoutError: No leader answered in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            node = self.node()
            try:
                send = getattr(node.stubs[service], method)
                answer = await send(request, metadata=self.metadata, timeout=attempt_seconds)
            except grpc.aio.AioRpcError as error:
                reason, more = reason_of(error)
                if reason not in _DONE_NOTHING and error.code() not in _ELSEWHERE:
                    self.leader = node.address
                    raise Refused(reason or error.code().name, error.details() or "") from None
                leader = more.get("leaderGrpc", "")
                self.failed(node, leader)
                if not again and reason not in _DONE_NOTHING:
                    raise OutcomeUnknown(f"{node.address}: {reason or error.code().name}") from None
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no leader within {seconds} s: {reason or error.details()}") from None
                if not leader:
                    await asyncio.sleep(PAUSE_SECONDS)
            else:
                self.leader = node.address
                return answer, node.address
