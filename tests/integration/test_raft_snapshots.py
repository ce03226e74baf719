"""Snapshots between nodes over real connections."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from codeq_internal.v1 import raft_pb2
from codeq_server.replication.raft.snapshot_files import CHUNK_BYTES
from codeq_server.replication.raft.transport import Transport
from codeq_server.replication.raft.wire import write_hello
from raft_nodes import (
    Node,
    Proxy,
    Snapshot,
    connected,
    eventually,
    make_snapshot,
    raw_call,
    reaches,
    refusal_of,
    settings,
    started,
)

MIB = 1 << 20
SIZES = (3 * MIB + 17, 1, CHUNK_BYTES, 700_000)


@asynccontextmanager
async def two_nodes(folder: Path, **further: Any) -> AsyncIterator[tuple[Node, Transport, Node, Transport]]:
    """Runs a sender and a receiver."""
    a, b = Node("a", 1), Node("b", 2)
    async with connected(folder, a, b, **further) as (transport, there):
        yield a, transport, b, there


async def send(sender: tuple[Node, Transport], snapshot: Snapshot, group: int = 7) -> bool:
    """Sends a snapshot to node 2 and returns whether it was installed."""
    node, transport = sender
    before = len(node.sent)
    transport.send_snapshot(2, group, b"message", snapshot.folder)
    await eventually(lambda: len(node.sent) > before)
    assert node.sent[before][:2] == (group, 2)
    return node.sent[before][2]


def incoming(folder: Path, receiver: str = "b") -> list[Path]:
    """Returns the files in the receiver's folder for snapshots."""
    return sorted((folder / receiver).rglob("*"))


