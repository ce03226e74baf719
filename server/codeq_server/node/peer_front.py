"""The port for other nodes of a node with several groups: reads which group a connection is for, and passes it on.

The parent of the processes runs it. A connection is tunnelled to the loopback port of the process of its group, which
does everything else: TLS, secrets, limits. gRPC cannot take over a connection that another process has accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import structlog

from codeq_server.config import Address
from codeq_server.node.listeners import ListenError, bound
from codeq_server.node.place import LOOPBACK
from codeq_server.replication.raft.routes import (
    ACCEPTED,
    HEAD_BYTES_MAX,
    HEAD_END,
    BadHeadError,
    Service,
    read_head,
)
from codeq_server.replication.raft.wire import LOG_SECONDS, Seldom

HEAD_SECONDS: Final = 5.0
"""Time for a new connection to say which group it is for, and for the process of that group to accept it."""
HEADLESS_MAX: Final = 64
"""Maximum connections that have not said so yet; at the limit, the oldest of them is closed."""
TUNNELS_MAX: Final = 8192
"""Maximum connections, if this process may open so many files; further ones are closed at once. Each group has lower
limits of its own."""
BUFFER_BYTES: Final = 1 << 20
"""Bytes in one direction of a connection beyond which no more are read until some are sent."""

_log = structlog.get_logger()


class PeerFront:
    """Accepts connections of other nodes.

    Args:
        ports: Loopback ports of the processes by service, each in the order of groups.
        tunnels_max: Maximum number of connections.
    """

    def __init__(self, ports: Mapping[Service, Sequence[int]], tunnels_max: int = TUNNELS_MAX) -> None:
        self._ports, self._tunnels_max = ports, tunnels_max
        self._groups = len(ports["raft"])
        self._server: asyncio.Server | None = None
        self._open: set[_Caller] = set()
        self._headless: dict[_Caller, None] = {}
        """Connections that have not said which group they are for, oldest first."""
        self._logged = Seldom(LOG_SECONDS)

    async def start(self, address: Address) -> int:
        """Listens; returns the port.

        Raises:
            ListenError: The port is in use, or the host is not local.
        """
        listener = bound(address)
        try:
            self._server = await asyncio.get_running_loop().create_server(lambda: _Caller(self), sock=listener)
        except OSError as error:
            listener.close()
            raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from None
        port: int = listener.getsockname()[1]
        return port

    def stop(self) -> None:
        """Stops listening, and closes all connections."""
        if self._server is not None:
            self._server.close()
        for caller in list(self._open):
            caller.close()

    def admit(self, caller: _Caller) -> str:
        """Counts a new connection; returns why there is no room for it, empty: there is."""
        if len(self._open) >= self._tunnels_max:
            return f"{self._tunnels_max} connections of other nodes are open, the limit"
        self._open.add(caller)
        self._headless[caller] = None
        if len(self._headless) > HEADLESS_MAX:
            next(iter(self._headless)).close()
        return ""

    def forget(self, caller: _Caller) -> None:
        """Uncounts a connection that is closed."""
        self._open.discard(caller)
        self._headless.pop(caller, None)

    def headed(self, caller: _Caller) -> None:
        """Notes that the process of its group has accepted a connection."""
        self._headless.pop(caller, None)

    def port_for(self, head: bytes) -> int:
        """Returns the port to which the head of a connection leads.

        Raises:
            BadHeadError: It leads nowhere.
        """
        route = read_head(head, self._groups)
        return self._ports[route.service][route.group]

    def refused(self, peer: Any, why: str) -> None:
        """Logs that a connection is closed, once in LOG_SECONDS for each reason."""
        if self._logged.allows(why):
            _log.warning("peer_connection_refused", peer=str(peer), reason=why)


class _End(asyncio.Protocol):
    """One end of a tunnel: what it receives is sent at the other end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.send(data)

    def eof_received(self) -> bool:
        if self.other is not None and self.other.transport is not None and self.other.transport.can_write_eof():
            self.other.transport.write_eof()
            return True
        return False

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def send(self, data: bytes) -> None:
        """Sends at this end."""
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        """Closes this end at once."""
        if self.transport is not None:
            self.transport.abort()


class _Caller(_End):
    """The end of another node."""

    def __init__(self, front: PeerFront) -> None:
        super().__init__()
        self._front = front
        self._head = b""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if why := self._front.admit(self):
            self._refuse(why)
            return
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self._expire)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            super().data_received(data)
            return
        self._head += data
        if self._task is not None:
            return
        end = self._head.find(HEAD_END)
        if 0 <= end <= HEAD_BYTES_MAX:
            self._begin(end + len(HEAD_END))
        elif len(self._head) > HEAD_BYTES_MAX:
            self._refuse("it does not name a group: every node needs the same numShards")

    def connection_lost(self, error: Exception | None) -> None:
        self._front.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        super().connection_lost(error)

    def _begin(self, length: int) -> None:
        head, self._head = self._head[:length], self._head[length:]
        assert self.transport is not None
        try:
            port = self._front.port_for(head)
        except BadHeadError as why:
            self._refuse(str(why))
            return
        self.transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._connect(port), name="peer-tunnel")

    async def _connect(self, port: int) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Process(self), LOOPBACK, port)
        except OSError:
            self.close()  # it is being started; the other node tries again

    def join(self, process: _Process) -> None:
        """Begins to pass on, to and from the process of the group."""
        self.other = process
        if self._timer is not None:
            self._timer.cancel()
        self._front.headed(self)
        if self.transport is None or self.transport.is_closing():
            process.close()
            return
        self.transport.write(ACCEPTED)
        if self._head:
            process.send(self._head)
        self._head = b""
        self.transport.resume_reading()

    def _refuse(self, why: str) -> None:
        if self.transport is not None:
            self._front.refused(self.transport.get_extra_info("peername"), why)
        self.close()

    def _expire(self) -> None:
        missing = "it did not name a group" if self._task is None else "the process of its group did not accept it"
        self._refuse(f"{missing} within {HEAD_SECONDS:g} s")


class _Process(_End):
    """The end of the process of a group."""

    def __init__(self, caller: _Caller) -> None:
        super().__init__()
        self.other = self._caller = caller

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._caller.join(self)  # before anything that the process sends
