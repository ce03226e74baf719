"""Streams to other nodes: one for each node in the address book, kept open, with a bounded buffer in front.

A node is found by its Raft id, which it sends when the stream opens; nothing is sent to an address before the node
there has identified itself. Messages that cannot be buffered or sent are dropped: the consensus core sends them again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from codeq_internal.v1 import raft_pb2

from .channels import Credentials
from .network import Handler, Hello, Unanswered
from .wire import (
    LOG_SECONDS,
    MESSAGE_BYTES_MAX,
    SERVICE,
    Counters,
    Refused,
    Seldom,
    meet,
    read_hello,
    tell_failure,
    write_hello,
)

BUFFER_BYTES_MAX: Final = 64 << 20
"""Maximum bytes buffered for one node; further messages are dropped, unless the buffer is empty."""

FRAME_BYTES: Final = 2 << 20
"""Maximum bytes of a frame; a single longer message gets a frame of its own."""

MESSAGE_OVERHEAD_BYTES: Final = 64
"""Size of a message in addition to its content, in a frame and in the buffer."""

CONNECT_SECONDS: Final = 2.0
"""Time for a node to accept a connection and identify itself."""

RETRY_SECONDS_MIN: Final = 0.05
RETRY_SECONDS_MAX: Final = 0.5
"""Bounds of the delay before reconnecting; it doubles each time. After a connection that lasted, there is no delay."""

HELD_SECONDS: Final = 1.0
"""A connection that lived longer than this counts as having lasted."""

UNREACHABLE_SECONDS: Final = 0.3
"""Minimum time between two reports to the group that messages for a node are lost."""

_ENDED: Final = "it ended the stream"
_LOG: Final = logging.getLogger("codeq.raft.transport")


@dataclass(frozen=True, slots=True)
class PeerState:
    """State of a node in the address book.

    Attributes:
        name: Name of the node.
        address: Address of the node.
        raft_id: Raft id of the node while it is connected, else 0.
        buffered_bytes: Bytes waiting to be sent to the node.
    """

    name: str
    address: str
    raft_id: int
    buffered_bytes: int


class Peers:
    """The address book, and the streams to the nodes in it.

    Args:
        credentials: Prove the identity of this node to others.
        handler: Notified about other nodes.
        counters: Counters to update.
    """

    def __init__(self, credentials: Credentials, handler: Handler, counters: Counters) -> None:
        self.credentials = credentials
        self.handler = handler
        self.counters = counters
        self._loop = asyncio.get_running_loop()
        self._peers: dict[str, _Peer] = {}
        self._routes: dict[int, _Peer] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._unreachable = Seldom(UNREACHABLE_SECONDS)
        self._logged = Seldom(LOG_SECONDS)

    def add(self, name: str, address: str) -> None:
        """Adds a node to the address book, or changes its address; ignores this node itself."""
        known = self._peers.get(name)
        if name == self.handler.hello().name or (known is not None and known.address == address):
            return
        self.remove(name)
        self._peers[name] = _Peer(name, address, self)

    def remove(self, name: str) -> None:
        """Removes a node from the address book, if it is there, and ends the stream to it."""
        peer = self._peers.pop(name, None)
        if peer is not None:
            self.lost(peer)
            peer.task.cancel()
            self._ending.add(peer.task)
            peer.task.add_done_callback(self._ending.discard)

    def send(self, to: int, group: int, message: bytes) -> None:
        """Sends a message to the node with a Raft id, or drops it."""
        peer = self._routes.get(to)
        if peer is None or not peer.put(group, message):
            self.dropped(to, 1)

    def address_of(self, raft_id: int) -> str:
        """Returns the address of a connected node; empty: not connected."""
        peer = self._routes.get(raft_id)
        return "" if peer is None else peer.address

    def introduce(self) -> None:
        """Tells all connected nodes this node's identity if it has changed."""
        for peer in self._routes.values():
            peer.speak()

    def wake(self, name: str) -> None:
        """Notes that a node called, and so is up; calls it back soon if it is in the address book."""
        peer = self._peers.get(name)
        if peer is not None:
            peer.woken.set()

    def problem_of(self, name: str) -> str:
        """Returns why no stream to a node in the address book is open; empty: it is open, or none was tried yet."""
        peer = self._peers.get(name)
        return "" if peer is None else peer.problem

    async def ask(self, name: str, address: str) -> Hello:
        """Returns the identity of the node at an address, which must have a given name. The address book is unchanged.

        Raises:
            Unanswered: No node answers, or a different node does.
        """
        channel = self.credentials.open_channel(address)
        try:
            _, hello = await self.greet(channel)
            self._check_name(name, hello)
        except (grpc.aio.AioRpcError, Refused, TimeoutError) as error:
            raise Unanswered(_reason(error)) from None
        finally:
            await channel.close()
        return hello

    async def greet(self, channel: grpc.aio.Channel) -> tuple[Any, Hello]:
        """Opens a stream; returns the stream, and the identity of the node at its other end.

        Raises:
            AioRpcError: The stream cannot be opened, or the other node rejects this one.
            Refused: This node rejects the other one.
            TimeoutError: The other node does not answer.
        """
        call: Any = channel.stream_stream(
            f"/{SERVICE}/Deliver",
            request_serializer=raft_pb2.DeliverRequest.SerializeToString,
            response_deserializer=raft_pb2.DeliverResponse.FromString,
        )(metadata=self.credentials.metadata)
        mine = self.handler.hello()
        async with asyncio.timeout(CONNECT_SECONDS):
            with suppress(asyncio.InvalidStateError):  # the stream has ended; a read says why
                await call.write(raft_pb2.DeliverRequest(hello=write_hello(mine)))
            answer: Any = await call.read()
        if answer is grpc.aio.EOF:
            raise Refused(grpc.StatusCode.UNAVAILABLE, _ENDED)
        return call, read_hello(answer.hello, mine)

    def states(self) -> list[PeerState]:
        """Returns the state of each node in the address book."""
        return [PeerState(p.name, p.address, p.raft_id, p.buffered) for p in self._peers.values()]

    def met(self, peer: _Peer, hello: Hello) -> None:
        """Registers the node at the other end of a stream.

        Raises:
            Refused: The node is not the expected one.
        """
        self._check_name(peer.name, hello)
        other = self._routes.get(hello.raft_id)
        if other is not None or hello.raft_id == self.handler.hello().raft_id:
            name = "this node" if other is None else other.name
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"it has the Raft id of {name}, so its disk is a copy")
        meet(self.handler, hello, peer.address)
        peer.raft_id, peer.problem = hello.raft_id, ""
        self._routes[hello.raft_id] = peer
        self.counters.connects += 1
        self.counters.reconnects += peer.was_met
        peer.was_met = True

    def lost(self, peer: _Peer) -> None:
        """Handles the end of a stream; its buffered messages are dropped."""
        waiting = peer.clear()
        if peer.raft_id:
            del self._routes[peer.raft_id]
            self.dropped(peer.raft_id, waiting)
            peer.raft_id = 0
            self.handler.parted(peer.name)

    def dropped(self, raft_id: int, messages: int) -> None:
        """Counts lost messages for a node and reports them to the group, never from within its call."""
        self.counters.dropped += messages
        if self._unreachable.allows(raft_id):
            self._loop.call_soon(self.handler.unreachable, raft_id)

    @staticmethod
    def _check_name(name: str, hello: Hello) -> None:
        if hello.name != name:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"the node there is called {hello.name!r}, not {name!r}")

    def log(self, peer: _Peer, why: str) -> None:
        """Logs why there is no stream to a node, at most once every LOG_SECONDS."""
        if self._logged.allows((peer.name, why)):
            fields = {"name": peer.name, "address": peer.address, "reason": why}
            _LOG.warning("raft_peer_lost", extra={"fields": fields})

    async def close(self) -> None:
        """Ends all streams."""
        for name in list(self._peers):
            self.remove(name)
        while self._ending:
            await asyncio.wait(self._ending)


