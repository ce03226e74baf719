"""A worker's stream over several shards.

The relay serves the client as a `WorkerStream` does, and opens a *part stream* to each shard. It keeps the credits, and
pulls tasks from shards that have some. Outcomes, heartbeats, progress and artifacts go to the shards of their tasks,
and the answers are reported in the order that the client expects. What the client sends about the tasks of a shard that
cannot be reached waits for it for some seconds; the relay connects to it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from codeq.v1 import error_pb2, producer_service_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq_gateway.finishing import finish
from codeq_internal.v1 import shard_work_pb2 as shard_pb

from codeq_server.auth.claims import NEVER
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.ids import Route

from .artifacts import RESULT_BYTES_MAX
from .claiming import allowed_commands
from .handshake import opening
from .part_links import PartLinks
from .relay_credits import Credits
from .relay_ledger import Ledger
from .relay_part import RelayPart
from .settling import HEARTBEAT_SCOPE, check_items
from .stream_token import StreamToken
from .streams import StreamRegistry, protocol_error
from .validation import check_message
from .work import FRAMES_AHEAD, credits_to_return, lease_of, welcome_of, worker_of

UNSENT_BYTES_MAX: Final = 4 << 20
"""Bytes that wait to be sent to a shard beyond which nothing more is read from the client."""
UNSETTLED_MAX: Final = 65_536
"""Outcomes without an answer beyond which nothing more is read from the client."""
ANSWER_BYTES_MAX: Final = 4 << 20
"""Bytes of answers that the client has not read beyond which nothing more is read from it."""
LEAVE_SECONDS: Final = 2.0
"""Time for the shards to take back tasks that a client did not get whose call broke."""
JOINED_BYTES_MAX: Final = 256 << 10
"""Bytes up to which deliveries and answers of several shards share a response."""

_CALL: Final = "Work"


class _Frame(NamedTuple):
    """Tasks that a shard has handed out in answer to a pull."""

    shard: int
    pull: int
    tasks: bytes


class WorkerRelay:
    """One worker's stream over several shards.

    Args:
        token: Token of the client.
        registry: The streams of this process.
        default_lease_seconds: Default lease of workers.
        context: The call.
        links: Opens links to the shards.
        unix_seconds: Returns the Unix time in seconds.
        first: The message with the hello.
        route: Leads to the shard of this process.
    """

    def __init__(
        self,
        token: StreamToken,
        registry: StreamRegistry,
        default_lease_seconds: int,
        context: Any,
        links: PartLinks,
        unix_seconds: Callable[[], float],
        first: pb.WorkRequest,
        route: Route | None,
    ) -> None:
        self._token = token
        self._registry = registry
        self._default_lease_seconds = default_lease_seconds
        self._context = context
        self._unix_seconds = unix_seconds
        self._count, self._shard_of = links.count, links.shard_of
        self._parts = [RelayPart(shard, self, links.open, self._hello_to_shard) for shard in range(links.count)]
        self._credits = Credits(links.count)
        self._ledger = Ledger(links.count)
        self._leased = [0] * links.count
        """Leases of the client by shard, about: a shard does not report those that end otherwise than by an outcome."""
        self._pulls = [0] * links.count
        """Number of the pull in flight to each shard."""
        self._tasks: list[asyncio.Task[None]] = []
        """Keep the links to the shards."""
        self._frames: deque[_Frame] = deque()
        self._answers: deque[bytes] = deque()
        self._answer_bytes = 0
        self._returned: int | None = None
        """Returned credits of which the client was not told; None: it has not asked."""
        self._draining = False
        self._closing = False
        self._has_ended = False
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._writing = asyncio.Lock()
        self._route = route
        self._first: pb.WorkRequest | None = first
        """The message with the hello, until it is processed."""
        self._hello = pb.WorkerHello()

    @property
    def credits(self) -> int:
        """Tasks that the client accepts at the moment."""
        return self._credits.held + self._credits.pulling

    def leased(self) -> int:
        """Returns the number of tasks of the stream that are leased."""
        return sum(self._leased)

    async def run(self) -> None:
        """Serves the stream until the client half-closes.

        Raises:
            Rejection: Why the stream ends.
        """
        assert self._first is not None
        hello, peer, claims = self._hello, self._context.peer(), self._token.claims
        hello.CopyFrom(self._first.hello)  # the message would keep all its items in memory
        check_message(hello)
        caller, lease = worker_of(claims, hello), lease_of(hello, self._default_lease_seconds)
        allowed_commands(claims, hello.commands)
        self._token.on_change = self._apply
        opened = opening(_CALL, claims, hello.name, hello.client, peer)
        number = self._registry.workers.enter(self, caller, hello, peer, self._unix_seconds())
        serve = partial(self._serve, welcome_of(caller, lease, self._route), opened)
        try:
            await finish(self._registry.serve(self.notify, self._token, serve), self._stop)
        finally:
            self._registry.workers.leave(number)

    async def _serve(self, welcome: pb.WorkResponse, opened: Callable[[], None], group: asyncio.TaskGroup) -> None:
        opened()
        loop = asyncio.get_running_loop()
        await self._write(welcome.SerializeToString())
        # Outside the group, which would cancel their calls before they have told the shards why the stream ends.
        self._tasks = [loop.create_task(part.run(), name="relay-shard") for part in self._parts]
        watching = group.create_task(self._registry.part(self._watch_parts), name="relay-shards")
        pushes = group.create_task(self._registry.part(self._write_all), name="relay-pushes")
        await self._registry.part(self._take_all)
        await asyncio.wait((watching,))
        self._has_ended = True
        self._wake.set()
        await asyncio.wait((pushes,))  # the client may not read them before its token expires

    async def _watch_parts(self) -> None:
        """Returns once all parts have ended.

        Raises:
            Rejection: A shard has found the client at fault.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def _stop(self) -> None:
        """Ends all parts that have not ended."""
        if not self._tasks:
            return
        self._closing = self._draining = True
        for part in self._parts:
            part.leave()
        await asyncio.wait(self._tasks, timeout=LEAVE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def notify(self, notice: producer_service_pb2.StreamNotice) -> None:
        """Notifies the client that the server will end the stream; stops pulling, unless only the token expires."""
        self._draining |= notice.reason != error_pb2.ERROR_REASON_UNAUTHENTICATED
        await self._write(pb.WorkResponse(notice=notice).SerializeToString())

    def _hello_to_shard(self) -> shard_pb.WorkOnShardRequest:
        shown = self._token.shown
        caller = shard_pb.ShardCaller(origin=self._context.peer())
        if isinstance(shown, str):
            caller.authorization = shown
        else:
            caller.client_certificate = shown
        return shard_pb.WorkOnShardRequest(hello=shard_pb.ShardWorkHello(caller=caller, worker=self._hello))

    def _apply(self) -> None:
        """Applies changed claims of the token.

        Raises:
            Rejection: COMMAND_NOT_ALLOWED: they no longer allow the commands of the hello.
        """
        allowed_commands(self._token.claims, self._hello.commands)

    # -- from the client ---------------------------------------------------------------------------------------------

    async def _take_all(self) -> None:
        """Processes the client's messages until the client half-closes."""
        await self._read()
        self._draining = True
        # Returns if the client has half-closed, and is cancelled if the call broke: see `WorkerStream`.
        await self._write(pb.WorkResponse().SerializeToString())
        self._closing = True
        self._frames.clear()  # the shards give back these tasks with all others
        for part in self._parts:
            part.end()

    async def _read(self) -> None:
        message: Any = self._first
        while isinstance(message, pb.WorkRequest):
            if message.HasField("hello") and self._first is None:
                raise protocol_error("only the first message may carry the hello")
            self._first = None
            token = message.token
            if token:
                await self._token.renew(token)
            self._take(message, token if self._token.shown == f"Bearer {token}" else "")
            message = None  # frees the message while waiting for the next one
            while self._has_too_much:
                self._room.clear()
                await self._room.wait()
            message = await self._context.read()

    @property
    def _has_too_much(self) -> bool:
        if len(self._ledger) > UNSETTLED_MAX or self._answer_bytes > ANSWER_BYTES_MAX:
            return True
        return max([part.unsent_bytes for part in self._parts]) > UNSENT_BYTES_MAX

    def _take(self, message: pb.WorkRequest, token: str) -> None:
        """Passes a message on to the shards that it concerns, with a token that has replaced the client's, if any."""
        check_items(message)
        if message.heartbeats or message.progress:
            self._token.claims.require(HEARTBEAT_SCOPE)
        works = self._split(message)
        if token or message.drain:
            for shard in range(self._count):
                work = works.setdefault(shard, pb.WorkRequest())
                work.token, work.drain = token, message.drain
        for shard, work in works.items():
            part = self._parts[shard]
            if not part.is_down:
                part.send(work)
            elif work.outcomes:
                self.lost(shard, len(work.outcomes), "the link is being opened again", keeps=False)
        self._credits.add(message.add_credits, message.add_credit_bytes)
        if message.return_credits:
            self._return(message.return_credits)
        self._draining |= message.drain
        self._pull()

    def _return(self, count: int) -> None:
        """Returns credits that are in no pull."""
        count = credits_to_return(self._credits.held, count)
        self._credits.held -= count
        self._returned = (self._returned or 0) + count
        self._wake.set()

    def _split(self, message: pb.WorkRequest) -> dict[int, pb.WorkRequest]:
        """Returns what a message says about the tasks of each shard.

        Raises:
            Rejection: TOO_LARGE.
        """
        works: dict[int, pb.WorkRequest] = {}
        size = 0
        for progress in message.progress:
            self._work_of(works, progress.task_id)[1].progress.append(progress)
        for outcome in message.outcomes:
            shard, work = self._work_of(works, outcome.task_id)
            work.outcomes.append(outcome)
            self._ledger.add(shard, outcome.task_id)
        for heartbeat in message.heartbeats:
            self._work_of(works, heartbeat.task_id)[1].heartbeats.append(heartbeat)
        for item in message.artifacts:
            size += sum([len(each.content) for each in item.artifacts])
            self._work_of(works, item.task_id)[1].artifacts.append(item)
        if size > RESULT_BYTES_MAX:
            raise Rejection(
                Reason.TOO_LARGE, f"artifacts: {size} bytes in one message; the limit is {RESULT_BYTES_MAX}"
            )
        return works

    def _work_of(self, works: dict[int, pb.WorkRequest], task_id: str) -> tuple[int, pb.WorkRequest]:
        shard = self._shard_of(task_id)
        work = works.get(shard)
        if work is None:
            work = works[shard] = pb.WorkRequest()
        return shard, work

    # -- from the shards ---------------------------------------------------------------------------------------------

    def is_valid(self) -> bool:
        """Returns whether the client's token has not expired."""
        expires_at = self._token.claims.expires_at
        return expires_at == NEVER or expires_at > self._unix_seconds()

    def opened(self, shard: int) -> None:
        """Pulls from a shard that can be reached."""
        self._credits.open(shard)
        if self._draining:
            self._parts[shard].send(pb.WorkRequest(drain=True))
        self._pull()

    def lost(self, shard: int, unsent: int, reason: str, *, keeps: bool) -> None:
        """Answers the outcomes of a shard whose link has ended, and takes back the credits of its pull."""
        self._credits.lose(shard)
        self._ledger.lose(shard, unsent, reason, keep=keeps)
        self._wake.set()
        self._room.set()
        self._pull()

    def sent(self) -> None:
        """Goes on reading if the client has sent more than the shards have taken."""
        self._room.set()

    def take(self, shard: int, response: shard_pb.WorkOnShardResponse) -> None:
        """Processes a response of a shard."""
        if response.settled:
            self._ledger.settle(shard, response.settled, response.outcome_errors)
            self._leased[shard] = max(0, self._leased[shard] - response.settled)
        if response.rest:
            self._answers.append(response.rest)
            self._answer_bytes += len(response.rest)
        if response.draining:
            self._credits.close(shard)
        if response.HasField("pulled"):
            self._take_pulled(shard, response.pulled)
        self._wake.set()
        if response.HasField("ready"):
            self._credits.hint(shard, response.ready.next_priority)
            self._pull()
            if not self._credits.is_pulling(shard):
                self._parts[shard].pull(0, 0)  # not now

    def _take_pulled(self, shard: int, pulled: shard_pb.ShardPulled) -> None:
        ready, priority = pulled.ready, pulled.next_priority
        self._credits.answer(shard, pulled.count, pulled.bytes, is_ready=ready, priority=priority)
        self._leased[shard] = self._leased[shard] + pulled.count if ready else pulled.leased
        if pulled.count and not self._closing:
            self._frames.append(_Frame(shard, self._pulls[shard], pulled.tasks))
        self._pull()

    def _pull(self) -> None:
        """Asks shards for tasks while the client accepts and reads them."""
        while not self._draining and len(self._frames) < FRAMES_AHEAD and (pull := self._credits.next()) is not None:
            self._pulls[pull.shard] = self._parts[pull.shard].pull(pull.tasks, pull.room)

    # -- to the client -----------------------------------------------------------------------------------------------

    async def _write(self, body: bytes) -> None:
        async with self._writing:
            await self._context.write(body)

    async def _write_all(self) -> None:
        """Sends tasks and answers until the parts have ended."""
        while True:
            body = self._next_body()
            if body:
                await self._write(body)
                self._room.set()
                self._pull()
            elif self._has_ended:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _next_body(self) -> bytes:
        """Returns the next response in wire form; empty: there is nothing to send."""
        pieces: list[bytes] = []
        size = 0
        while self._frames and (not size or size + len(self._frames[0].tasks) <= JOINED_BYTES_MAX):
            frame = self._frames.popleft()
            # From here on the client may have the tasks, even if the write is interrupted; their leases then expire.
            self._parts[frame.shard].delivered = frame.pull
            pieces.append(frame.tasks)
            size += len(frame.tasks)
        answer = pb.WorkResponse()
        if self._returned is not None:
            answer.returned_credits, self._returned = self._returned, None
        if self._ledger.report(answer) or answer.HasField("returned_credits"):
            pieces.append(answer.SerializeToString())
        size = 0
        while self._answers and size < JOINED_BYTES_MAX:
            rest = self._answers.popleft()
            pieces.append(rest)
            size += len(rest)
            self._answer_bytes -= len(rest)
        return b"".join(pieces)
