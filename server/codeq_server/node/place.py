"""The place of a process among the processes that serve the shards of one server.

The parent hands it to a child through a pipe, which it keeps open as long as it lives; over another pipe the child says
that it is ready, and that it still runs. The child finds both in the variable CODEQ_SHARD_PROCESS.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Final

from codeq_server.config import Address, Settings
from codeq_server.storage.layout import shard_path

LOOPBACK: Final = "127.0.0.1"
"""Where the processes take calls of each other."""
VARIABLE: Final = "CODEQ_SHARD_PROCESS"
"""Holds the numbers of both pipes. Set by the parent; nothing that an operator sets."""
BEAT: Final = b"\1"
"""Said by a child again and again from when it answers calls."""
BEAT_SECONDS: Final = 1.0
"""Time between two beats of a child."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a process.

    Attributes:
        shard: Index of its shard.
        ports: Loopback port of each shard's process, for calls of the others.
        raft: Loopback port of each shard's member of its group, to which the parent passes the connections of other
            nodes; empty: nothing is replicated.
        peers: Loopback port of each shard's process for the calls of other nodes, likewise.
        secret: Secret that the processes share.
        http: Port of the REST API, which all processes share, like the next two; 0: none.
        worker: Port for workers.
        producer: Port for producers.
    """

    shard: int
    ports: tuple[int, ...]
    secret: str
    http: int
    worker: int
    producer: int
    raft: tuple[int, ...] = ()
    peers: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.ports)

    @property
    def port(self) -> int:
        """Loopback port of this process."""
        return self.ports[self.shard]

    def encoded(self) -> bytes:
        """Returns the place as the parent hands it over."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def settings(self, settings: Settings) -> Settings:
        """Returns the settings of this process, given those of the server."""
        persistence = settings.persistence
        assert persistence.path is not None
        folder, raft = settings.backup_dir, settings.raft
        if raft is not None:
            raft = replace(raft, bind_addr=Address(LOOPBACK, self.raft[self.shard]))
        return replace(
            settings,
            port=self.http,
            worker_stream_addr=_at(settings.worker_stream_addr, self.worker),
            producer_stream_addr=_at(settings.producer_stream_addr, self.producer),
            persistence_config=replace(persistence, path=shard_path(persistence.path, self.shard)),
            backup_dir=None if folder is None else shard_path(folder, self.shard),
            codeq_pprof_addr=settings.pprof_addrs[self.shard],
            ready_file=None,
            raft=raft,
        )


@dataclass(frozen=True, slots=True)
class Child:
    """This process as a child.

    Attributes:
        place: Its place.
        life: File descriptor that reaches its end when the parent is gone.
    """

    place: Place
    life: int
    _ready: int

    def tell_ready(self) -> None:
        """Tells the parent that calls are answered, now and from then on as long as the event loop runs."""
        os.set_blocking(self._ready, False)
        self._beat()

    def _beat(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError):  # the parent has not read for hours, or has ended
            os.write(self._ready, BEAT)
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)


def taken(env: MutableMapping[str, str]) -> Child | None:
    """Takes the place of this process out of the environment; None: it has no parent that serves shards."""
    numbers = env.pop(VARIABLE, "")
    if not numbers:
        return None
    life, ready = map(int, numbers.split(","))
    text = b""
    while not text.endswith(b"\n"):
        text += os.read(life, 65_536)
    for pipe in (life, ready):
        os.set_inheritable(pipe, False)  # noqa: FBT003 - its only form
    content = json.loads(text)
    ports = {name: tuple(content[name]) for name in ("ports", "raft", "peers")}
    return Child(Place(**{**content, **ports}), life, ready)


def _at(address: Address | None, port: int) -> Address | None:
    return None if address is None else Address(address.host, port)