class _Peer:
    """The stream to one node.

    Attributes:
        raft_id: Raft id of the node while the stream is open, else 0.
        buffered: Bytes in the buffer.
        was_met: Whether the stream has been open before.
        woken: Set when the node has called, and so is up.
        problem: Why no stream is open; empty while one is open, and before the first try.
    """

    def __init__(self, name: str, address: str, book: Peers) -> None:
        self.name = name
        self.address = address
        self.raft_id = 0
        self.buffered = 0
        self.was_met = False
        self.woken = asyncio.Event()
        self.problem = ""
        self._book = book
        self._buffer: deque[tuple[int, bytes]] = deque()
        self._filled = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(), name=f"raft-peer-{name}")
        self.task.add_done_callback(tell_failure)

    def put(self, group: int, message: bytes) -> bool:
        """Buffers a message; returns False if it is too long or does not fit."""
        size = len(message) + MESSAGE_OVERHEAD_BYTES
        if self._buffer and self.buffered + size > BUFFER_BYTES_MAX:
            return False
        if len(message) > MESSAGE_BYTES_MAX:
            self._book.log(self, "a message is too long to be sent")
            return False
        self.buffered += size
        self._buffer.append((group, message))
        self._filled.set()
        return True

    def speak(self) -> None:
        """Sends a frame even if the buffer is empty; it carries this node's identity if that has changed."""
        self._filled.set()

    def clear(self) -> int:
        """Empties the buffer and returns how many messages it held."""
        count = len(self._buffer)
        self._buffer.clear()
        self.buffered = 0
        self._filled.clear()
        return count

    async def _run(self) -> None:
        """Keeps the stream open until the task is cancelled."""
        delay = 0.0
        while True:
            began = time.monotonic()
            try:
                await self._converse()
                self.problem = _ENDED
            except (grpc.aio.AioRpcError, Refused, TimeoutError) as error:
                self.problem = _reason(error)
            held = self.raft_id and time.monotonic() - began > HELD_SECONDS
            self._book.lost(self)
            self._book.log(self, self.problem)
            delay = 0.0 if held else min(max(2 * delay, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX)
            if delay:
                # Never sooner than this: two nodes that reject each other would wake each other endlessly.
                await asyncio.sleep(RETRY_SECONDS_MIN)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.woken.wait(), delay - RETRY_SECONDS_MIN)

    async def _converse(self) -> None:
        """Opens the stream and sends over it until it ends.

        Raises:
            AioRpcError: The stream cannot be opened, or broke.
            Refused: The node is not the expected one.
            TimeoutError: The node does not answer.
        """
        book = self._book
        channel = book.credentials.open_channel(self.address)
        try:
            self.woken.clear()
            mine = book.handler.hello()
            call, hello = await book.greet(channel)
            book.met(self, hello)
            sides = [
                asyncio.create_task(self._write(call, mine), name=f"raft-peer-{self.name}-write"),
                asyncio.create_task(_read_to_end(call), name=f"raft-peer-{self.name}-read"),
            ]
            try:
                ended, _ = await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for side in sides:
                    side.cancel()
                await asyncio.wait(sides)
            for side in ended:
                side.result()
        finally:
            await channel.close()

    async def _write(self, call: Any, said: Hello) -> None:
        """Sends the buffer frame by frame, and this node's identity again when it has changed."""
        handler, counters = self._book.handler, self._book.counters
        while True:
            await self._filled.wait()
            frame = raft_pb2.DeliverRequest()
            mine = handler.hello()
            if mine != said:
                frame.hello.CopyFrom(write_hello(mine))
                said = mine
            size = self._fill(frame, mine.raft_id)
            try:
                await call.write(frame)
            except asyncio.InvalidStateError:
                return  # the stream has just ended
            counters.frames_sent += 1
            counters.messages_sent += len(frame.messages)
            counters.bytes_sent += size

    def _fill(self, frame: raft_pb2.DeliverRequest, from_id: int) -> int:
        """Moves messages from the buffer to a frame and returns their size in bytes."""
        taken = 0
        while self._buffer:
            group, message = self._buffer[0]
            size = len(message) + MESSAGE_OVERHEAD_BYTES
            if taken and taken + size > FRAME_BYTES:
                break
            self._buffer.popleft()
            taken += size
            frame.messages.add(group_id=group, from_id=from_id, to_id=self.raft_id, content=message)
        self.buffered -= taken
        if not self._buffer:
            self._filled.clear()
        return taken - len(frame.messages) * MESSAGE_OVERHEAD_BYTES


def _reason(error: BaseException) -> str:
    """Returns why there is no stream."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"it did not identify itself within {CONNECT_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)


async def _read_to_end(call: Any) -> None:
    """Reads and ignores answers until the stream ends.

    Raises:
        AioRpcError: The stream broke.
    """
    while await call.read() is not grpc.aio.EOF:
        pass
