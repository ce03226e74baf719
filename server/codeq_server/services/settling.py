"""Outcomes, heartbeats and progress that a worker sends over a stream, and the answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from codeq.v1 import error_pb2, task_pb2
from codeq.v1 import worker_service_pb2 as pb
from codeq_gateway.finishing import finish
from codeq_internal.v1 import rows_pb2

from codeq_server.core import outcomes
from codeq_server.core.clock import Now
from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.core.model import Caller
from codeq_server.core.status import Outcome
from codeq_server.engine.runner import ShardRunner

from .artifacts import Artifacts, Filed, Uploads, take_filed
from .auditing import DENIALS, record_denial
from .claiming import Lease
from .convert import reason_number
from .running import extend, keep_progress
from .stream_token import StreamToken
from .validation import check_ending, check_message, is_json, kept_text

RESULT_BYTES_MAX: Final = 1 << 20
ITEMS_MAX: Final = 4096
"""Maximum number of outcomes, of heartbeats and of progress reports in one message."""
SLICE_OUTCOMES_MAX: Final = 64
"""Outcomes decided between two checks of the batch's size; each may carry its task's progress along."""
HEARTBEAT_SCOPE: Final = "codeq:heartbeat"

_CALL: Final = "Work"
_SCOPES: Final = {
    Outcome.COMPLETED: "codeq:result",
    Outcome.FAILED: "codeq:result",
    Outcome.NACK: "codeq:nack",
    Outcome.ABANDON: "codeq:abandon",
}
_ENDS: Final = frozenset({Outcome.COMPLETED, Outcome.FAILED})
_OUTCOMES: Final = {int(outcome): outcome for outcome in _SCOPES}


def check_items(message: pb.WorkRequest) -> None:
    """Checks how many items a message has.

    Raises:
        Rejection: TOO_LARGE.
    """
    if max(len(message.outcomes), len(message.heartbeats), len(message.progress)) > ITEMS_MAX:
        raise Rejection(Reason.TOO_LARGE, f"more than {ITEMS_MAX} outcomes, heartbeats or progress in one message")


class Settling:
    """Applies what a worker sends about its tasks.

    Attributes:
        answer: What the worker has to be told; its owner sends it and puts another one in its place.
        has_answer: Whether there is anything in it.

    Args:
        runner: Runner of the shard.
        token: Token of the stream.
        caller: The worker.
        lease: Length of its leases.
        artifacts: Stores artifacts of results.
        origin: Address of the worker in gRPC's form.
    """

    def __init__(
        self,
        runner: ShardRunner,
        token: StreamToken,
        caller: Caller,
        lease: Lease,
        artifacts: Artifacts,
        origin: str,
    ) -> None:
        self.answer = pb.WorkResponse()
        self.has_answer = False
        self._runner = runner
        self._token = token
        self._caller = caller
        self._lease = lease
        self._artifacts = artifacts
        self._origin = origin
        self._filed: Filed = {}
        """Artifacts of the outcomes of the message being processed."""
        self._denial: Rejection | None = None
        """Why an outcome of that message was refused access; None: none was."""
        self._number = 0

    async def take(self, message: pb.WorkRequest) -> None:
        """Applies a message without artifacts.

        Raises:
            Rejection: TOO_LARGE, MISSING_SCOPE, OUTCOME_UNKNOWN.
        """
        check_items(message)
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

    async def take_with_artifacts(self, message: pb.WorkRequest) -> None:
        """Stores the artifacts of a message, and applies it.

        Raises:
            Rejection: TOO_LARGE, INVALID_FIELD, MISSING_SCOPE, OUTCOME_UNKNOWN.
        """
        uploads = Uploads(self._artifacts, self._caller)
        await finish(self._upload_and_take(uploads, message), uploads.settle)

    def cancelled(self, task_id: str, token: int) -> None:
        """Adds to the answer that a task was cancelled."""
        self.answer.cancelled.add(task_id=task_id, lease_token=token, reason=error_pb2.ERROR_REASON_TASK_ENDED)
        self.has_answer = True

    def returned(self, count: int) -> None:
        """Adds to the answer that credits were returned."""
        self.answer.returned_credits += count
        self.has_answer = True

    async def _upload_and_take(self, uploads: Uploads, message: pb.WorkRequest) -> None:
        self._filed = await take_filed(uploads, message)
        await self.take(message)
        self._filed = {}

    def _record_denial(self, denial: Rejection) -> None:
        claims = self._token.claims
        denial.subject, denial.tenant = claims.subject, claims.tenant_id
        record_denial(self._runner, _CALL, denial, self._origin)
        self._denial = None

    def _settle(self, items: Sequence[task_pb2.Outcome]) -> None:
        runner, caller = self._runner, self._caller
        shard, now = runner.shard, runner.now()
        may_complete = _SCOPES[Outcome.COMPLETED] in self._token.claims.scopes and not self._filed
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
        self.answer.settled += len(items)
        self.has_answer = True

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
            self.answer.outcome_errors.add(
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
        self._token.claims.require(_SCOPES[outcome])
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
        self._token.claims.require(HEARTBEAT_SCOPE)
        extend(self._runner, self._caller, message.heartbeats, self._lease, self.answer)
        self.has_answer = True

    def _keep_progress(self, message: pb.WorkRequest) -> None:
        self._token.claims.require(HEARTBEAT_SCOPE)
        self.has_answer |= keep_progress(self._runner, self._caller, message.progress, self.answer)
