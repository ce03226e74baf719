"""A shard's part of a worker's stream that another process serves, or this one if there are several shards.

The shard settles outcomes and extends leases as for a stream of its own, but it holds no credits: it claims tasks when
it is asked to, and answers each of these *pulls* once. After an answer that says that no more can be claimed now, it
waits for work among the streams and claims of the shard, and sends a hint when its turn comes. It claims nothing then,
so the next one that waits is woken at once, and no task is stranded if the hint leads to no pull.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from codeq.v1 import error_pb2, producer_service_pb2
from codeq.v1 import worker_service_pb2 as worker_pb
from codeq_internal.v1 import shard_work_pb2 as pb

from codeq_server.core.claims import claimable_priority
from codeq_server.core.errors import Rejection
from codeq_server.core.model import Caller
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner

from .artifacts import Artifacts
from .claiming import Claimed, Lease, allowed_commands, return_claims, return_unused
from .delivering import Delivering
from .outbox import Outbox
from .pacing import Pacing
from .rate_limits import RateLimits
from .settling import Settling
from .stream_token import StreamToken
from .streams import StreamRegistry, protocol_error
from .validation import check_message
from .work import FRAMES_AHEAD, lease_of, worker_of

UNKNOWN_PRIORITY: Final = -1
"""Priority in a message if no task is known to wait."""


@dataclass(slots=True)
class _Frame:
    """A response, and the claims of its tasks until it is sent."""

    response: pb.WorkOnShardResponse
    claims: list[Claimed]


class PartStream:
    """One shard's part of a worker's stream.

    Args:
        runner: Runner of the shard.
        token: Token of the client.
        registry: The parts of streams that the shard serves.
        default_lease_seconds: Default lease of workers.
        artifacts: Stores artifacts of results.
        context: The call.
        rates: Rate limits of the shard.
        first: Its first message.
    """

    def __init__(
        self,
        runner: ShardRunner,
        token: StreamToken,
        registry: StreamRegistry,
        default_lease_seconds: int,
        artifacts: Artifacts,
        context: Any,
        rates: RateLimits,
        first: pb.WorkOnShardRequest,
    ) -> None:
        self._runner = runner
        self._token = token
        self._registry = registry
        self._context = context
        self._tenant = token.claims.tenant_id
        self._first: pb.WorkOnShardRequest | None = first
        hello = first.hello.worker
        check_message(hello)
        self._asked: Sequence[str] = list(hello.commands)
        caller, lease = worker_of(token.claims, hello), lease_of(hello, default_lease_seconds)
        self._pacing = Pacing(rates, token, partial(runner.admission.push, self._tenant, self._go_on))
        self._settling = Settling(runner, token, caller, lease, artifacts, first.hello.caller.origin)
        self._delivering = self._new_delivering(caller, lease)
        self._pull: pb.ShardPull | None = None
        """The pull to answer."""
        self._given: deque[tuple[int, list[Claimed]]] = deque()
        """Claims of answered pulls, until their tasks have been sent to the client."""
        self._may_hint = False
        """Whether the relay waits for a hint, and has not got one."""
        self._in_turn = False
        """Whether the next pull follows a hint for which it was the turn of the stream."""
        self._draining = False
        self._closing = False
        self._left = False
        self._full = False
        self._outbox: Outbox[_Frame] = Outbox(runner)
        self._writing = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None

    def _new_delivering(self, caller: Caller, lease: Lease) -> Delivering:
        commands = allowed_commands(self._token.claims, self._asked)
        return Delivering(self._runner, self, caller, commands, lease, self._pacing, self._go_on)

    async def run(self) -> None:
        """Serves the part until the relay half-closes.

        Raises:
            Rejection: Why the part ends.
        """
        self._token.on_change = self._apply
        try:
            await self._registry.serve(self.notify, self._token, self._serve)
        finally:
            self._draining = True  # a turn may still be to come
            self._runner.waiting.leave(self)
            self._pacing.end()
            self._delivering.let_go()
            for frame in self._outbox.unsent():
                return_claims(self._runner, frame.claims)

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        await self._write(pb.WorkOnShardResponse(accepted=True))
        pushes = group.create_task(self._registry.part(self._outbox.run, self._send), name="part-pushes")
        try:
            await self._registry.part(self._take_all)
        finally:
            self._outbox.end()
        if self._left:
            pushes.cancel()  # nobody reads them
        await asyncio.wait((pushes,))

    async def notify(self, notice: producer_service_pb2.StreamNotice) -> None:
        """Tells the relay that the shard hands out no more tasks; it watches the token of the client itself."""
        if notice.reason == error_pb2.ERROR_REASON_UNAUTHENTICATED:
            return
        self._draining = True
        self._runner.waiting.leave(self)
        await self._write(pb.WorkOnShardResponse(draining=True))

    def wake(self) -> None:
        """Hints that there is work; the stream keeps waiting if others took it."""
        if self._delivering.priority() is not None:
            self._in_turn = True
            self._hint()

    def drain(self, _: Rejection) -> None:
        """Stops waiting for work; the relay is notified separately."""
        self._draining = True

    def cancelled(self, task_id: str, token: int) -> None:
        """Notifies the client that a task was cancelled."""
        self._settling.cancelled(task_id, token)
        self._runner.admission.push(self._tenant, self._answer)

    def _go_on(self) -> int:
        """Hints that the rate limits, or others that waited, leave work for the stream; returns the cost."""
        self._hint()
        return CALL_COST

    def _hint(self) -> None:
        if not self._may_hint or self._draining or self._group is None:
            return
        self._may_hint = False
        hinting = self._send_hint()
        try:
            self._group.create_task(hinting, name="part-hint")
        except RuntimeError:
            hinting.close()  # the stream is ending anyway

    async def _send_hint(self) -> None:
        """Sends a hint at once: it shows nothing that a client sees, and the claim that follows waits for the disk."""
        response = pb.WorkOnShardResponse()
        response.ready.next_priority = self._priority()
        try:
            await self._write(response)
        except (asyncio.InvalidStateError, RuntimeError):
            return  # the stream has ended in the meantime

    def _priority(self) -> int:
        found = claimable_priority(self._runner.shard, self._tenant, self._delivering.commands)
        return UNKNOWN_PRIORITY if found is None else found

    def _apply(self) -> None:
        """Applies changed claims of the token.

        Raises:
            Rejection: COMMAND_NOT_ALLOWED: they no longer allow the commands of the hello.
        """
        self._delivering.commands = allowed_commands(self._token.claims, self._asked)
        self._runner.waiting.leave(self)  # it may be waiting for commands that it may no longer take
        self._hint()

    # -- in ----------------------------------------------------------------------------------------------------------

    async def _take_all(self) -> None:
        """Processes messages until the relay half-closes or leaves."""
        await self._read()
        if not self._left:
            await self._confirm_half_close()
            await self._close()

    async def _read(self) -> None:
        message: Any = self._first
        while isinstance(message, pb.WorkOnShardRequest) and not self._left:
            if message.HasField("hello") and self._first is None:
                raise protocol_error("only the first message may carry the hello")
            self._first = None
            if message.HasField("work"):
                await self._take(message.work)
            elif message.HasField("pull"):
                await self._runner.room(self._tenant, CALL_COST)
            before = self._runner.shard.totals.claimed
            if message.HasField("pull"):
                self._take_pull(message.pull)
            self._pump()
            self._runner.admission.charge(self._tenant, self._runner.shard.totals.claimed - before)
            if message.HasField("leaving"):
                self._leave(message.leaving.delivered)
                return
            message = None  # frees the message while waiting for the next one
            message = await self._context.read()

    async def _take(self, work: worker_pb.WorkRequest) -> None:
        items = len(work.outcomes) + len(work.heartbeats) + len(work.progress)
        await self._runner.room(self._tenant, CALL_COST + items)
        if work.token:
            await self._token.renew(work.token)
        if work.artifacts:
            await self._settling.take_with_artifacts(work)
        else:
            await self._settling.take(work)
        if work.drain:
            self._draining = True
            self._runner.waiting.leave(self)

    def _take_pull(self, pull: pb.ShardPull) -> None:
        if self._pull is not None:
            raise protocol_error("a pull before the answer to the last one")
        self._forget_given(pull.delivered)
        if pull.count:
            self._pull = pull
        else:
            self._in_turn = False
            if not self._pacing.waits:
                self._pacing.allowed()
                self._pacing.delivered(0)  # others may have what the stream has waited for

    def _forget_given(self, delivered: int) -> None:
        while self._given and self._given[0][0] <= delivered:
            self._given.popleft()

    def _leave(self, delivered: int) -> None:
        """Gives back the tasks that the client did not get; all other leases run on."""
        self._left = self._draining = True
        self._forget_given(delivered)
        for _, claims in self._given:
            return_claims(self._runner, claims)

    async def _confirm_half_close(self) -> None:
        """Returns if the relay has half-closed the stream; is cancelled if the call broke.

        Reading ends the same way in both cases. A write tells them apart, because it is cancelled if the call is
        broken.
        """
        self._draining = True
        await self._write(pb.WorkOnShardResponse())

    async def _close(self) -> None:
        """Gives back every unresolved lease of the stream, which the client can no longer resolve."""
        self._closing = self._draining = True
        self._runner.waiting.leave(self)
        for claim in list(self._delivering.open.values()):
            if claim.live:
                await self._runner.room(self._tenant, CALL_COST + claim.live)
                return_unused(self._runner, claim, list(claim.task_ids))
        self._pump()

    # -- out ---------------------------------------------------------------------------------------------------------

    def _answer(self) -> int:
        """Sends the answers in the tenant's turn; returns the cost."""
        try:
            self._pump()
        except Rejection:
            return 0  # the runner no longer decides; the relay is notified in its next frame
        return CALL_COST

    def _pump(self) -> None:
        """Puts the answer to a pull, and all other answers, into a frame, unless enough are in flight."""
        pull, settling = self._pull, self._settling
        if pull is None and len(self._outbox) >= FRAMES_AHEAD and not self._closing:
            self._full = True
            return
        response = pb.WorkOnShardResponse()
        claims = [] if pull is None else self._carry_out(pull, response.pulled)
        self._runner.changed()
        if pull is None and not settling.has_answer:
            return
        self._pull = None
        if settling.has_answer:
            answer = settling.answer
            settling.answer = worker_pb.WorkResponse()
            settling.has_answer = False
            response.settled = answer.settled
            response.outcome_errors.extend(answer.outcome_errors)
            answer.ClearField("settled")
            answer.ClearField("outcome_errors")
            response.rest = answer.SerializeToString()
        self._outbox.put(_Frame(response, claims))

    def _carry_out(self, pull: pb.ShardPull, pulled: pb.ShardPulled) -> list[Claimed]:
        """Claims what a pull asks for, and fills in the answer."""
        delivering = self._delivering
        in_turn, self._in_turn = self._in_turn, False
        self._may_hint = False
        pulled.next_priority = UNKNOWN_PRIORITY
        if self._draining:
            return []
        claims = delivering.claim(pull.count, pull.bytes, in_turn=in_turn)
        priority = None if delivering.waits else delivering.priority()
        if delivering.waits:
            self._may_hint = True
            pulled.leased = delivering.leased()
        else:
            pulled.ready = True
            pulled.next_priority = UNKNOWN_PRIORITY if priority is None else priority
        if claims:
            pulled.tasks, pulled.bytes = delivering.encoded(claims)
            pulled.count = sum([len(delivered) for _, delivered in claims])
            self._given.append((pull.number, claims))
        return claims

    async def _write(self, response: pb.WorkOnShardResponse) -> None:
        async with self._writing:
            await self._context.write(response)

    async def _send(self, frames: list[_Frame]) -> None:
        for frame in frames:
            # From here on the relay may have the tasks, even if the write is interrupted.
            frame.claims = []
            await self._write(frame.response)
        if self._full:
            self._full = False
            self._runner.admission.push(self._tenant, self._answer)
