"""A proxy on loopback that carries TCP and cuts every connection at an interval, as a bad network does."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final, Self

CHUNK_BYTES: Final = 1 << 16
START_SECONDS_MAX: Final = 30.0


class CuttingProxy:
    """The proxy, on a thread of its own.

    Attributes:
        address: Where it listens.
        cuts: Number of cuts so far; a moment at which there is no connection is none.
        carried: Bytes carried from the client's side and from the server's, over all connections.
        cut_at: Seconds of a monotonic clock at which the last cut was.
    """

    def __init__(self, target: str, interval_seconds: float, cuts_max: int) -> None:
        """Starts it.

        Args:
            target: Where connections lead.
            interval_seconds: Time between cuts.
            cuts_max: Number of cuts after which connections stay.
        """
        self.cuts = 0
        self.carried = 0
        self.cut_at = time.monotonic()
        self.address = ""
        self._target, self._interval, self._cuts_max = target, interval_seconds, cuts_max
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._cutting: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(START_SECONDS_MAX)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(START_SECONDS_MAX)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._cutting = asyncio.create_task(self._cut())

    async def _stop(self) -> None:
        assert self._cutting is not None
        self._cutting.cancel()
        self._server.close()
        for end in list(self._ends):
            end.transport.abort()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _cut(self) -> None:
        while self.cuts < self._cuts_max:
            await asyncio.sleep(self._interval)
            if self._ends:
                self.cuts += 1
                self.cut_at = time.monotonic()
                for end in list(self._ends):
                    end.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._ends.add(writer)
        try:
            host, _, port = self._target.rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            ends.add(far_writer)
            self._ends.add(far_writer)
            ways = {
                asyncio.create_task(self._carry(reader, far_writer)),
                asyncio.create_task(self._carry(far_reader, writer)),
            }
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # the target is down, so the client's connection is closed
        finally:
            for end in ends:
                self._ends.discard(end)
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            self.carried += len(chunk)
            writer.write(chunk)
            await writer.drain()
