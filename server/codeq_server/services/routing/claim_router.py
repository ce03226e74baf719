"""Claims over all shards.

A claim starts in the shard of its process, which costs no way. If that has not enough, all other shards say at once
what they have, and the claim goes on where the priority is highest, then where this process has claimed longest ago.
Now and then a claim treats its own shard like the others, so that a busy shard never hides the rest.

A claim that waits asks every shard for a hint. A hint claims nothing, so none is ever left behind; the claim then tries
the shards that gave one. Each question is repeated after a while, and after a broken link, so a lost hint only delays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_internal.v1 import shard_pb2
from google.protobuf.message import Message

from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.batch_bytes import BATCH_BYTES_MAX
from codeq_server.services.shard_service import AWAIT_WORK, RETURN_TASKS
from codeq_server.services.shards import Shards

from .routed import Outcome, Routed, at_once, attempt

ROTATION: Final = 8
"""One of so many claims treats the shard of its process like the others."""

CLAIMED_BYTES: Final = BATCH_BYTES_MAX // 2
"""Bytes of claimed tasks after which no further shard is asked: the next one may give as many as a claim may have."""

_OF_ONE_SHARD: Final = frozenset(
    {
        Reason.SERVER_UNREACHABLE,
        Reason.OUTCOME_UNKNOWN,
        Reason.DEADLINE_EXCEEDED,
        Reason.DRAINING,
        Reason.NOT_LEADER,
        Reason.QUOTA_EXCEEDED,
        Reason.CORRUPT_DATA,
        Reason.LIMIT_REACHED,
    }
)
"""Reasons that say nothing about the other shards: the claim goes on there."""

_UNREACHED: Final = frozenset({Reason.SERVER_UNREACHABLE, Reason.OUTCOME_UNKNOWN, Reason.DEADLINE_EXCEEDED})
"""Those that hide only what the shard itself has: without it, the claim is as good as without its tasks."""


class Pace(NamedTuple):
    """How often a waiting claim asks a shard; all in seconds.

    Attributes:
        recheck: Maximum time for which one question for a hint waits.
        grace: Time for the answer beyond that.
        pause_min: Initial backoff before a shard is asked again whose hint led to no task, or which could not be asked.
        pause_max: Maximum backoff; it doubles each time.
    """

    recheck: float = 5.0
    grace: float = 5.0
    pause_min: float = 0.05
    pause_max: float = 1.0


PACE: Final = Pace()


class ClaimRouter:
    """Claims tasks from all shards.

    Args:
        shards: The shards.
        clock: Returns the Unix time in seconds.
        pace: How often a waiting claim asks.
    """

    def __init__(self, shards: Shards, clock: Callable[[], float], pace: Pace = PACE) -> None:
        self._shards = shards
        self._clock = clock
        self._pace = pace
        self._turn = 0
        self._served = [0] * shards.count
        """Turn of the last claim that got tasks from each shard."""
        self._returning: set[asyncio.Task[None]] = set()

    async def claim(self, routed: Routed) -> Message:
        """Returns the response of ClaimTask or ClaimTasks.

        Cancelling it leaves no waiter and no claim behind.

        Raises:
            Rejection: That of a shard, if no task was claimed.
        """
        request = routed.request
        gathering, begun = Gathering(routed), asyncio.get_running_loop().time()
        try:
            refusal = await self._look(gathering)
            if not gathering.tasks:
                if refusal is not None:
                    raise refusal
                if request.wait_seconds:
                    await self._wait(gathering, begun)
        except asyncio.CancelledError:
            self._in_background(self._return_all(gathering))
            raise
        return gathering.response()

    async def _look(self, gathering: Gathering) -> Rejection | None:
        """Claims what is available now; returns why the own shard gave nothing, if it refused.

        Raises:
            Rejection: A shard refused the claim for a reason that holds in every shard, and no task was claimed.
        """
        shards, refusal = self._shards, None
        self._turn += 1
        starts_here = self._turn % ROTATION != 0
        if starts_here:
            refusal = await self._take(gathering, shards.mine)
        if gathering.is_full:
            return refusal
        others = [shard for shard in range(shards.count) if shard != shards.mine or not starts_here]
        answers = await at_once([self._ask(gathering.routed, shard, 0) for shard in others])
        ready: dict[int, int] = {}
        for shard, answer in zip(others, answers, strict=True):
            priority = self._priority(gathering, answer)
            if priority is not None:
                ready[shard] = priority
        for shard in self._best_first(ready):
            if gathering.is_full:
                break
            refused = await self._take(gathering, shard)
            if shard == shards.mine or (refused is not None and refused.reason not in _UNREACHED):
                refusal = refusal or refused
        return refusal

    async def _wait(self, gathering: Gathering, begun: float) -> None:
        """Waits for work in all shards, and claims it; a claim that began at a time of the loop waits from then on.

        Raises:
            Rejection: A shard refused the claim for a reason that holds in every shard, or the own shard drains.
        """
        loop = asyncio.get_running_loop()
        routed = gathering.routed
        patience = routed.caller.claims.patience(routed.request.wait_seconds, self._clock())
        until = begun + patience
        asking: dict[asyncio.Task[Outcome], int] = {}
        pauses = dict.fromkeys(range(self._shards.count), 0.0)

        def ask(shard: int) -> None:
            asking[asyncio.ensure_future(self._ask_until(routed, shard, pauses[shard], until))] = shard

        for shard in pauses:
            ask(shard)
        try:
            while not gathering.tasks and (left := until - loop.time()) > 0:
                done, _ = await asyncio.wait(asking, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                told = {asking.pop(task): task.result() for task in done}
                await self._follow(gathering, told, pauses)
                for shard in told:
                    ask(shard)
        finally:
            for task in asking:
                task.cancel()

    async def _follow(self, gathering: Gathering, told: dict[int, Outcome], pauses: dict[int, float]) -> None:
        """Claims from the shards that gave a hint; sets how long each of those asked is left alone.

        Raises:
            Rejection: As `_wait`.
        """
        ready: dict[int, int] = {}
        for shard, answer in told.items():
            if isinstance(answer, Rejection) and shard == self._shards.mine and answer.reason is Reason.DRAINING:
                raise answer
            priority = self._priority(gathering, answer)
            if priority is not None:
                ready[shard] = priority
            longer = min(max(2 * pauses[shard], self._pace.pause_min), self._pace.pause_max)
            # A shard that could not be asked, or whose work is taken by others, is not asked in a busy loop.
            pauses[shard] = longer if priority is not None or isinstance(answer, Rejection) else 0.0
        for shard in self._best_first(ready):
            if not gathering.is_full:
                await self._take(gathering, shard)

    async def _take(self, gathering: Gathering, shard: int) -> Rejection | None:
        """Claims from a shard; returns why the shard alone gave nothing, if it refused.

        Raises:
            Rejection: A reason that holds in every shard, and no task was claimed.
        """
        claiming = asyncio.ensure_future(attempt(self._shards, shard, gathering.routed, gathering.part()))
        try:
            outcome = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # The reply may be here already: cancelling the claim as well would lose the tasks in it.
            self._in_background(self._return_late(claiming, shard, gathering.routed))
            raise
        if isinstance(outcome, Rejection):
            if outcome.reason not in _OF_ONE_SHARD and not gathering.tasks:
                raise outcome
            return outcome
        if gathering.add(shard, outcome):
            self._served[shard] = self._turn
        return None

    async def _ask_until(self, routed: Routed, shard: int, pause: float, until: float) -> Outcome:
        """Asks a shard for a hint after a pause; the wait ends at a time of the loop."""
        if pause:
            await asyncio.sleep(pause)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        wait = max(min(self._pace.recheck, until - begun), 0.001)
        answer: Any = await self._ask(routed, shard, wait)
        if not isinstance(answer, Rejection) and not answer.HasField("priority"):
            # An answer that comes too early is not followed by the next question at once.
            await asyncio.sleep(min(self._pace.pause_min, max(0.0, begun + wait - loop.time())))
        outcome: Outcome = answer
        return outcome

    async def _ask(self, routed: Routed, shard: int, wait_seconds: float) -> Outcome:
        """Asks a shard for the priority of its work."""
        request = shard_pb2.AwaitWorkRequest(commands=routed.request.commands, wait_ms=int(wait_seconds * 1000))
        try:
            async with asyncio.timeout(wait_seconds + self._pace.grace):
                return await self._shards.call(
                    shard, AWAIT_WORK, request, routed.caller, part=True, seconds=wait_seconds + self._pace.grace
                )
        except Rejection as rejection:
            return rejection
        except TimeoutError:
            return Rejection(Reason.DEADLINE_EXCEEDED, f"shard {shard} has not answered in time")

    @staticmethod
    def _priority(gathering: Gathering, answer: Outcome) -> int | None:
        """Returns the priority of a hint; None: the shard has nothing, or cannot tell.

        Raises:
            Rejection: A reason that holds in every shard, and no task was claimed.
        """
        if isinstance(answer, Rejection):
            if answer.reason not in _OF_ONE_SHARD and not gathering.tasks:
                raise answer
            return None
        hint: Any = answer
        return hint.priority if hint.HasField("priority") else None

    def _best_first(self, ready: dict[int, int]) -> list[int]:
        """Returns shards, given their priorities: the highest first, then the one served longest ago."""
        return sorted(ready, key=lambda shard: (-ready[shard], self._served[shard]))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Does what is left to do for a caller that is gone; if that fails, the leases expire."""
        task = asyncio.ensure_future(work)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _return_late(self, claiming: asyncio.Task[Outcome], shard: int, routed: Routed) -> None:
        """Gives back what a claim gets after its caller has left."""
        outcome = await claiming
        if not isinstance(outcome, Rejection):
            late = Gathering(routed)
            late.add(shard, outcome)
            await self._return_all(late)

    async def _return_all(self, gathering: Gathering) -> None:
        calls = []
        for shard, tasks in gathering.by_claim():
            request = shard_pb2.ReturnTasksRequest(lease_token=tasks[0].lease_token, task_ids=[t.id for t in tasks])
            calls.append(self._give_back(shard, request, gathering.routed))
        await at_once(calls)

    async def _give_back(self, shard: int, request: Message, routed: Routed) -> Outcome:
        try:
            return await self._shards.call(shard, RETURN_TASKS, request, routed.caller, part=True)
        except Rejection as rejection:
            return rejection


