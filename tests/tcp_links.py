"""Links between nodes that can be cut and slowed down: a separate process that carries TCP from node to node.

    tests/tcp_links.py node-1 node-2 127.0.0.1:7001 node-2 node-1 127.0.0.1:7002 ...

Each argument triple names a source, a target and the target's address. For each, the process listens on a separate
port; it prints the ports in the same order, as one line of JSON. Each line of input is JSON: {"lost": [[from, to],
...], "delay": seconds}. Data sent in a lost direction waits, as it does in a real network until TCP retransmits it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self

CHUNK_BYTES: Final = 1 << 16
CHUNKS_MAX: Final = 64
"""Chunks in flight in one direction of a connection; further chunks wait at their sender."""


class _Network:
    """The links that are lost, and the delay of the others."""

    def __init__(self) -> None:
        self.lost: set[tuple[str, str]] = set()
        self.delay = 0.0
        self.changed = asyncio.Condition()

    async def follow(self) -> None:
        """Executes the commands from stdin until its end."""
        lines = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            said = json.loads(line)
            async with self.changed:
                self.lost = {(source, target) for source, target in said["lost"]}
                self.delay = said["delay"]
                self.changed.notify_all()

    async def carry(self, source: str, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries bytes one way until the connection ends."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)

        async def take() -> None:
            while chunk := await reader.read(CHUNK_BYTES):
                await queue.put((loop.time(), chunk))
            await queue.put((loop.time(), b""))

        taking = asyncio.create_task(take())
        try:
            while True:
                came, chunk = await queue.get()
                await asyncio.sleep(max(0.0, came + self.delay - loop.time()))
                async with self.changed:
                    await self.changed.wait_for(lambda: (source, target) not in self.lost)
                if not chunk:
                    return
                writer.write(chunk)
                await writer.drain()
        finally:
            taking.cancel()

    async def connect(
        self, source: str, target: str, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Carries one connection."""
        host, _, port = address.rpartition(":")
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            ends.append(far_writer)
            there = asyncio.create_task(self.carry(source, target, reader, far_writer))
            back = asyncio.create_task(self.carry(target, source, far_reader, writer))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            for task in (there, back):
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        except OSError:
            pass  # the target is down, so the source's connection is closed
        finally:
            for end in ends:
                end.transport.abort()


async def serve(arguments: list[str]) -> None:
    """Listens for every link and carries until stdin ends."""
    network = _Network()
    ports = []
    for first in range(0, len(arguments), 3):
        source, target, address = arguments[first : first + 3]

        async def connected(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            link: tuple[str, str, str] = (source, target, address),
        ) -> None:
            await network.connect(*link, reader, writer)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await network.follow()


class Links:
    """The process, controlled by a test.

    Attributes:
        books: Addresses where each node finds each other node, by source and target.
    """

    def __init__(self, addresses: Mapping[str, str]) -> None:
        """Links every node with every other.

        Args:
            addresses: Where each node listens.
        """
        pairs = [(source, target) for source in addresses for target in addresses if source != target]
        words = [word for source, target in pairs for word in (source, target, addresses[target])]
        self._process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        self.books = {name: {name: address} for name, address in addresses.items()}
        for (source, target), port in zip(pairs, ports, strict=True):
            self.books[source][target] = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def set(self, lost: Iterable[tuple[str, str]] = (), delay: float = 0.0) -> None:
        """Sets which links, as (from, to), drop everything, and the delay of all others in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"lost": list(lost), "delay": delay}) + "\n")
        self._process.stdin.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
