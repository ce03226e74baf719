"""The worker stream: tasks out within credits, outcomes and heartbeats in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from codeq.v1 import error_pb2, producer_service_pb2
from codeq.v1 import worker_service_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Rejection, invalid_field
from codeq_server.core.ids import Route
from codeq_server.core.model import Caller
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner

from .artifacts import Artifacts
from .claiming import Claimed, Lease, allowed_commands, return_claims, return_unused
from .delivering import FRAME_BYTES_MAX, Delivering
from .handshake import PROTOCOL, SERVER_VERSION, opening, place_of
from .outbox import Outbox
from .pacing import Pacing
from .rate_limits import RateLimits
from .settling import Settling
from .stream_token import StreamToken
from .streams import StreamRegistry, protocol_error
from .validation import check_message

CREDITS_MAX: Final = 65_536
CREDIT_BYTES_MAX: Final = 1 << 30
FRAMES_AHEAD: Final = 2
"""Maximum number of responses waiting for the disk or the client; all further answers are collected in one more
response."""

_CALL: Final = "Work"


@dataclass(slots=True)
class _Frame:
    """A response: the encoded tasks, the claims of those tasks until they are sent, and everything else."""

    tasks: bytes
    claims: list[Claimed]
    rest: bytes


def worker_of(claims: Claims, hello: pb.WorkerHello) -> Caller:
    """Returns the worker that sends a hello."""
    subject = claims.subject
    worker = f"{subject}/{hello.name}" if hello.name else subject
    return Caller(tenant=claims.tenant_id, worker=worker, subject=subject)


def lease_of(hello: pb.WorkerHello, default_seconds: int) -> Lease:
    """Returns the length of the leases that a hello asks for."""
    if hello.HasField("lease_seconds"):
        return Lease(hello.lease_seconds * 1000, is_default=False)
    return Lease(default_seconds * 1000, is_default=True)


def welcome_of(caller: Caller, lease: Lease, route: Route | None) -> pb.WorkResponse:
    """Returns the first response of a stream, served by the process of the shard to which a route leads."""
    shard, shards = place_of(route)
    welcome = pb.WorkerWelcome(
        tenant_id=caller.tenant,
        worker_id=caller.worker,
        lease_seconds=lease.ms // 1000,
        credits_max=CREDITS_MAX,
        server_version=SERVER_VERSION,
        protocol=PROTOCOL,
        shard=shard,
        shards=shards,
    )
    return pb.WorkResponse(welcome=welcome)


def chosen_shard(hello: pb.WorkerHello, shards: int) -> int | None:
    """Returns the only shard whose tasks a worker takes; None: those of all shards.

    Raises:
        Rejection: INVALID_FIELD.
    """
    choice = hello.only_shard
    if not hello.HasField("only_shard"):
        return None
    if choice.shard >= choice.shards:
        raise invalid_field("only_shard.shard", f"must be less than only_shard.shards, which is {choice.shards}")
    return choice.shard if choice.shards == shards else None


def check_credits(held: int, count: int, size: int) -> None:
    """Checks the credits that a message adds.

    Args:
        held: Tasks that the client accepts already.
        count: Tasks to add.
        size: Bytes to add.

    Raises:
        Rejection: INVALID_FIELD.
    """
    if count < 0 or held + count > CREDITS_MAX:
        raise invalid_field("add_credits", f"is negative, or makes the total more than {CREDITS_MAX}")
    if not 0 <= size <= CREDIT_BYTES_MAX:
        raise invalid_field("add_credit_bytes", f"must be between 0 and {CREDIT_BYTES_MAX}")


def credits_to_return(held: int, count: int) -> int:
    """Returns how many credits a stream returns.

    Args:
        held: Credits that are not spent.
        count: Credits that the client wants back.

    Raises:
        Rejection: INVALID_FIELD.
    """
    if not 0 <= count <= CREDITS_MAX:
        raise invalid_field("return_credits", f"must be between 0 and {CREDITS_MAX}")
    return min(held, count)


class WorkerStream:
    """One worker's stream."""

    _settling: Settling
    _delivering: Delivering

    def __init__(
        self,
        runner: ShardRunner,
        token: StreamToken,
        registry: StreamRegistry,
        default_lease_seconds: int,
        artifacts: Artifacts,
        context: Any,
        rates: RateLimits,
        first: pb.WorkRequest,
    ) -> None:
        self._runner = runner
        self._token = token
        self._registry = registry
        self._default_lease_seconds = default_lease_seconds
        self._artifacts = artifacts
        self._context = context
        self._tenant = token.claims.tenant_id
        self._asked: Sequence[str] = ()
        """The commands of the hello."""
        self.credits = 0
        """Tasks that the client accepts at the moment."""
        self._credit_bytes: int | None = None
        self._draining = False
        self._closing = False
        self._full = False
        self._pacing = Pacing(rates, token, partial(runner.admission.push, self._tenant, self._go_on))
        self._outbox: Outbox[_Frame] = Outbox(runner)
        self._writing = asyncio.Lock()
        self._first: pb.WorkRequest | None = first
        """The message with the hello, until it is processed."""

    async def run(self) -> None:
        """Serves the stream until the client half-closes.

        Raises:
            Rejection: Why the stream ends.
        """
        assert self._first is not None
        hello, peer = self._first.hello, self._context.peer()
        check_message(hello)
        caller, lease = worker_of(self._token.claims, hello), lease_of(hello, self._default_lease_seconds)
        self._greet(hello, caller, lease)
        opened = opening(_CALL, self._token.claims, hello.name, hello.client, peer)
        number = self._registry.workers.enter(self, caller, hello, peer, self._runner.unix_seconds())
        del hello  # it would keep the message with all its items in memory
        welcome = welcome_of(caller, lease, self._runner.shard.settings.route)
        try:
            await self._registry.serve(self.notify, self._token, partial(self._serve, welcome, opened))
        finally:
            self._registry.workers.leave(number)
            self._draining = True  # a turn may still be to come
            self._runner.waiting.leave(self)
            self._pacing.end()
            self._delivering.let_go()
            for frame in self._outbox.unsent():
                return_claims(self._runner, frame.claims)

    def leased(self) -> int:
        """Returns the number of tasks of the stream that are leased."""
        return self._delivering.leased()

    async def _serve(self, welcome: pb.WorkResponse, opened: Callable[[], None], group: asyncio.TaskGroup) -> None:
        opened()
        await self._write(welcome.SerializeToString())
        pushes = group.create_task(self._registry.part(self._outbox.run, self._send), name="worker-pushes")
        try:
            await self._registry.part(self._take_all)
        finally:
            self._outbox.end()
        await asyncio.wait((pushes,))  # the client may not read them before its token expires

    async def notify(self, notice: producer_service_pb2.StreamNotice) -> None:
        """Notifies the client that the server will end the stream; stops pushing, unless only the token expires."""
        self._draining |= notice.reason != error_pb2.ERROR_REASON_UNAUTHENTICATED
        await self._write(pb.WorkResponse(notice=notice).SerializeToString())

    def wake(self) -> None:
        """Claims tasks that have become available for the waiting stream."""
        self._try_to_pump(in_turn=True)

    def _go_on(self) -> int:
        """Pushes available tasks in the tenant's turn; returns the cost."""
        totals = self._runner.shard.totals
        before = totals.claimed
        self._try_to_pump(in_turn=False)
        return CALL_COST + totals.claimed - before

    def cancelled(self, task_id: str, token: int) -> None:
        """Notifies the client that a task was cancelled."""
        self._settling.cancelled(task_id, token)
        self._runner.admission.push(self._tenant, self._go_on)

    def drain(self, _: Rejection) -> None:
        """Stops waiting for work; the client is notified separately."""
        self._draining = True

    # -- in ----------------------------------------------------------------------------------------------------------

    def _greet(self, hello: pb.WorkerHello, caller: Caller, lease: Lease) -> None:
        """Applies the hello.

        Raises:
            Rejection: COMMAND_NOT_ALLOWED.
        """
        runner, token = self._runner, self._token
        self._asked = hello.commands
        commands = allowed_commands(token.claims, self._asked)
        self._settling = Settling(runner, token, caller, lease, self._artifacts, self._context.peer())
        self._delivering = Delivering(runner, self, caller, commands, lease, self._pacing, self._go_on)
        token.on_change = self._apply

    def _apply(self) -> None:
        """Applies changed claims of the token.

        Raises:
            Rejection: COMMAND_NOT_ALLOWED: they no longer allow the commands of the hello.
        """
        self._delivering.commands = allowed_commands(self._token.claims, self._asked)
        self._runner.waiting.leave(self)  # it may be waiting for commands that it may no longer take
        self._try_to_pump(in_turn=False)

    async def _take_all(self) -> None:
        """Processes the client's messages until the client half-closes."""
        await self._read()
        await self._confirm_half_close()
        await self._close()

    async def _read(self) -> None:
        message: Any = self._first
        while isinstance(message, pb.WorkRequest):
            if message.HasField("hello") and self._first is None:
                raise protocol_error("only the first message may carry the hello")
            self._first = None
            items = len(message.outcomes) + len(message.heartbeats) + len(message.progress)
            await self._runner.room(self._tenant, CALL_COST + items)
            if message.token:
                await self._token.renew(message.token)
            if message.artifacts:
                await self._settling.take_with_artifacts(message)
            else:
                await self._settling.take(message)
            self._add_credits(message.add_credits, message.add_credit_bytes)
            if message.return_credits:
                self._return_credits(message.return_credits)
            if message.drain:
                self._draining = True
                self._runner.waiting.leave(self)
            before = self._runner.shard.totals.claimed
            self._pump()
            self._runner.admission.charge(self._tenant, self._runner.shard.totals.claimed - before)
            message = None  # frees the message while waiting for the next one
            message = await self._context.read()

    def _add_credits(self, count: int, size: int) -> None:
        check_credits(self.credits, count, size)
        self.credits += count
        if size:
            self._credit_bytes = min((self._credit_bytes or 0) + size, CREDIT_BYTES_MAX)

    def _return_credits(self, count: int) -> None:
        count = credits_to_return(self.credits, count)
        self.credits -= count
        self._settling.returned(count)

    async def _confirm_half_close(self) -> None:
        """Returns if the client has half-closed the stream; is cancelled if the call broke.

        Reading ends the same way in both cases. A write tells them apart, because it is cancelled if the call is
        broken. Leases survive a broken call, but not a half-close.
        """
        self._draining = True
        await self._write(pb.WorkResponse().SerializeToString())

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

    def _try_to_pump(self, *, in_turn: bool) -> None:
        try:
            self._pump(in_turn=in_turn)
        except Rejection:
            return  # the runner no longer decides; the client is notified in its next frame

    def _pump(self, *, in_turn: bool = False) -> None:
        """Puts pending answers and claimed tasks into frames until enough frames are in flight.

        Args:
            in_turn: Whether the stream is the next of those that wait.
        """
        while True:
            if len(self._outbox) >= FRAMES_AHEAD and not self._closing:
                self._full = True
                return
            claims: list[Claimed] = []
            if self.credits and not self._draining:
                room = FRAME_BYTES_MAX if self._credit_bytes is None else self._credit_bytes
                claims = self._delivering.claim(self.credits, room, in_turn=in_turn)
            self._runner.changed()
            settling = self._settling
            if not claims and not settling.has_answer:
                return
            rest = b""
            if settling.has_answer:
                rest = settling.answer.SerializeToString()
                settling.answer = pb.WorkResponse()
                settling.has_answer = False
            self._outbox.put(_Frame(self._charged(claims), claims, rest))

    def _charged(self, claims: list[Claimed]) -> bytes:
        """Returns the tasks of claims in wire form, and takes their credits."""
        if not claims:
            return b""
        tasks, size = self._delivering.encoded(claims)
        for _, delivered in claims:
            self.credits -= len(delivered)
        if self._credit_bytes is not None:
            self._credit_bytes = max(0, self._credit_bytes - size)
        return tasks

    async def _write(self, body: bytes) -> None:
        async with self._writing:
            await self._context.write(body)

    async def _send(self, frames: list[_Frame]) -> None:
        for frame in frames:
            # A closing stream has already given back its unsent deliveries.
            body = frame.rest if self._closing else frame.tasks + frame.rest
            # From here on the client may have the tasks, even if the write is interrupted; in that case their leases
            # expire.
            frame.claims = []
            if body:
                await self._write(body)
        if self._full:
            self._full = False
            self._runner.admission.push(self._tenant, self._go_on)
