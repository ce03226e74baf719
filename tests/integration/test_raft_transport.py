"""Messages between nodes over real connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from codeq_internal.v1 import raft_pb2
from codeq_server.replication.raft.channels import CONNECTIONS_MAX, FRAME_BYTES_MAX, TransportError, new_server
from codeq_server.replication.raft.peers import BUFFER_BYTES_MAX, FRAME_BYTES, UNREACHABLE_SECONDS
from codeq_server.replication.raft.transport import Transport
from codeq_server.replication.raft.wire import MESSAGE_BYTES_MAX, SERVICE, write_hello
from raft_nodes import Node, Proxy, connected, eventually, raw_call, reaches, refusal_of, settings, started

MIB = 1 << 20
CUTS = 8


async def test_messages_between_three_nodes_arrive_in_order(tmp_path: Path) -> None:
    nodes = [Node(name, number) for number, name in enumerate(("a", "b", "c"), 1)]
    async with connected(tmp_path, *nodes) as transports:
        pairs = [(node, there) for node in nodes for there in nodes if there is not node]
        for number in range(1000):
            for node, there in pairs:
                words = f"{node.me.name} {number}".encode()
                transports[node.me.raft_id - 1].send(there.me.raft_id, number % 5, words)
        for node, there in pairs:
            sent = [(number % 5, f"{node.me.name} {number}".encode()) for number in range(1000)]
            await eventually(lambda there=there: len(there.received) == 2000)
            assert [got for got in there.received if got[1].startswith(node.me.name.encode())] == sent
            assert (node.me, f"127.0.0.1:{transports[node.me.raft_id - 1].port}") in there.met_peers
        counters = [transport.counters for transport in transports]
        # A frame is counted after its write returns, which may be after it has arrived.
        await eventually(lambda: all(counted.messages_sent == 2000 for counted in counters))
        # Two peers; all messages of one loop turn were sent in one frame.
        assert [(c.messages_sent, c.frames_sent, c.dropped, c.refused) for c in counters] == [(2000, 2, 0, 0)] * 3
        assert [c.bytes_sent for c in counters] == [c.bytes_received for c in counters]


async def test_large_messages_are_sent_in_bounded_frames(tmp_path: Path) -> None:
    a, b = Node("a", 1), Node("b", 2)
    async with connected(tmp_path, a, b) as (transport, there):
        messages = [bytes([number]) * (700 << 10) for number in range(12)]
        for message in messages:
            transport.send(2, 7, message)
        await eventually(lambda: len(b.received) == 12)
        assert [message for _, message in b.received] == messages
        assert there.counters.frames_received == 12 // (FRAME_BYTES // len(messages[0]))
        longest = bytes(MESSAGE_BYTES_MAX)
        transport.send(2, 7, longest)
        await eventually(lambda: len(b.received) == 13)
        assert b.received[-1][1] == longest
        transport.send(2, 7, longest + b"!")
        assert transport.counters.dropped == 1
        await eventually(lambda: [raft_id for raft_id, _ in a.lost] == [2])


async def test_messages_reach_a_peer_that_restarts_with_another_raft_id(tmp_path: Path) -> None:
    a = Node("a", 1)
    async with started(a, settings(tmp_path / "a")) as transport:
        async with started(Node("b", 2), settings(tmp_path / "b")) as there:
            transport.add("b", f"127.0.0.1:{there.port}")
            await eventually(lambda: reaches(transport, 2))
        await eventually(lambda: not reaches(transport, 2))
        transport.send(2, 1, b"lost")
        await eventually(lambda: a.lost and a.lost[-1][0] == 2)
        again = Node("b", 3)
        async with started(again, settings(tmp_path / "b", there.port)):
            await eventually(lambda: reaches(transport, 3), 3)
            transport.send(2, 1, b"for a node that is gone")
            transport.send(3, 1, b"for the new one")
            await eventually(lambda: again.received)
            assert again.received == [(1, b"for the new one")]
            assert transport.counters.dropped == 2
            assert (transport.counters.connects, transport.counters.reconnects) == (2, 1)


async def test_lost_messages_are_reported_at_a_limited_rate(tmp_path: Path) -> None:
    a = Node("a", 1)
    async with started(a, settings(tmp_path)) as transport:
        for _ in range(1000):
            transport.send(2, 1, b"nobody")
        assert a.lost == []  # never from within the call
        await eventually(lambda: a.lost)
        while transport.counters.dropped < 3000 or len(a.lost) < 3:
            transport.send(2, 1, b"nobody")
            await asyncio.sleep(0)
        times = [time for _, time in a.lost]
        assert all(later - earlier > UNREACHABLE_SECONDS / 2 for earlier, later in pairwise(times))


async def test_messages_to_a_peer_that_stops_reading_are_dropped_beyond_the_buffer(tmp_path: Path) -> None:
    a = Node("a", 1)
    async with started(a, settings(tmp_path)) as transport, _deaf_node() as address:
        transport.add("deaf", address)
        await eventually(lambda: reaches(transport, 9))
        message = bytes(MIB)
        while transport.counters.dropped < 100:
            transport.send(9, 1, message)
            await asyncio.sleep(0)
        (peer,) = transport.peers()
        assert BUFFER_BYTES_MAX - 2 * MIB < peer.buffered_bytes <= BUFFER_BYTES_MAX
        await eventually(lambda: a.lost)
        transport.remove("deaf")
        assert (transport.peers(), transport.counters.dropped > 150) == ([], True)


@asynccontextmanager
async def _deaf_node() -> AsyncIterator[str]:
    """Runs a node that identifies itself and reads no further."""

    async def deliver(_: object, context: Any) -> None:
        await context.read()
        await context.write(raft_pb2.DeliverResponse(hello=write_hello(Node("deaf", 9).me)))
        await asyncio.Event().wait()

    server = new_server([], CONNECTIONS_MAX)
    handlers: dict[str, Any] = {
        "Deliver": grpc.stream_stream_rpc_method_handler(
            deliver,
            request_deserializer=raft_pb2.DeliverRequest.FromString,
            response_serializer=raft_pb2.DeliverResponse.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_silent_peer_is_detected_and_reconnected(tmp_path: Path) -> None:
    a, b = Node("a", 1), Node("b", 2)
    async with (
        started(b, settings(tmp_path / "b")) as there,
        Proxy(there.port) as proxy,
        started(a, settings(tmp_path / "a"), {"b": proxy.address}) as transport,
    ):
        await eventually(lambda: reaches(transport, 2))
        proxy.freeze()
        transport.send(2, 1, b"into the void")
        await eventually(lambda: not reaches(transport, 2), 8)
        await eventually(lambda: a.lost)
        proxy.thaw()
        await eventually(lambda: reaches(transport, 2), 4)
        transport.send(2, 1, b"hello again")
        await eventually(lambda: (1, b"hello again") in b.received)


async def test_peer_from_another_cluster_is_rejected(tmp_path: Path) -> None:
    a, b = Node("a", 1, b"one"), Node("b", 2, b"two")
    async with started(b, settings(tmp_path / "b")) as there, started(a, settings(tmp_path / "a")) as transport:
        transport.add("b", f"127.0.0.1:{there.port}")
        there.add("a", f"127.0.0.1:{transport.port}")
        async with raw_call(there.port, "Deliver") as call:
            code, details = await refusal_of(call, raft_pb2.DeliverRequest(hello=write_hello(a.me)))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert b"one".hex() in details
        transport.send(2, 1, b"?")
        await eventually(lambda: a.lost)
        assert (a.met_peers, b.met_peers, b.received) == ([], [], [])
        assert not reaches(transport, 2)


async def test_node_without_a_cluster_adopts_the_id_of_its_peer(tmp_path: Path) -> None:
    a, b = Node("a", 1), Node("b", 2, b"")
    async with connected(tmp_path, a, b) as (transport, there):
        transport.send(2, 1, b"join us")
        await eventually(lambda: b.received)
        assert b.me.cluster_id == b"cluster"
        there.send(1, 1, b"with pleasure")
        await eventually(lambda: a.received)
        assert b.me in [peer for peer, _ in a.met_peers]


@pytest.mark.parametrize("changed", ["sender", "receiver"])
async def test_peer_whose_cluster_id_changes_is_no_longer_heard(tmp_path: Path, changed: str) -> None:
    a, b = Node("a", 1), Node("b", 2)
    async with connected(tmp_path, a, b) as (transport, _):
        transport.send(2, 1, b"first")
        await eventually(lambda: b.received)
        node = a if changed == "sender" else b
        node.me = replace(node.me, cluster_id=b"elsewhere")
        transport.send(2, 1, b"second")
        await eventually(lambda: not reaches(transport, 2))
        assert b.received == [(1, b"first")]


def _frame(*messages: tuple[int, int, bytes], **changes: Any) -> raft_pb2.DeliverRequest:
    hello = write_hello(Node("x", 5).me)
    for name, value in changes.items():
        setattr(hello, name, value)
    return raft_pb2.DeliverRequest(
        hello=hello,
        messages=[
            raft_pb2.RaftMessage(group_id=1, from_id=f, to_id=to, content=content) for f, to, content in messages
        ],
    )


@pytest.mark.parametrize(
    ("frame", "code", "word"),
    [
        (raft_pb2.DeliverRequest(), grpc.StatusCode.INVALID_ARGUMENT, "hello"),
        (_frame((5, 1, b"?"), protocol=2), grpc.StatusCode.FAILED_PRECONDITION, "version"),
        (_frame((5, 1, b"?"), name=""), grpc.StatusCode.INVALID_ARGUMENT, "hello.name"),
        (_frame((5, 1, b"?"), name="x" * 256), grpc.StatusCode.INVALID_ARGUMENT, "hello.name"),
        (_frame((5, 1, b"?"), raft_id=0), grpc.StatusCode.INVALID_ARGUMENT, "hello.raft_id"),
        (_frame((5, 1, b"?"), cluster_id=b"c" * 65), grpc.StatusCode.INVALID_ARGUMENT, "hello.cluster_id"),
        (_frame((5, 1, b"?"), http="h" * 1025), grpc.StatusCode.INVALID_ARGUMENT, "hello.http"),
        (_frame((5, 1, bytes(FRAME_BYTES_MAX))), grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max"),
    ],
)
async def test_malformed_frame_is_rejected(
    tmp_path: Path, frame: raft_pb2.DeliverRequest, code: grpc.StatusCode, word: str
) -> None:
    a = Node("a", 1)
    async with started(a, settings(tmp_path)) as transport, raw_call(transport.port, "Deliver") as call:
        assert (await refusal_of(call, frame))[0] is code
        assert word in await call.details()
        assert (a.met_peers, a.received) == ([], [])


async def test_message_with_a_wrong_sender_or_recipient_is_dropped(tmp_path: Path) -> None:
    a = Node("a", 1)
    async with started(a, settings(tmp_path)) as transport, raw_call(transport.port, "Deliver") as call:
        await call.write(_frame((5, 2, b"for another"), (6, 1, b"of another"), (5, 1, b"right")))
        assert (await call.read()).hello == write_hello(a.me)
        await eventually(lambda: a.received)
        assert (a.received, transport.counters.refused) == ([(1, b"right")], 2)
        assert a.met_peers == [(Node("x", 5).me, "")]


async def test_connected_nodes_learn_of_a_changed_identity_and_of_the_end_of_a_stream(tmp_path: Path) -> None:
    a, b = Node("a", 1), Node("b", 2)
    async with connected(tmp_path, a, b) as (transport, there):
        a.me = replace(a.me, joins=True)
        transport.introduce()
        await eventually(lambda: (a.me, "") in b.met_peers)
        transport.introduce()  # unchanged: an empty frame
        transport.send(2, 1, b"for b")
        await eventually(lambda: b.received)
        await there.stop()
        await eventually(lambda: a.left == ["b"])


async def test_address_that_leads_to_another_node_is_not_used(tmp_path: Path) -> None:
    a, b = Node("a", 1), Node("b", 2)
    async with started(b, settings(tmp_path / "b")) as there, started(a, settings(tmp_path / "a")) as transport:
        transport.add("c", f"127.0.0.1:{there.port}")
        transport.add("d", f"127.0.0.1:{transport.port}")
        transport.add("a", "127.0.0.1:1")
        # Connecting is retried: no stream stayed open.
        await eventually(lambda: len(b.met_peers) > 1 and len(a.met_peers) > 1)
        assert {peer for peer, _ in a.met_peers} == {a.me}
        assert [(peer.name, peer.raft_id) for peer in transport.peers()] == [("c", 0), ("d", 0)]


async def test_node_with_a_copied_disk_is_rejected(tmp_path: Path) -> None:
    a, b, c = Node("a", 1), Node("b", 2), Node("c", 2)
    async with connected(tmp_path, a, b) as (transport, _), started(c, settings(tmp_path / "c")) as copy:
        transport.add("c", f"127.0.0.1:{copy.port}")
        await eventually(lambda: len(c.met_peers) > 1)  # retried: no stream stayed open
        transport.send(2, 1, b"for b")
        await eventually(lambda: b.received)
        assert [(peer.name, peer.raft_id) for peer in transport.peers()] == [("b", 2), ("c", 0)]
        assert c.received == []


async def test_addresses_can_change_while_the_transport_runs(tmp_path: Path) -> None:
    a, b, moved = Node("a", 1), Node("b", 2), Node("b", 2)
    async with connected(tmp_path, a, b) as (transport, _), started(moved, settings(tmp_path / "moved")) as there:
        transport.add("b", f"127.0.0.1:{there.port}")
        assert not reaches(transport, 2)
        await eventually(lambda: reaches(transport, 2))
        transport.send(2, 1, b"to the new address")
        await eventually(lambda: moved.received)
        transport.remove("b")
        transport.remove("nobody")
        assert transport.peers() == []
        transport.send(2, 1, b"to nobody")
        await eventually(lambda: a.lost)
        assert (b.received, len(moved.received)) == ([], 1)


async def test_error_names_the_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"127.0.0.1:{port}.*in use"):
            await Transport(settings(tmp_path, port), {}, Node("a", 1)).start()


async def test_error_names_the_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TransportError, match="file/incoming: Not a directory"):
        await Transport(settings(tmp_path / "file" / "incoming"), {}, Node("a", 1)).start()


async def test_connection_lost_while_writing_is_always_reopened(tmp_path: Path) -> None:
    a, b = Node("a", 1), Node("b", 2)
    async with (
        started(b, settings(tmp_path / "b")) as there,
        Proxy(there.port) as proxy,
        started(a, settings(tmp_path / "a"), {"b": proxy.address}) as transport,
    ):
        for _ in range(CUTS):
            await eventually(lambda: reaches(transport, 2))
            came = len(b.received)
            while len(b.received) == came:
                transport.send(2, 0, b"m")
                await asyncio.sleep(0)
            proxy.cut()
            while reaches(transport, 2):
                transport.send(2, 0, b"m")
                await asyncio.sleep(0)
