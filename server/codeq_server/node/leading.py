"""Serves a node's shard while its member of the Raft group is leader: one Serving per leadership."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final

import structlog

from codeq_server.core import keys
from codeq_server.core.parsing import RowReader
from codeq_server.core.shard import Shard
from codeq_server.node.hosting import Present
from codeq_server.replication.log import Log
from codeq_server.replication.raft.leadership import LeaderLog
from codeq_server.replication.raft.member import Member
from codeq_server.services.serving import Serving
from codeq_server.storage.identity import next_identity

HAND_OVER_SECONDS: Final = 1.5
"""Time at shutdown to commit pending decisions and for another member to take over leadership."""
ASK_SECONDS: Final = 0.05
"""Interval between attempts to find a member that can take over."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opening:
    """How a leader opens its shard.

    Attributes:
        shards: Configured number of shards.
        unix_seconds: Returns the current time.
        load: Loads the shard from the store in a given epoch; called on an executor thread.
        serve: Returns the Serving of a shard on a log.
        shard: Index of the shard.
    """

    shards: int
    unix_seconds: Callable[[], int]
    load: Callable[[int], Shard]
    serve: Callable[[Shard, Log], Serving]
    shard: int = 0


class Leading:
    """The successive leaderships of a node.

    Args:
        rows: Rows of the store.
        opening: How the shard is opened.
        present: Sets the Serving of the shard from now on; None: this node does not serve it.
        on_fatal: Called when the shard's rows cannot be opened: the process must end.

    Attributes:
        draining: Whether this node is about to stop, and must not lead again.
    """

    def __init__(
        self, rows: RowReader, opening: Opening, present: Present, on_fatal: Callable[[BaseException], None]
    ) -> None:
        self._rows, self._opening, self._present, self._on_fatal = rows, opening, present, on_fatal
        self._loop = asyncio.get_running_loop()
        self._serving: Serving | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self.draining = False
        self._number = 0
        """Counts begins and ends, so that an outdated opening is detected."""

    @property
    def serves(self) -> bool:
        """Whether this node serves the shard."""
        return self._serving is not None

    def begin(self, member: Member, term: int) -> None:
        """Starts serving: the member leads in the term, and all earlier decisions are applied to the rows."""
        self._number += 1
        self._over.clear()
        if self.draining:
            self._spawn(self._hand_over(member, HAND_OVER_SECONDS), "hand-over")
        else:
            self._spawn(self._open(member, term, self._number), "shard-opening")

    def end(self, member: Member) -> None:
        """Stops serving: the member is no longer the leader."""
        self._number += 1
        self._over.set()
        serving, self._serving = self._serving, None
        if serving is None:
            return
        self._present(None)
        serving.end(member.refusal())
        self._spawn(serving.close(), "serving-close")
        _log.info("following", leader=member.leader_name())

    async def drain(self, member: Member, grace_ms: int) -> None:
        """Hands over leadership if there are other voters; otherwise ends waits and notifies streams."""
        self.draining = True
        if member.leads_others():
            await self._hand_over(member, min(HAND_OVER_SECONDS, grace_ms / 1000))
        elif self._serving is not None:
            self._serving.drain(grace_ms)

    async def _hand_over(self, member: Member, seconds: float) -> None:
        """Hands leadership to another member; on timeout stops this member, so that the others elect a leader."""
        serving = self._serving
        try:
            async with asyncio.timeout(seconds):
                if serving is not None:
                    await serving.runner.close()  # commits pending decisions
                while not self._over.is_set() and not member.hand_over():  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(ASK_SECONDS)  # a new leader does not know yet which members are active
                await self._over.wait()
        except TimeoutError:
            member.stop()
            _log.warning("leadership_not_handed_over", hint="the other members will elect a leader on their own")
        self.end(member)

    async def close(self) -> None:
        """Cancels shards that are still being opened or closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, member: Member, term: int, number: int) -> None:
        """Opens the shard from its rows, which do not change while this node leads but does not serve."""
        group = member.group
        assert group is not None
        opening, started = self._opening, time.monotonic()
        try:
            identity = next_identity(
                self._rows, opening.shards, opening.unix_seconds(), member.row.cluster_id, shard=opening.shard
            )
            shard = await self._loop.run_in_executor(None, opening.load, identity.epoch)
            if number != self._number or self.draining:
                return
            # The epoch becomes durable with the first batch, and thus before the first reply.
            shard.batch.rows[keys.IDENTITY] = identity.SerializeToString()
            self._serving = serving = opening.serve(shard, LeaderLog(group.leadership, term))
            self._present(serving)
        except Exception as problem:  # noqa: BLE001 - in any case, this node leads but cannot serve
            if number == self._number:  # otherwise another leader's batches were applied meanwhile
                self._on_fatal(problem)
            return
        _log.info("leading", term=term, seconds=round(time.monotonic() - started, 3))

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
