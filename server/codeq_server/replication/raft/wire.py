"""Checks that both sides of a connection make of hellos and frame limits, and the counters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from codeq_internal.v1 import raft_pb2

from .channels import FRAME_BYTES_MAX
from .network import Handler, Hello, Unwelcome

PROTOCOL: Final = 1
"""Version of the protocol between nodes; nodes with another version are rejected."""

MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX - (2 << 20)
"""Maximum bytes of a group's message; longer messages are not sent."""

NAME_CHARS_MAX: Final = 255
CLUSTER_ID_BYTES_MAX: Final = 64
URL_CHARS_MAX: Final = 1024

SNAPSHOT_ANSWER_SECONDS: Final = 30.0
"""Timeout for the offer of a snapshot to arrive or be answered; the receiver first reads the parts that it already
has."""

SNAPSHOT_PROGRESS_SECONDS: Final = 30.0
"""Time for each part of a snapshot to be sent or to arrive."""

LOG_SECONDS: Final = 60.0
"""Minimum time between two log lines about the same problem with the same peer."""

SERVICE: Final[str] = raft_pb2.DESCRIPTOR.services_by_name["RaftTransportService"].full_name


@dataclass(slots=True)
class Counters:
    """Counters of a transport since it started. `refused` counts received messages that were not for this node."""

    frames_sent: int = 0
    frames_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped: int = 0
    refused: int = 0
    connects: int = 0
    reconnects: int = 0
    snapshots_sent: int = 0
    snapshots_failed: int = 0
    snapshots_received: int = 0
    snapshot_bytes_sent: int = 0
    snapshot_bytes_received: int = 0


class Refused(Exception):  # noqa: N818
    """This node rejects a peer; the text says why, and the code gives the kind of reason."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


def refuse(context: Any, code: grpc.StatusCode, why: str) -> None:
    """Makes an RPC end with a rejection when its handler returns; gRPC's own `abort` creates a reference cycle."""
    context.set_code(code)
    context.set_details(why)


class Seldom:
    """Limits how often an action is taken: once per key in a given time.

    Args:
        seconds: The time.
        clock: Monotonic clock in seconds.
    """

    KEYS_MAX: Final = 1000
    """Maximum keys remembered; beyond it, all keys are forgotten."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last: dict[object, float] = {}

    def allows(self, key: object) -> bool:
        """Returns whether the action may be taken now, and if so counts it as taken."""
        now = self._clock()
        last = self._last.get(key)
        if last is not None and now - last < self._seconds:
            return False
        if len(self._last) >= self.KEYS_MAX:
            self._last.clear()
        self._last[key] = now
        return True


def write_hello(hello: Hello) -> raft_pb2.RaftHello:
    """Returns the message with the identity of this node."""
    return raft_pb2.RaftHello(
        protocol=PROTOCOL,
        name=hello.name,
        raft_id=hello.raft_id,
        cluster_id=hello.cluster_id,
        http=hello.http,
        grpc=hello.grpc,
        founds=hello.founds,
        unsettled=hello.unsettled,
        last_index=hello.last_index,
        joins=hello.joins,
    )


def read_hello(said: raft_pb2.RaftHello, mine: Hello) -> Hello:
    """Returns the identity of a peer.

    Raises:
        Refused: This node rejects the peer, or the hello is malformed.
    """
    if said.protocol != PROTOCOL:
        raise Refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the nodes speak different protocol versions, {said.protocol} and {PROTOCOL}: upgrade the older one",
        )
    for field, length, least, most in (
        ("name", len(said.name), 1, NAME_CHARS_MAX),
        ("cluster_id", len(said.cluster_id), 0, CLUSTER_ID_BYTES_MAX),
        ("http", len(said.http), 0, URL_CHARS_MAX),
        ("grpc", len(said.grpc), 0, URL_CHARS_MAX),
    ):
        if not least <= length <= most:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"hello.{field}: length {length} is not {least} to {most}")
    if not said.raft_id:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "hello.raft_id: must not be 0")
    last_index = said.last_index if said.HasField("last_index") else None
    peer = Hello(
        said.name,
        said.raft_id,
        said.cluster_id,
        said.http,
        said.grpc,
        said.founds,
        said.unsettled,
        last_index,
        said.joins,
    )
    check_cluster(peer, mine)
    return peer


def check_cluster(peer: Hello, mine: Hello) -> None:
    """Checks that a peer is in the same cluster, or may still join it.

    Raises:
        Refused: The peer is in another cluster.
    """
    if peer.unsettled or mine.unsettled or not peer.cluster_id or not mine.cluster_id:
        return
    if peer.cluster_id != mine.cluster_id:
        raise Refused(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the nodes belong to different clusters: {peer.name} to {peer.cluster_id.hex()}, "
            f"{mine.name} to {mine.cluster_id.hex()}",
        )


def meet(handler: Handler, peer: Hello, address: str) -> None:
    """Notifies the groups of a node of a peer that identified itself; see `Handler.met`.

    Raises:
        Refused: This node rejects the peer.
    """
    try:
        handler.met(peer, address)
    except Unwelcome as why:
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, str(why)) from None


def tell_failure(task: asyncio.Task[None]) -> None:
    """Reports the failure of a task to the event loop at once, because nobody waits for the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        loop = task.get_loop()
        loop.call_exception_handler({"message": f"{task.get_name()} failed", "exception": error, "task": task})
