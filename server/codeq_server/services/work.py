"""The worker stream: tasks out within credits, outcomes and heartbeats in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from codeq.v1 import error_pb2, producer_service_pb2, task_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq_gateway.finishing import finish
from codeq_internal.v1 import rows_pb2

from codeq_server.core import claims as core_claims
from codeq_server.core import outcomes
from codeq_server.core.claims import CLAIM_MAX, Delivered
from codeq_server.core.clock import Now
from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.core.model import Caller, Claim
from codeq_server.core.status import Outcome
from codeq_server.core.task_bytes import splice
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner

from .artifacts import Artifacts, Filed, Uploads, take_filed
from .auditing import DENIALS, record_denial
from .claiming import allowed_commands, return_unused
from .convert import reason_number
from .handshake import PROTOCOL, SERVER_VERSION, opening
from .outbox import Outbox
from .pacing import Pacing
from .rate_limits import RateLimits
from .running import extend, keep_progress
from .stream_token import StreamToken
from .streams import StreamRegistry, hello_of, protocol_error
from .validation import check_ending, check_message, is_json, kept_text

CREDITS_MAX: Final = 65_536
CREDIT_BYTES_MAX: Final = 1 << 30
RESULT_BYTES_MAX: Final = 1 << 20
ITEMS_MAX: Final = 4096
"""Maximum number of outcomes, of heartbeats and of progress reports in one message."""
SLICE_OUTCOMES_MAX: Final = 64
"""Outcomes decided between two checks of the batch's size; each may carry its task's progress along."""
FRAMES_AHEAD: Final = 2
"""Maximum number of responses waiting for the disk or the client; all further answers are collected in one more
response."""
OPEN_CLAIMS_MIN: Final = 64
"""Number of recorded claims of a stream at which finished claims are dropped."""
FRAME_TASKS_MAX: Final = 512
"""Maximum tasks in one response; bounds how long encoding blocks the event loop."""
FRAME_BYTES_MAX: Final = 1 << 20
"""Maximum task bytes in one response, not counting its last task: clients accept messages of 4 MiB by default."""

_CALL: Final = "Work"
_SCOPES: Final = {
    Outcome.COMPLETED: "codeq:result",
    Outcome.FAILED: "codeq:result",
    Outcome.NACK: "codeq:nack",
    Outcome.ABANDON: "codeq:abandon",
}
_ENDS: Final = frozenset({Outcome.COMPLETED, Outcome.FAILED})
_OUTCOMES: Final = {int(outcome): outcome for outcome in _SCOPES}
_TASKS: Final = pb.WorkResponse.TASKS_FIELD_NUMBER


@dataclass(slots=True)
class _Frame:
    """A response: the encoded tasks, the claims of those tasks until they are sent, and everything else."""

    tasks: bytes
    claims: list[tuple[Claim, list[Delivered]]]
    rest: bytes


class WorkerStream:
    """One worker's stream."""

    def __init__(
        self,
        runner: ShardRunner,
        token: StreamToken,
        registry: StreamRegistry,
        default_lease_seconds: int,
        artifacts: Artifacts,
        context: Any,
        rates: RateLimits,
    ) -> None:
        self._runner = runner
        self._token = token
        self._claims = claims = token.claims
        self._registry = registry
        self._artifacts = artifacts
        self._filed: Filed = {}
        """Artifacts of the outcomes of the message being processed."""
        self._denial: Rejection | None = None
        """Why an outcome of that message was refused access; None: none was."""
        self._context = context
        self._caller = Caller(claims.tenant_id, claims.subject, claims.subject)
        self._asked: Sequence[str] = ()
        """The commands of the hello."""
        self._commands: list[str] | None = None
        self._lease_seconds = default_lease_seconds
        self._credits = 0
        self._credit_bytes: int | None = None
        self._draining = False
        self._closing = False
        self._full = False
        self._pacing = Pacing(rates, token, partial(runner.admission.push, claims.tenant_id, self._go_on))
        self._number = 0
        self._answer = pb.WorkResponse()
        self._answers = False
        self._open: dict[int, Claim] = {}
        self._open_max = OPEN_CLAIMS_MIN
        self._outbox: Outbox[_Frame] = Outbox(runner)
        self._writing = asyncio.Lock()
        self._first: pb.WorkRequest | None = None
        """The message with the hello, until it is processed."""

    async def run(self) -> None:
        """Serves the stream until the client half-closes.

        Raises:
            Rejection: Why the stream ends.
        """
        self._first = await hello_of(self._context, pb.WorkRequest)
        opened = self._greet(self._first.hello)
        welcome = pb.WorkerWelcome(
            tenant_id=self._caller.tenant,
            worker_id=self._caller.worker,
            lease_seconds=self._lease_seconds,
            credits_max=CREDITS_MAX,
            server_version=SERVER_VERSION,
            protocol=PROTOCOL,
        )
        try:
            await self._registry.serve(self.notify, self._token, partial(self._serve, welcome, opened))
        finally:
            self._draining = True  # a turn may still be to come
            self._runner.waiting.leave(self)
            self._pacing.end()
            for claim in self._open.values():
                claim.holder = None
            for frame in self._outbox.unsent():
                for claim, delivered in frame.claims:
                    return_unused(self._runner, claim, [d.task_id for d in delivered])

    async def _serve(self, welcome: pb.WorkerWelcome, opened: Callable[[], None], group: asyncio.TaskGroup) -> None:
        opened()
        await self._write(pb.WorkResponse(welcome=welcome).SerializeToString())
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
        reason = error_pb2.ERROR_REASON_TASK_ENDED
        self._answer.cancelled.add(task_id=task_id, lease_token=token, reason=reason)
        self._answers = True
        self._runner.admission.push(self._caller.tenant, self._go_on)

    def drain(self, _: Rejection) -> None:
        """Stops waiting for work; the client is notified separately."""
        self._draining = True

    # -- in ----------------------------------------------------------------------------------------------------------

    def _greet(self, hello: pb.WorkerHello) -> Callable[[], None]:
        """Applies the hello; returns what logs that the stream was opened."""
        check_message(hello)
        if hello.name:
            self._caller = self._caller._replace(worker=f"{self._caller.subject}/{hello.name}")
        if hello.HasField("lease_seconds"):
            self._lease_seconds = hello.lease_seconds
        self._asked = hello.commands
        self._commands = allowed_commands(self._claims, self._asked)
        self._token.on_change = self._apply
        return opening(_CALL, self._claims, hello.name, hello.client, self._context.peer())

    def _apply(self) -> None:
        """Applies changed claims of the token.

        Raises:
            Rejection: COMMAND_NOT_ALLOWED: they no longer allow the commands of the hello.
        """
        self._claims = self._token.claims
        self._commands = allowed_commands(self._claims, self._asked)
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
            await self._runner.room(self._caller.tenant, CALL_COST + items)
            if message.token:
                await self._token.renew(message.token)
            if message.artifacts:
                await self._take_with_artifacts(message)
            else:
                await self._take(message)
            before = self._runner.shard.totals.claimed
            self._pump()
            self._runner.admission.charge(self._caller.tenant, self._runner.shard.totals.claimed - before)
            message = None  # frees the message while waiting for the next one
            message = await self._context.read()

    async def _take_with_artifacts(self, message: pb.WorkRequest) -> None:
        uploads = Uploads(self._artifacts, self._caller)
        await finish(self._upload_and_take(uploads, message), uploads.settle)

    async def _upload_and_take(self, uploads: Uploads, message: pb.WorkRequest) -> None:
        self._filed = await take_filed(uploads, message)
        await self._take(message)
        self._filed = {}

    async def _take(self, message: pb.WorkRequest) -> None:
        if max(len(message.outcomes), len(message.heartbeats), len(message.progress)) > ITEMS_MAX:
            raise Rejection(Reason.TOO_LARGE, f"more than {ITEMS_MAX} outcomes, heartbeats or progress in one message")
        if message.progress:
            self._keep_progress(message)
        for first in range(0, len(message.outcomes), SLICE_OUTCOMES_MAX):
            if first and self._runner.is_full:
                self._runner.changed()
                await self._runner.room(self._caller.tenant)
            self._settle(message.outcomes[first : first + SLICE_OUTCOMES_MAX])
        if self._denial is not None:
            self._record_denial(self._denial)
        if message.heartbeats:
            self._extend(message)
        self._add_credits(message.add_credits, message.add_credit_bytes)
        if message.drain:
            self._draining = True
            self._runner.waiting.leave(self)

    def _record_denial(self, denial: Rejection) -> None:
        denial.subject, denial.tenant = self._claims.subject, self._claims.tenant_id
        record_denial(self._runner, _CALL, denial, self._context.peer())
        self._denial = None

    def _add_credits(self, count: int, size: int) -> None:
        if count < 0 or self._credits + count > CREDITS_MAX:
            raise invalid_field("add_credits", f"is negative, or makes the total more than {CREDITS_MAX}")
        self._credits += count
        if not 0 <= size <= CREDIT_BYTES_MAX:
            raise invalid_field("add_credit_bytes", f"must be between 0 and {CREDIT_BYTES_MAX}")
        if size:
            self._credit_bytes = min((self._credit_bytes or 0) + size, CREDIT_BYTES_MAX)

    def _settle(self, items: Sequence[task_pb2.Outcome]) -> None:
        runner, caller = self._runner, self._caller
        shard, now = runner.shard, runner.now()
        may_complete = _SCOPES[Outcome.COMPLETED] in self._claims.scopes and not self._filed
        try:
            for item in items:
                self._number += 1
                result = item.result
                # Fast path: these checks are stricter than the proto's rules, and cheaper.
                if not (
                    may_complete
                    and item.kind == task_pb2.OUTCOME_KIND_COMPLETED
                    and 0 < len(result) <= RESULT_BYTES_MAX
                    and not item.error
                    and is_json(result)
                    and outcomes.complete(shard, caller, item.task_id, item.lease_token, result, now)
                ):
                    self._settle_one(item, now)
        except Exception as problem:
            raise runner.fail(problem) from problem
        self._answer.settled += len(items)
        self._answers = True

    def _settle_one(self, item: task_pb2.Outcome, now: Now) -> None:
        """Settles an outcome with full validation; a rejection goes into the answer."""
        try:
            outcome, result = self._checked(item)
            artifacts = self._artifacts_of(item, outcome)
            delay_ms = item.delay_seconds * 1000 if item.HasField("delay_seconds") else None
            jitter = self._runner.random()
            token = item.lease_token
            outcomes.settle(
                self._runner.shard,
                self._caller,
                item.task_id,
                token,
                outcome,
                result,
                kept_text(item.error),
                delay_ms,
                jitter,
                now,
                artifacts=artifacts,
                park_key=item.park_key,
            )
        except Rejection as rejection:
            if rejection.reason in DENIALS:
                self._denial = rejection
            self._answer.outcome_errors.add(
                number=self._number,
                task_id=item.task_id[:64],
                reason=reason_number(rejection),
                message=rejection.message,
            )

    def _checked(self, item: task_pb2.Outcome) -> tuple[Outcome, bytes | None]:
        """Returns the validated kind and result of an outcome."""
        outcome = _OUTCOMES.get(item.kind)
        result = item.result if item.HasField("result") else None
        check_message(item)
        if outcome is None:
            raise invalid_field("kind", "must be an outcome")
        self._claims.require(_SCOPES[outcome])
        check_ending(outcome, result, item.error)
        return outcome, result

    def _artifacts_of(self, item: task_pb2.Outcome, outcome: Outcome) -> Sequence[rows_pb2.ArtifactRow]:
        artifacts = self._filed.get((item.task_id, item.lease_token), ())
        if isinstance(artifacts, Rejection):
            raise artifacts
        if artifacts and outcome not in _ENDS:
            raise invalid_field("artifacts", "are allowed only for COMPLETED and FAILED")
        return artifacts

    def _extend(self, message: pb.WorkRequest) -> None:
        self._claims.require("codeq:heartbeat")
        extend(self._runner, self._caller, message.heartbeats, self._lease_seconds, self._answer)
        self._answers = True

    def _keep_progress(self, message: pb.WorkRequest) -> None:
        self._claims.require("codeq:heartbeat")
        self._answers |= keep_progress(self._runner, self._caller, message.progress, self._answer)

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
        for claim in list(self._open.values()):
            if claim.live:
                await self._runner.room(self._caller.tenant, CALL_COST + claim.live)
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
            claims = self._claim(in_turn=in_turn) if self._credits and not self._draining else []
            self._runner.changed()
            if not claims and not self._answers:
                return
            rest = b""
            if self._answers:
                rest = self._answer.SerializeToString()
                self._answer = pb.WorkResponse()
                self._answers = False
            self._outbox.put(_Frame(self._encode(claims), claims, rest))

    def _claim(self, *, in_turn: bool) -> list[tuple[Claim, list[Delivered]]]:
        if self._pacing.waits:
            return []
        runner = self._runner
        now = runner.now()
        got: list[tuple[Claim, list[Delivered]]] = []
        tasks = 0
        tasks_max = min(FRAME_TASKS_MAX, self._pacing.allowed())
        room = FRAME_BYTES_MAX if self._credit_bytes is None else min(FRAME_BYTES_MAX, self._credit_bytes)
        # Otherwise a stream would take the leases that it ends itself, and all others would starve.
        if not in_turn and runner.line_up(self, self._caller.tenant, self._commands):
            self._pacing.delivered(0)
            return got
        if not in_turn and runner.gives_way(self._caller.tenant, self._commands):
            self._pacing.delivered(0)
            runner.admission.push(self._caller.tenant, self._go_on)  # after those that are being woken
            return got
        while self._credits and tasks < tasks_max and room > 0:
            count = min(self._credits, CLAIM_MAX, tasks_max - tasks)
            try:
                claimed = core_claims.claim(
                    runner.shard, self._caller, self._commands, count, room, self._lease_seconds * 1000, now
                )
            except Exception as problem:
                raise runner.fail(problem) from problem
            if claimed is None:
                runner.waiting.wait(self, self._caller.tenant, self._commands)
                break
            claim, delivered = claimed
            got.append(claimed)
            room -= sum(len(d.raw) for d in delivered)
            self._credits -= len(delivered)
            tasks += len(delivered)
            self._remember(claim)
        self._pacing.delivered(tasks)
        if tasks == tasks_max < FRAME_TASKS_MAX and self._credits and room > 0:
            # At a rate limit: waits for it if there is work, and otherwise for work.
            if core_claims.has_work(runner.shard, self._caller.tenant, self._commands):
                self._pacing.wait(min(self._credits, FRAME_TASKS_MAX))
            else:
                runner.waiting.wait(self, self._caller.tenant, self._commands)
        return got

    def _remember(self, claim: Claim) -> None:
        """Records a claim for `_close`, and drops finished claims whenever the number of claims has doubled."""
        self._open[claim.token] = claim
        claim.holder = self
        if len(self._open) > self._open_max:
            self._open = {token: held for token, held in self._open.items() if held.live}
            self._open_max = max(OPEN_CLAIMS_MIN, 2 * len(self._open))

    def _encode(self, claims: list[tuple[Claim, list[Delivered]]]) -> bytes:
        """Returns WorkResponse.tasks in wire form: stored task bytes with further fields appended, not re-encoded."""
        pieces: list[bytes] = []
        now = self._runner.now()
        size = 0
        for claim, delivered in claims:
            until_ms = now.wall_ms + claim.until - now.mono_ms
            size += splice(pieces, _TASKS, delivered, claim.token, until_ms, named=claim.named)
        if self._credit_bytes is not None:
            self._credit_bytes = max(0, self._credit_bytes - size)
        return b"".join(pieces)

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
            self._runner.admission.push(self._caller.tenant, self._go_on)
