"""Nodes that communicate over real connections and record what they receive, and tools to disturb them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import grpc.aio
from codeq_internal.v1 import raft_pb2
from codeq_server.replication.raft.channels import SECRET_KEY, TransportSettings
from codeq_server.replication.raft.network import Hello
from codeq_server.replication.raft.transport import Transport
from codeq_server.replication.raft.wire import SERVICE

SECRET = "open sesame"


async def eventually(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


class Node:
    """A node whose groups only record messages.

    Attributes:
        me: Its identity.
        received: Groups and messages in order of arrival.
        met_peers: Peers that identified themselves, with their addresses.
        left: Names of the nodes to which the stream has ended.
        lost: Raft ids that were reported unreachable, with the time.
        sent: Groups, Raft ids and outcomes of snapshots that were sent.
        installed: Groups, messages and files of received snapshots.
        refusal: Exception that an installation raises, if any.
        installing: Set when an installation has begun.
        may_install: Event that installations wait for.
    """

    def __init__(self, name: str, raft_id: int, cluster_id: bytes = b"cluster") -> None:
        self.me = Hello(name, raft_id, cluster_id, f"http://{name}:8080", f"{name}:9092")
        self.received: list[tuple[int, bytes]] = []
        self.met_peers: list[tuple[Hello, str]] = []
        self.left: list[str] = []
        self.lost: list[tuple[int, float]] = []
        self.sent: list[tuple[int, int, bool]] = []
        self.installed: list[tuple[int, bytes, dict[str, bytes]]] = []
        self.refusal: Exception | None = None
        self.installing = asyncio.Event()
        self.may_install = asyncio.Event()
        self.may_install.set()

    def hello(self) -> Hello:
        return self.me

    def met(self, peer: Hello, address: str) -> None:
        self.met_peers.append((peer, address))
        if not self.me.cluster_id:
            self.me = replace(self.me, cluster_id=peer.cluster_id)

    def parted(self, name: str) -> None:
        self.left.append(name)

    def receive(self, group: int, message: bytes, sender: Hello) -> None:
        assert any(sender == peer for peer, _ in self.met_peers)
        self.received.append((group, message))

    def unreachable(self, raft_id: int) -> None:
        self.lost.append((raft_id, time.monotonic()))

    def snapshot_sent(self, group: int, to: int, ok: bool) -> None:
        self.sent.append((group, to, ok))

    async def install(self, group: int, message: bytes, folder: Path) -> None:
        self.installing.set()
        await self.may_install.wait()
        if self.refusal is not None:
            raise self.refusal
        self.installed.append((group, message, contents(folder)))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def settings(folder: Path, port: int = 0, **further: Any) -> TransportSettings:
    """Returns the settings of a node on the loopback."""
    return replace(TransportSettings("127.0.0.1", port, folder, secret=SECRET), **further)


@asynccontextmanager
async def started(
    node: Node, how: TransportSettings, peers: Mapping[str, str] | None = None
) -> AsyncIterator[Transport]:
    """Runs the transport of a node."""
    transport = Transport(how, peers or {}, node)
    await transport.start()
    try:
        yield transport
    finally:
        await transport.stop()


def reaches(transport: Transport, raft_id: int) -> bool:
    """Returns whether a transport has a stream to a node."""
    return raft_id in {peer.raft_id for peer in transport.peers()}


@asynccontextmanager
async def connected(folder: Path, *nodes: Node, **further: Any) -> AsyncIterator[list[Transport]]:
    """Runs the transports of nodes that all have streams to each other."""
    async with AsyncExitStack() as stack:
        transports = [
            await stack.enter_async_context(started(node, settings(folder / node.me.name, **further))) for node in nodes
        ]
        book = {node.me.name: f"127.0.0.1:{transport.port}" for node, transport in zip(nodes, transports, strict=True)}
        for transport in transports:
            for name, address in book.items():
                transport.add(name, address)
        await eventually(lambda: all(peer.raft_id for transport in transports for peer in transport.peers()))
        yield transports


@asynccontextmanager
async def raw_call(
    port: int, method: str, secret: str | None = SECRET, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[Any]:
    """Calls a method of the transport in a way that no node would."""
    address = f"127.0.0.1:{port}"
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    async with channel:
        made = channel.stream_stream(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(raft_pb2, f"{method}Response", raft_pb2.DeliverResponse).FromString,
        )
        metadata = () if secret is None else ((SECRET_KEY, secret.encode()),)
        yield RawCall(lambda: made(metadata=metadata))


class RawCall:
    """A gRPC call that can be made again."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._call = make, make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def again(self) -> None:
        """Makes the call again."""
        self._call = self._make()


async def refusal_of(call: Any, *frames: Any) -> tuple[grpc.StatusCode, str]:
    """Sends frames and returns how the call ends.

    grpc.aio reports INTERNAL for a call that ends during a write; such a call is repeated.
    """
    while True:
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            for frame in frames:
                await call.write(frame)
            while await call.read() is not grpc.aio.EOF:
                pass
        code, details = await call.code(), await call.details()
        if code is not grpc.StatusCode.INTERNAL or details != "Internal error from Core":
            return code, details
        call.again()


class Proxy:
    """Forwards bytes between a node and its peers.

    Attributes:
        address: Where to connect.
        bytes_left: Bytes towards the node after which connections are closed; None: no limit.
    """

    def __init__(self, port: int) -> None:
        self.address = ""
        self.bytes_left: int | None = None
        self._port = port
        self._flows = asyncio.Event()
        self._flows.set()
        self._streams: set[asyncio.StreamWriter] = set()

    def freeze(self) -> None:
        """Leaves connections open, but forwards nothing."""
        self._flows.clear()

    def thaw(self) -> None:
        """Resumes forwarding."""
        self._flows.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.thaw()
        self.cut()
        await eventually(lambda: not self._streams)

    def cut(self) -> None:
        """Ends every connection."""
        for stream in self._streams:
            stream.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._streams |= {writer, there_writer}
        try:
            await asyncio.gather(self._pass(reader, there_writer, inward=True), self._pass(there_reader, writer))
        finally:
            self._streams -= {writer, there_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, inward: bool = False) -> None:
        with suppress(OSError):
            while content := await reader.read(65536):
                await self._flows.wait()
                if inward and self.bytes_left is not None:
                    self.bytes_left -= len(content)
                    if self.bytes_left <= 0:
                        self.bytes_left = None
                        self.cut()
                writer.write(content)
                await writer.drain()
        writer.close()


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in a folder.

    Attributes:
        folder: The folder, with manifest.json in it.
        files: All files in it by name.
    """

    folder: Path
    files: dict[str, bytes]

    @property
    def manifest(self) -> bytes:
        """Content of manifest.json."""
        return self.files["manifest.json"]

    @property
    def size(self) -> int:
        """Bytes of the files that the manifest lists."""
        return sum(map(len, self.files.values())) - len(self.manifest)


def make_snapshot(folder: Path, sizes: Sequence[int], mark: int = 0) -> Snapshot:
    """Makes a snapshot with files of these sizes."""
    folder.mkdir(parents=True)
    files, listed = {}, []
    for number, size in enumerate(sizes):
        name = f"{number:06}.sst"
        files[name] = hashlib.shake_128(b"%d %d" % (mark, number)).digest(size)
        listed.append({"name": name, "bytes": size, "sha256": hashlib.sha256(files[name]).hexdigest()})
    files["manifest.json"] = json.dumps({"files": listed, "values": {"ff00": f"{mark:02x}"}}).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Snapshot(folder, files)