@pytest.mark.parametrize("sizes", [SIZES, ()], ids=["files", "none"])
async def test_snapshot_arrives_intact_and_leaves_no_temporary_files(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    snapshot = make_snapshot(tmp_path / "out", sizes)
    async with two_nodes(tmp_path) as (a, transport, b, there):
        assert await send((a, transport), snapshot)
        assert b.installed == [(7, b"message", snapshot.files)]
        assert incoming(tmp_path) == []
        assert transport.counters.snapshot_bytes_sent == there.counters.snapshot_bytes_received == snapshot.size
        assert (transport.counters.snapshots_sent, there.counters.snapshots_received) == (1, 1)


async def test_interrupted_snapshot_transfer_resumes_where_it_stopped(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    a, b = Node("a", 1), Node("b", 2)
    async with (
        started(b, settings(tmp_path / "b")) as there,
        Proxy(there.port) as proxy,
        started(a, settings(tmp_path / "a"), {"b": proxy.address}) as transport,
    ):
        for cut in (1 * MIB, 1 * MIB, int(1.8 * MIB)):
            await eventually(lambda: reaches(transport, 2))
            proxy.bytes_left = cut
            assert not await send((a, transport), snapshot)
            assert b.installed == []
            await eventually(lambda: not reaches(transport, 2))
        proxy.bytes_left = None
        await eventually(lambda: reaches(transport, 2))
        assert await send((a, transport), snapshot)
        assert b.installed == [(7, b"message", snapshot.files)]
        # No byte was received twice.
        assert there.counters.snapshot_bytes_received == snapshot.size
        assert (transport.counters.snapshots_failed, transport.counters.snapshots_sent) == (3, 1)
        assert incoming(tmp_path) == []


async def test_corrupted_snapshot_file_is_rejected_and_sent_again(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    file = snapshot.folder / "000003.sst"
    content = file.read_bytes()
    async with two_nodes(tmp_path) as (a, transport, b, there):
        file.write_bytes(content[:-5] + b"!" + content[-4:])
        assert not await send((a, transport), snapshot)
        assert b.installed == []
        assert [path.name for path in incoming(tmp_path)[1:]] == ["000000.sst", "000001.sst", "000002.sst"]
        file.write_bytes(content)
        assert await send((a, transport), snapshot)
        assert b.installed == [(7, b"message", snapshot.files)]
        assert there.counters.snapshot_bytes_received == snapshot.size + len(content)


@pytest.mark.parametrize("damage", ["manifest", "file", "short"])
async def test_incomplete_snapshot_is_not_sent(tmp_path: Path, damage: str) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    if damage == "short":
        (snapshot.folder / "000000.sst").write_bytes(b"short")
    else:
        (snapshot.folder / ("manifest.json" if damage == "manifest" else "000002.sst")).unlink()
    async with two_nodes(tmp_path) as (a, transport, b, _):
        assert not await send((a, transport), snapshot)
        assert b.installed == []


async def test_snapshot_for_a_disconnected_node_is_not_sent(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    a = Node("a", 1)
    async with started(a, settings(tmp_path / "a")) as transport:
        transport.send_snapshot(2, 7, b"message", snapshot.folder)
        assert a.sent == []  # never from within the call
        await eventually(lambda: a.sent == [(7, 2, False)])


async def test_unwanted_snapshot_is_removed(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    async with two_nodes(tmp_path) as (a, transport, b, there):
        b.refusal = ValueError("older than what is here")
        assert not await send((a, transport), snapshot)
        assert (incoming(tmp_path), there.counters.snapshots_received) == ([], 0)
        async with raw_call(there.port, "InstallSnapshot") as call:
            code, details = await refusal_of(call, offer(b'{"files": []}'))
        assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "not installed: older than what is here")


async def test_snapshots_of_several_groups_are_sent_one_at_a_time(tmp_path: Path) -> None:
    snapshots = [make_snapshot(tmp_path / f"out{group}", SIZES, group) for group in range(3)]
    async with two_nodes(tmp_path) as (a, transport, b, _):
        b.may_install.clear()
        for group, snapshot in enumerate(snapshots):
            transport.send_snapshot(2, group, b"message", snapshot.folder)
        await b.installing.wait()
        assert {path.name[:8] for path in incoming(tmp_path) if path.is_dir()} == {"00000000"}
        b.may_install.set()
        await eventually(lambda: len(a.sent) == 3)
        assert a.sent == [(group, 2, True) for group in range(3)]
        assert [files for _, _, files in b.installed] == [snapshot.files for snapshot in snapshots]


async def test_newer_snapshot_of_a_group_replaces_queued_and_running_transfers(tmp_path: Path) -> None:
    first, second, third = (make_snapshot(tmp_path / f"out{number}", SIZES, number) for number in range(3))
    async with two_nodes(tmp_path) as (a, transport, b, there):
        transport.send_snapshot(2, 7, b"first", first.folder)
        await eventually(lambda: there.counters.snapshot_bytes_received)
        transport.send_snapshot(2, 7, b"second", second.folder)
        transport.send_snapshot(2, 7, b"third", third.folder)
        await eventually(lambda: a.sent)
        assert a.sent == [(7, 2, True)]
        assert b.installed == [(7, b"third", third.files)]
        assert incoming(tmp_path) == []


async def test_messages_are_delivered_during_a_snapshot_transfer(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", (64 * MIB,))
    async with two_nodes(tmp_path) as (a, transport, b, there):
        transport.send_snapshot(2, 7, b"message", snapshot.folder)
        await eventually(lambda: there.counters.snapshot_bytes_received)
        transport.send(2, 1, b"in between")
        await eventually(lambda: b.received)
        assert a.sent == []
        await eventually(lambda: a.sent == [(7, 2, True)])


async def test_complete_snapshot_is_installed_after_its_sender_disconnects(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    b = Node("b", 2)
    b.may_install.clear()
    async with started(b, settings(tmp_path / "b")) as there:
        a = Node("a", 1)
        async with started(a, settings(tmp_path / "a"), {"b": f"127.0.0.1:{there.port}"}) as transport:
            await eventually(lambda: reaches(transport, 2))
            transport.send_snapshot(2, 7, b"message", snapshot.folder)
            await b.installing.wait()
        async with raw_call(there.port, "InstallSnapshot") as call:
            code, details = await refusal_of(call, offer(b'{"files": []}'))
        assert (code, "is being installed" in details) == (grpc.StatusCode.UNAVAILABLE, True)
        b.may_install.set()
        await eventually(lambda: there.counters.snapshots_received)
        assert b.installed == [(7, b"message", snapshot.files)]
        await eventually(lambda: incoming(tmp_path) == [])
        assert a.sent == []


# ------------------------------------------------------------------------------------------- misbehaving callers


def offer(manifest: bytes, group: int = 7, **changes: Any) -> raft_pb2.InstallSnapshotRequest:
    """Returns the first frame of a snapshot for node 2."""
    message = raft_pb2.RaftMessage(group_id=group, from_id=5, to_id=2, content=b"message")
    for name, value in changes.items():
        setattr(message, name, value)
    said = raft_pb2.SnapshotOffer(hello=write_hello(Node("x", 5).me), message=message, manifest=manifest)
    return raft_pb2.InstallSnapshotRequest(offer=said)


def chunk(file: int, offset: int, content: bytes) -> raft_pb2.InstallSnapshotRequest:
    """Returns a part of a file."""
    return raft_pb2.InstallSnapshotRequest(chunk=raft_pb2.SnapshotChunk(file=file, offset=offset, content=content))


async def test_stalled_snapshot_transfer_gives_way_to_another(tmp_path: Path) -> None:
    stalled = make_snapshot(tmp_path / "stalled", SIZES, 1)
    snapshot = make_snapshot(tmp_path / "out", SIZES, 2)
    async with two_nodes(tmp_path) as (a, transport, b, there), raw_call(there.port, "InstallSnapshot") as call:
        await call.write(offer(stalled.manifest))
        assert (await call.read()).wanted == raft_pb2.SnapshotPosition(file=0, offset=0)
        await call.write(chunk(0, 0, stalled.files["000000.sst"][:1000]))
        await eventually(lambda: there.counters.snapshot_bytes_received == 1000)
        assert await send((a, transport), snapshot)
        assert (await refusal_of(call))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [files for _, _, files in b.installed] == [snapshot.files]
        assert incoming(tmp_path) == []


def manifest(**changes: object) -> bytes:
    """Returns a manifest with one file."""
    file = {"name": "000001.sst", "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()} | changes
    return json.dumps({"files": [file]}).encode()


@pytest.mark.parametrize(
    "content",
    [
        *(
            manifest(name=name)
            for name in (
                "../evil",
                "/tmp/evil",
                "a/b.sst",
                "..",
                ".",
                ".part",
                "",
                "a\0.sst",
                "a\n",
                "manifest.json",
                "x" * 200,
                7,
                None,
                "a\\b",
                "é.sst",
            )
        ),
        *(manifest(bytes=size) for size in (0, -1, 1 << 41, 1.5, "1", True, None)),
        *(manifest(sha256=digest) for digest in ("", "0" * 63, "G" * 64, "A" * 64, None)),
        json.dumps({"files": json.loads(manifest())["files"] * 2}).encode(),
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"files": null}',
        b'{"files": [7]}',
        b'{"files": [{}]}',
        b"\xff",
        b"[" * 100_000,
        b" " * (5 * MIB),
    ],
    ids=lambda content: repr(content[:80]),
)
async def test_malformed_snapshot_manifest_is_rejected(tmp_path: Path, content: bytes) -> None:
    b = Node("b", 2)
    async with started(b, settings(tmp_path / "b")) as there, raw_call(there.port, "InstallSnapshot") as call:
        code, details = await refusal_of(call, offer(content), chunk(0, 0, b"x"))
        assert (code, details.split(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "manifest")
        assert b.installed == []
    assert list(incoming(tmp_path.parent, tmp_path.name)) == [tmp_path / "b"]


@pytest.mark.parametrize(
    "parts",
    [
        [chunk(1, 0, b"x")],
        [chunk(0, 1, b"x")],
        [chunk(0, 0, b"")],
        [chunk(0, 0, b"xx")],
        [chunk(0, 0, bytes(CHUNK_BYTES + 1))],
        [raft_pb2.InstallSnapshotRequest()],
    ],
)
async def test_unrequested_snapshot_chunk_is_rejected(
    tmp_path: Path, parts: list[raft_pb2.InstallSnapshotRequest]
) -> None:
    b = Node("b", 2)
    async with started(b, settings(tmp_path)) as there, raw_call(there.port, "InstallSnapshot") as call:
        code, details = await refusal_of(call, offer(manifest()), *parts)
        assert (code, details[:5], b.installed) == (grpc.StatusCode.INVALID_ARGUMENT, "chunk", [])


@pytest.mark.parametrize("changes", [{"to_id": 3}, {"from_id": 6}])
async def test_snapshot_for_or_from_another_node_is_rejected(tmp_path: Path, changes: dict[str, int]) -> None:
    b = Node("b", 2)
    async with started(b, settings(tmp_path)) as there, raw_call(there.port, "InstallSnapshot") as call:
        code, details = await refusal_of(call, offer(manifest(), **changes))
        assert (code, details[:13]) == (grpc.StatusCode.FAILED_PRECONDITION, "offer.message")
        assert (b.met_peers, b.installed) == ([], [])


async def test_snapshot_from_another_cluster_is_rejected(tmp_path: Path) -> None:
    b = Node("b", 2, b"another")
    async with started(b, settings(tmp_path)) as there, raw_call(there.port, "InstallSnapshot") as call:
        assert (await refusal_of(call, offer(manifest())))[0] is grpc.StatusCode.FAILED_PRECONDITION
        assert (b.met_peers, b.installed) == ([], [])


async def test_snapshot_larger_than_the_available_disk_space_is_rejected(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    async with two_nodes(tmp_path, reserve_bytes=1 << 60) as (a, transport, b, there):
        assert not await send((a, transport), snapshot)
        async with raw_call(there.port, "InstallSnapshot") as call:
            assert (await refusal_of(call, offer(manifest())))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        transport.send(2, 1, b"still there")
        await eventually(lambda: b.received)


async def test_full_disk_aborts_a_snapshot_transfer_and_frees_its_space(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "out", SIZES)
    async with two_nodes(tmp_path) as (a, transport, b, there):
        folder = tmp_path / "b" / f"{7:08x}-{hashlib.sha256(snapshot.manifest).hexdigest()[:32]}"
        folder.mkdir()
        (folder / ".part").symlink_to("/dev/full")
        async with raw_call(there.port, "InstallSnapshot") as call:
            part = chunk(0, 0, snapshot.files["000000.sst"][:1000])
            code, details = await refusal_of(call, offer(snapshot.manifest), part)
        assert (code, "No space left" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        assert incoming(tmp_path) == []
        assert await send((a, transport), snapshot)
        assert [files for _, _, files in b.installed] == [snapshot.files]


async def test_incomplete_snapshot_is_removed_when_the_next_one_arrives(tmp_path: Path) -> None:
    b = Node("b", 2)
    async with started(b, settings(tmp_path / "b")) as there:
        for group, mark in ((7, 1), (8, 1), (7, 2)):
            async with raw_call(there.port, "InstallSnapshot") as call:
                await call.write(offer(make_snapshot(tmp_path / f"out{group}{mark}", SIZES, mark).manifest, group))
                await call.read()
                call.cancel()
            await asyncio.sleep(0)
        names = [path.name for path in incoming(tmp_path)]
        assert [name[:8] for name in names] == ["00000007", "00000008"]
        assert names[0][9:] == hashlib.sha256((tmp_path / "out72" / "manifest.json").read_bytes()).hexdigest()[:32]
