"""Messages between nodes over gRPC: RaftTransportService for all groups of a node, on its own port.

A caller without the cluster secret, or without a certificate from its authority, is rejected before its messages are
read. A node of another cluster is rejected, and its messages are not delivered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from codeq_internal.v1 import raft_pb2

from .channels import Credentials, TransportError, TransportSettings, new_server
from .network import Handler, Hello
from .peers import CONNECT_SECONDS, Peers, PeerState
from .snapshot_receiver import SnapshotReceiver
from .snapshot_sender import SnapshotSender
from .wire import (
    LOG_SECONDS,
    SERVICE,
    Counters,
    Refused,
    Seldom,
    check_cluster,
    meet,
    read_hello,
    refuse,
    write_hello,
)

_LOG: Final = logging.getLogger("codeq.raft.transport")


class Transport:
    """The network as the groups of a node see it.

    Args:
        settings: Where to listen and who may connect.
        peers: Addresses, host:port, of other nodes by name; this node itself may be among them.
        handler: Receives the messages.
        on_admitted: Called with the gRPC peer of a connection on which the secret was presented.

    Raises:
        TransportError: The certificates cannot be used.

    Attributes:
        port: Port for other nodes, once started.
        counters: Counters of the transport.
    """

    def __init__(
        self,
        settings: TransportSettings,
        peers: Mapping[str, str],
        handler: Handler,
        on_admitted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.port = 0
        self.counters = Counters()
        self._settings = settings
        self._handler = handler
        self._book = dict(peers)
        self._credentials = Credentials(settings.secret, settings.tls, settings.route)
        self._peers = Peers(self._credentials, handler, self.counters)
        self._sender = SnapshotSender(self._credentials, handler, self.counters, self._peers.address_of)
        self._receiver = SnapshotReceiver(settings.incoming, settings.reserve_bytes, handler, self.counters)
        self._logged = Seldom(LOG_SECONDS)
        self._server = new_server([_Gate(self._credentials)], settings.connections_max)
        handlers: dict[str, Any] = {
            "Deliver": grpc.stream_stream_rpc_method_handler(
                _telling(on_admitted, self._deliver),
                request_deserializer=raft_pb2.DeliverRequest.FromString,
                response_serializer=raft_pb2.DeliverResponse.SerializeToString,
            ),
            "InstallSnapshot": grpc.stream_stream_rpc_method_handler(
                _telling(on_admitted, self._receiver.install_snapshot),
                request_deserializer=raft_pb2.InstallSnapshotRequest.FromString,
                response_serializer=raft_pb2.InstallSnapshotResponse.SerializeToString,
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def start(self) -> None:
        """Listens for other nodes and connects to them.

        Raises:
            TransportError: The port is taken, the host is not an address of this machine, or the folder cannot be used.
        """
        try:
            await self._receiver.start()
        except OSError as error:
            raise TransportError(f"cannot use {self._settings.incoming}: {error.strerror}") from None
        self.port = self._credentials.listen(self._server, self._settings.host, self._settings.port)
        await self._server.start()
        for name, address in self._book.items():
            self._peers.add(name, address)

    async def stop(self) -> None:
        """Ends all streams and transfers; waits only for a snapshot that is being installed, and not for long."""
        await self._sender.close()
        await self._peers.close()
        await self._server.stop(None)
        await self._receiver.close()

    def renew(self, authority: bytes, key: bytes, certificate: bytes) -> None:
        """Uses other certificates for connections that are opened from now on; see `Credentials.renew`."""
        self._credentials.renew(authority, key, certificate)

    def add(self, name: str, address: str) -> None:
        """Adds a node to the address book, or changes its address; ignores this node itself."""
        self._peers.add(name, address)

    def remove(self, name: str) -> None:
        """Removes a node from the address book, if it is there, and ends the stream to it."""
        self._peers.remove(name)

    def introduce(self) -> None:
        """Tells all connected nodes this node's identity if it has changed."""
        self._peers.introduce()

    async def ask(self, name: str, address: str) -> Hello:
        """Returns the identity of the node at an address, which must have a given name. The address book is unchanged.

        Raises:
            Unanswered: No node answers, or a different node does.
        """
        return await self._peers.ask(name, address)

    def problem_of(self, name: str) -> str:
        """Returns why no stream to a node in the address book is open; empty: it is open, or none was tried yet."""
        return self._peers.problem_of(name)

    def peers(self) -> list[PeerState]:
        """Returns the state of each node in the address book."""
        return self._peers.states()

    def send(self, to: int, group: int, message: bytes) -> None:
        """Sends a message to the node with a Raft id. It may be lost; messages that arrive keep their order."""
        self._peers.send(to, group, message)

    def send_snapshot(self, to: int, group: int, message: bytes, folder: Path) -> None:
        """Sends a snapshot; see `Network.send_snapshot`."""
        self._sender.send(to, group, message, folder)

    async def _deliver(self, _: object, context: Any) -> None:
        """Serves one stream of messages."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                frame = await context.read()
            if frame is grpc.aio.EOF:
                return
            peer = self._meet(frame)
            await context.write(raft_pb2.DeliverResponse(hello=write_hello(self._handler.hello())))
            while True:
                self._take(peer, frame)
                frame = await context.read()
                if frame is grpc.aio.EOF:
                    return
                if frame.HasField("hello"):
                    peer = self._meet(frame)
        except Refused as refusal:
            if self._logged.allows(str(refusal)):
                _LOG.warning("raft_peer_refused", extra={"fields": {"from": context.peer(), "reason": refusal}})
            refuse(context, refusal.code, str(refusal))
        except TimeoutError:
            refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "hello: not received in time")

    def _meet(self, frame: raft_pb2.DeliverRequest) -> Hello:
        """Returns the identity that the sender of a frame claims, after notifying the groups.

        Raises:
            Refused: This node rejects the sender.
        """
        if not frame.HasField("hello"):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "hello: must be in the first frame")
        peer = read_hello(frame.hello, self._handler.hello())
        self._peers.wake(peer.name)
        meet(self._handler, peer, "")
        return peer

    def _take(self, peer: Hello, frame: raft_pb2.DeliverRequest) -> None:
        """Hands the messages of a frame to their groups."""
        mine = self._handler.hello()
        check_cluster(peer, mine)
        counters = self.counters
        counters.frames_received += bool(frame.messages)
        for message in frame.messages:
            if message.to_id != mine.raft_id or message.from_id != peer.raft_id:
                counters.refused += 1
                continue
            counters.messages_received += 1
            counters.bytes_received += len(message.content)
            self._handler.receive(message.group_id, message.content, peer)


class _Gate(grpc.aio.ServerInterceptor):
    """Rejects callers without the secret, before anything is read, whichever method is called."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._refusal: Any = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        if self._credentials.admits(details.invocation_metadata):
            return await continuation(details)
        return self._refusal


def _telling(on_admitted: Callable[[str], None], behaviour: Callable[[object, Any], Awaitable[None]]) -> Any:
    """Returns a handler function that first reports the peer of the call."""

    async def telling(request: object, context: Any) -> None:
        on_admitted(context.peer())
        await behaviour(request, context)

    return telling


async def _refuse(_: object, context: Any) -> None:
    refuse(context, grpc.StatusCode.UNAUTHENTICATED, "the cluster secret is missing or wrong")
