"""Opens the streams of a worker: to any process of a server, or to that of one shard.

A server with several shards has a process for each, and connections lead to any of them. Every process serves a stream
of any shard; one that does not have the shard needs a hop for each task. So the SDK opens connections until one leads
to the process of the shard, and looks for it again from time to time if none does.
"""

from __future__ import annotations

import contextlib
from typing import Final, NamedTuple

from codeq import errors, streams
from codeq.async_transport import AsyncCall, AsyncChannel
from codeq.endpoint import Endpoint
from codeq.handshake import check_protocol, client_info
from codeq.rpc import Metadata
from codeq.v1 import worker_service_pb2 as pb
from codeq.worker_options import WorkerOptions

_METHOD: Final = "/codeq.v1.WorkerService/Work"

TRIES_MAX: Final = 16
"""Connections opened in a row to reach the process of a shard; then another one is kept wherever it leads."""

LOOK_SECONDS_MIN: Final = 10.0
"""Pause before the process of a shard is looked for again; each further pause is twice the previous one."""

LOOK_SECONDS_MAX: Final = 300.0
"""Upper limit of these pauses."""


class Opened(NamedTuple):
    """An open stream. Whoever has it closes the channel."""

    channel: AsyncChannel
    call: AsyncCall
    first: pb.WorkResponse


class Opening:
    """Opens one stream at a time.

    Attributes:
        choice: The only shard whose tasks the stream takes; None: those of all.
        is_first: Whether the stream is the first of those that a worker has at the same time.
        address: The server of the latest stream.
        look_seconds: Pause before the process of the shard is looked for again; 0: it serves the latest stream.
    """

    def __init__(self, endpoint: Endpoint, options: WorkerOptions, choice: pb.ShardChoice | None) -> None:
        self.choice = choice
        self.address = endpoint.address
        self.look_seconds = 0.0
        self._endpoint = endpoint
        self.is_first = choice is None or choice.shard == 0
        self._home = ""  # address at which the process of the shard was met
        hello = pb.WorkerHello(
            name=options.name,
            commands=options.commands,
            lease_seconds=options.lease_seconds,
            client=client_info(),
            only_shard=choice,
        )
        self._request = pb.WorkRequest(hello=hello).SerializeToString()

    async def open(self, metadata: Metadata) -> Opened:
        """Opens a stream: of one shard to its process if one of TRIES_MAX connections leads there, else to any.

        Raises:
            CodeqError, TimeoutError, DecodeError: No server could be reached, or it rejects the stream.
        """
        servers = self._endpoint.servers
        opened = None if self.choice is None else await self._search(list(servers.known), metadata)
        if opened is None:
            opened = await self._open_at(servers.current, metadata)
        welcome = opened.first.welcome
        check_protocol(welcome.protocol, welcome.server_version)
        doubled = min(LOOK_SECONDS_MAX, max(LOOK_SECONDS_MIN, 2 * self.look_seconds))
        self.look_seconds = 0.0 if self._is_best(welcome) else doubled
        return opened

    async def _search(self, known: list[str], metadata: Metadata) -> Opened | None:
        """Returns a stream to the process of the shard; None: there is none among so many."""
        address = self._home or self._endpoint.servers.current
        place = known.index(address) if address in known else 0
        for _ in range(TRIES_MAX):
            address = known[place % len(known)]
            try:
                opened = await self._open_at(address, metadata)
            except streams.CONNECTION_ERRORS as error:
                if len(known) == 1 or streams.is_final(streams.typed(error)):
                    raise
                known.remove(address)  # this node is away
                continue
            if self._is_best(opened.first.welcome):
                self._home = address
                return opened
            await opened.channel.close()
            place += 1
        return None

    async def _open_at(self, address: str, metadata: Metadata) -> Opened:
        self.address = address
        async with contextlib.AsyncExitStack() as closing:
            channel = await closing.enter_async_context(self._endpoint.aio_channel(address))
            call, answer = await streams.open_call(self._endpoint, channel, _METHOD, self._request, metadata)
            first = pb.WorkResponse.FromString(answer)
            if not first.HasField("welcome") or first.welcome.lease_seconds < 1 or first.welcome.credits_max < 1:
                raise errors.BadHandshake("the server's first message is not a valid welcome")
            closing.pop_all()
            return Opened(channel, call, first)

    def _is_best(self, welcome: pb.WorkerWelcome) -> bool:
        """Returns whether no process would serve the stream better: its own does, or there is no such shard."""
        choice = self.choice
        return choice is None or welcome.shards != choice.shards or welcome.shard == choice.shard