class Gathering:
    """What a claim has so far.

    Attributes:
        routed: The claim.
        tasks: The tasks, each with its shard.
    """

    def __init__(self, routed: Routed) -> None:
        self.routed = routed
        self.tasks: list[tuple[int, task_pb2.Task]] = []
        self._is_one = isinstance(routed.request, pb.ClaimTaskRequest)
        self._wanted: int = 1 if self._is_one else routed.request.count
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the claim needs no further shard."""
        return len(self.tasks) >= self._wanted or self._bytes >= CLAIMED_BYTES

    def part(self) -> Message:
        """Returns the request for the next shard, which does not wait."""
        part = self.routed.copy()
        part.wait_seconds = 0
        if not self._is_one:
            part.count = self._wanted - len(self.tasks)
        message: Message = part
        return message

    def add(self, shard: int, answer: Any) -> int:
        """Adds what a shard gave, and returns the number of tasks."""
        given = list(answer.tasks) if not self._is_one else [answer.task] if answer.HasField("task") else []
        self.tasks += [(shard, task) for task in given]
        self._bytes += answer.ByteSize()
        return len(given)

    def by_claim(self) -> Sequence[tuple[int, list[task_pb2.Task]]]:
        """Returns the tasks of each claim, with its shard."""
        found: dict[tuple[int, int], list[task_pb2.Task]] = {}
        for shard, task in self.tasks:
            found.setdefault((shard, task.lease_token), []).append(task)
        return [(shard, tasks) for (shard, _), tasks in found.items()]

    def response(self) -> Message:
        """Returns the reply."""
        if self._is_one:
            return pb.ClaimTaskResponse(task=self.tasks[0][1] if self.tasks else None)
        return pb.ClaimTasksResponse(tasks=[task for _, task in self.tasks])
