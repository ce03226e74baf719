"""TaskService: creates, claims, ends and reports tasks by unary calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from codeq.v1 import task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq_gateway.finishing import finish
from codeq_internal.v1 import rows_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import heartbeats, lookup, names, outcomes, reads, withdrawal
from codeq_server.core.clock import Now
from codeq_server.core.errors import CorruptRows, Reason, Rejection, invalid_field
from codeq_server.core.model import Caller
from codeq_server.core.new_task import NewTask
from codeq_server.core.outcomes import Verdict
from codeq_server.core.policy import STEPS_PER_TURN
from codeq_server.core.quotas import check_claim
from codeq_server.core.redrive import redrive_task
from codeq_server.core.status import ENDED, Outcome
from codeq_server.engine.runner import ShardRunner

from .artifacts import Artifacts, Uploads
from .auditing import Act
from .batch_bytes import BATCH_BYTES_MAX, check_results, check_tasks
from .claiming import Lease, allowed_commands, claim_now, claim_or_wait, return_unused
from .cleaning import clean
from .convert import (
    add_history,
    fill_claimed_task,
    fill_new_task,
    fill_outcome,
    item_error,
    result_message,
    status_number,
    task_message,
    timestamp,
)
from .creating import batch_of, charged_task_of, check_in_turns
from .deciding import decide
from .explaining import explanation
from .fingerprint import NULL
from .listing import NEWEST, list_tasks
from .newest_first import list_newest
from .rate_limits import DELIVERIES, RateLimits
from .validation import check_ending, check_json, check_message, kept_text

SLICE_TASKS: Final = 128
"""Tasks of a batch created without yielding to other callers."""
_OUTCOMES: Final = {
    task_pb2.TASK_STATUS_COMPLETED: Outcome.COMPLETED,
    task_pb2.TASK_STATUS_FAILED: Outcome.FAILED,
}


class TaskService:
    """Creates, claims, ends and reports tasks. Methods have the names and contracts of the proto's RPCs."""

    def __init__(
        self, runner: ShardRunner, default_lease_seconds: int, artifacts: Artifacts, rates: RateLimits
    ) -> None:
        self._runner = runner
        self._rates = rates
        self._artifacts = artifacts
        self._default_lease_ms = default_lease_seconds * 1000

    async def CreateTask(self, claims: Claims, request: pb.CreateTaskRequest) -> pb.CreateTaskResponse:  # noqa: N802
        """Creates one task."""
        response = pb.CreateTaskResponse()
        claims.check_command(request.spec.command)
        self._create(response.task, claims, request.spec, self._runner.now(), "spec.")
        await self._settled()
        return response

    async def BatchCreateTasks(  # noqa: N802
        self, claims: Claims, request: pb.BatchCreateTasksRequest
    ) -> pb.BatchCreateTasksResponse:
        """Creates several tasks, independently or atomically."""
        check_tasks(request)
        if request.HasField("idempotency_key") and not request.atomic:
            raise invalid_field("idempotency_key", "is only for atomic batches; in others each task may have its own")
        response = pb.BatchCreateTasksResponse()
        if request.atomic:
            await self._create_all(response, claims, request)
        else:
            await self._create_each(response, claims, request)
        await self._settled()
        return response

    async def ClaimTask(self, claims: Claims, request: pb.ClaimTaskRequest) -> pb.ClaimTaskResponse:  # noqa: N802
        """Claims one task; the response is empty if none becomes available in time."""
        lease = self._lease_of(request)
        response = pb.ClaimTaskResponse()
        await self._claim(claims, request.commands, 1, lease, request.wait_seconds, lambda: response.task)
        return response

    async def ClaimTasks(self, claims: Claims, request: pb.ClaimTasksRequest) -> pb.ClaimTasksResponse:  # noqa: N802
        """Claims several tasks; the response is empty if none becomes available in time."""
        lease = self._lease_of(request)
        response = pb.ClaimTasksResponse()
        await self._claim(claims, request.commands, request.count, lease, request.wait_seconds, response.tasks.add)
        return response

    async def HeartbeatTask(  # noqa: N802
        self, claims: Claims, request: pb.HeartbeatTaskRequest
    ) -> pb.HeartbeatTaskResponse:
        """Extends a lease."""
        token = request.lease_token if request.HasField("lease_token") else None
        extend_ms = request.extend_seconds * 1000 if request.HasField("extend_seconds") else None
        now = self._runner.now()
        token, until_ms = decide(
            self._runner,
            lambda: heartbeats.heartbeat(self._runner.shard, _caller(claims), request.task_id, token, extend_ms, now),
        )
        await self._settled()
        return pb.HeartbeatTaskResponse(lease_token=token, lease_until=timestamp(until_ms))

    async def SubmitResult(self, claims: Claims, request: pb.SubmitResultRequest) -> pb.SubmitResultResponse:  # noqa: N802
        """Ends a task as COMPLETED or FAILED."""
        response = pb.SubmitResultResponse()
        if request.artifacts:
            await self._submit_with_artifacts(response.result, claims, request)
        else:
            self._submit(response.result, claims, request, self._runner.now())
        await self._settled(decided=True)
        return response

    async def BatchSubmitResults(  # noqa: N802
        self, claims: Claims, request: pb.BatchSubmitResultsRequest
    ) -> pb.BatchSubmitResultsResponse:
        """Ends several tasks independently."""
        check_results(request)
        now, decided = self._runner.now(), False
        response = pb.BatchSubmitResultsResponse()
        for index, item in enumerate(request.results):
            if self._runner.is_full:
                now = await self._go_on(claims.tenant_id, decided=decided)
            answer = response.results.add(task_id=item.task_id)
            try:
                check_message(item)
                if item.artifacts:
                    await self._submit_with_artifacts(answer.result, claims, item)
                    decided, now = True, self._runner.now()
                else:
                    self._submit(answer.result, claims, item, now)
                    decided = True
            except Rejection as rejection:
                answer.error.CopyFrom(item_error(index, rejection))
        await self._settled(decided=decided)
        return response

    async def NackTask(self, claims: Claims, request: pb.NackTaskRequest) -> pb.NackTaskResponse:  # noqa: N802
        """Nacks a delivery, so that the task is tried again."""
        token = request.lease_token if request.HasField("lease_token") else None
        delay_ms = request.delay_seconds * 1000 if request.HasField("delay_seconds") else None
        reason = kept_text(request.reason)
        verdict = await self._settle(claims, request.task_id, token, Outcome.NACK, reason, delay_ms)
        return pb.NackTaskResponse(status=status_number(verdict.status), delay_seconds=-(-verdict.delay_ms // 1000))

    async def AbandonTask(self, claims: Claims, request: pb.AbandonTaskRequest) -> pb.AbandonTaskResponse:  # noqa: N802
        """Abandons a delivery: gives it back unused."""
        token = request.lease_token if request.HasField("lease_token") else None
        delay_ms, park_key = request.delay_seconds * 1000, request.park_key
        verdict = await self._settle(claims, request.task_id, token, Outcome.ABANDON, "", delay_ms, park_key=park_key)
        return pb.AbandonTaskResponse(status=status_number(verdict.status), delay_seconds=-(-verdict.delay_ms // 1000))

    async def ReportProgress(  # noqa: N802
        self, claims: Claims, request: pb.ReportProgressRequest
    ) -> pb.ReportProgressResponse:
        """Stores the progress of a leased task."""
        progress = request.progress or NULL
        check_json(progress, "progress")
        token = request.lease_token if request.HasField("lease_token") else None
        extend_ms = request.extend_seconds * 1000 if request.HasField("extend_seconds") else None
        shard, now = self._runner.shard, self._runner.now()
        token, until_ms = decide(
            self._runner,
            lambda: heartbeats.report_progress(
                shard, _caller(claims), request.task_id, token, progress, extend_ms, now
            ),
        )
        await self._settled()
        return pb.ReportProgressResponse(lease_token=token, lease_until=timestamp(until_ms))

    async def CancelTask(self, claims: Claims, request: pb.CancelTaskRequest) -> pb.CancelTaskResponse:  # noqa: N802
        """Cancels a task at its producer's request."""
        shard, now = self._runner.shard, self._runner.now()
        self._view(claims, request.task_id)
        reason = kept_text(request.reason)
        decide(self._runner, lambda: withdrawal.cancel(shard, claims.tenant_id, request.task_id, reason, now))
        view = self._view(claims, request.task_id)
        await self._settled()
        return pb.CancelTaskResponse(task=task_message(view))

    async def GetTask(self, claims: Claims, request: pb.GetTaskRequest) -> pb.GetTaskResponse:  # noqa: N802
        """Returns a task with its delivery history."""
        view = self._view(claims, request.task_id)
        await self._settled()
        response = pb.GetTaskResponse(task=task_message(view))
        add_history(response.task, view)
        return response

    async def ListTasks(self, claims: Claims, request: pb.ListTasksRequest) -> pb.ListTasksResponse:  # noqa: N802
        """Returns a page of tasks."""
        if request.command:
            claims.check_command(request.command)
        list_them = list_newest if request.order_by == NEWEST else list_tasks
        return await list_them(self._runner, claims.tenant_id, request, claims.seen_commands)

    async def ExplainTask(self, claims: Claims, request: pb.ExplainTaskRequest) -> pb.ExplainTaskResponse:  # noqa: N802
        """Explains what a task is waiting for."""
        answer = explanation(self._runner, self._view(claims, request.task_id), self._runner.now())
        await self._settled()
        return answer

    async def RedriveTask(  # noqa: N802
        self, claims: Claims, request: pb.RedriveTaskRequest, act: Act
    ) -> pb.RedriveTaskResponse:
        """Redrives an ended task."""
        shard, now = self._runner.shard, self._runner.now()
        before = {"status": self._view(claims, request.task_id).status.name}
        decide(self._runner, lambda: redrive_task(shard, claims.tenant_id, request.task_id, now))
        view = self._view(claims, request.task_id)
        act.record(self._runner, before=before, after={"status": view.status.name})
        await self._settled()
        return pb.RedriveTaskResponse(task=task_message(view))

    async def CleanupTasks(  # noqa: N802
        self, claims: Claims, request: pb.CleanupTasksRequest, act: Act
    ) -> pb.CleanupTasksResponse:
        """Removes ended tasks before their retention ends."""
        return await clean(self._runner, claims, request, act)

    async def GetTaskResult(  # noqa: N802
        self, claims: Claims, request: pb.GetTaskResultRequest
    ) -> pb.GetTaskResultResponse:
        """Returns a task's result, waiting for its end if requested."""
        view = self._view(claims, request.task_id)
        until = self._runner.loop.time() + claims.patience(request.wait_seconds, self._runner.unix_seconds())
        while view.status not in ENDED and self._runner.loop.time() < until:
            key = view.key
            future = self._runner.ends.watch(key)
            try:
                async with asyncio.timeout_at(until):
                    await future
            except TimeoutError:
                pass
            finally:
                self._runner.ends.unwatch(key, future)
            # The task may have been redriven since it ended: then wait for its next end.
            view = self._view(claims, request.task_id)
        await self._settled()
        if view.status not in ENDED:
            raise Rejection(Reason.RESULT_NOT_FOUND, f"the task has not ended: it is {view.status.name}")
        return pb.GetTaskResultResponse(task=task_message(view), result=result_message(view))

    async def GetTaskArtifact(  # noqa: N802
        self, claims: Claims, request: pb.GetTaskArtifactRequest
    ) -> pb.GetTaskArtifactResponse:
        """Returns an artifact with its content."""
        tenant, task_id = claims.tenant_id, request.task_id
        return await self._artifacts.tell(tenant, task_id, request.name, lambda: self._view(claims, task_id))

    # ----------------------------------------------------------------------------------------------------------------

    async def _go_on(self, tenant: str, *, decided: bool) -> Now:
        """Yields to other callers until the batch has room again; returns the current time."""
        self._runner.changed()
        try:
            await asyncio.sleep(0)
            await self._runner.room(tenant)
            return self._runner.now()
        except Rejection as refusal:
            raise self._runner.refused(refusal, decided=decided) from None

    async def _settled(self, *, decided: bool = False) -> None:
        """Waits until everything the call saw is durable.

        Args:
            decided: Whether the call decided something and has awaited other things since.
        """
        self._runner.changed()
        try:
            future = self._runner.durable()
            if future is not None:
                await future
        except Rejection as refusal:
            raise self._runner.refused(refusal, decided=decided) from None

    def _create(
        self, message: task_pb2.Task, claims: Claims, spec: task_pb2.TaskSpec, now: Now, path: str = ""
    ) -> None:
        shard, tenant = self._runner.shard, claims.tenant_id
        task = charged_task_of(self._runner, tenant, spec, now, path)
        self._tell(message, claims, task, decide(self._runner, lambda: names.create(shard, tenant, task, now)), now)

    async def _create_each(
        self, response: pb.BatchCreateTasksResponse, claims: Claims, request: pb.BatchCreateTasksRequest
    ) -> None:
        now, checker = self._runner.now(), self._runner.shard.policies.checker
        first, begun = 0, checker.steps
        for index, spec in enumerate(request.tasks):
            if index - first >= SLICE_TASKS or checker.steps - begun >= STEPS_PER_TURN:
                now = await self._go_on(claims.tenant_id, decided=True)
                first, begun = index, checker.steps
            answer = response.results.add()
            try:
                check_message(spec)
                claims.check_command(spec.command)
                self._create(answer.task, claims, spec, now)
            except Rejection as rejection:
                answer.error.CopyFrom(item_error(index, rejection))

    async def _create_all(
        self, response: pb.BatchCreateTasksResponse, claims: Claims, request: pb.BatchCreateTasksRequest
    ) -> None:
        self._runner.now()  # raises if the runner no longer decides
        shard, tenant = self._runner.shard, claims.tenant_id
        for spec in request.tasks:
            claims.check_command(spec.command)
        check = await check_in_turns(self._runner, tenant, request.tasks)
        now = self._runner.now()
        tasks, batch = batch_of(shard, tenant, request.tasks, request.idempotency_key, now, check)
        made = decide(self._runner, lambda: names.create_all(self._runner.shard, tenant, tasks, batch, now))
        for index, (task, created) in enumerate(zip(tasks, made, strict=True)):
            answer = response.results.add()
            if created is None:
                gone = Rejection(Reason.TASK_NOT_FOUND, "the task was removed after its retention")
                answer.error.CopyFrom(item_error(index, gone))
            else:
                self._tell(answer.task, claims, task, created, now)

    def _tell(
        self,
        message: task_pb2.Task,
        claims: Claims,
        task: NewTask,
        created: names.Created | names.Duplicate,
        now: Now,
    ) -> None:
        """Fills a message with a task just created, or with the one an earlier identical request created."""
        if isinstance(created, names.Created):
            due_ms = task.due_ms if task.due_ms > now.wall_ms else None
            fill_new_task(message, created.task_id, claims.tenant_id, created.raw, due_ms)
        else:
            message.CopyFrom(task_message(self._view(claims, created.task_id)))
            message.duplicate = True

    async def _submit_with_artifacts(
        self, record: task_pb2.TaskResult, claims: Claims, request: pb.SubmitResultRequest
    ) -> None:
        token = request.lease_token if request.HasField("lease_token") else None
        uploads = Uploads(self._artifacts, _caller(claims))

        async def upload_and_submit() -> None:
            rows = await uploads.add(request.task_id, token, request.artifacts)
            self._submit(record, claims, request, self._runner.now(), rows)

        await finish(upload_and_submit(), uploads.settle)

    def _submit(
        self,
        record: task_pb2.TaskResult,
        claims: Claims,
        request: pb.SubmitResultRequest,
        now: Now,
        artifacts: Sequence[rows_pb2.ArtifactRow] = (),
    ) -> None:
        outcome = _OUTCOMES[request.status]
        result = request.result if request.HasField("result") else None
        check_ending(outcome, result, request.error)
        token = request.lease_token if request.HasField("lease_token") else None
        error = kept_text(request.error) if outcome is Outcome.FAILED else ""
        verdict = decide(
            self._runner,
            lambda: outcomes.settle(
                self._runner.shard,
                _caller(claims),
                request.task_id,
                token,
                outcome,
                result,
                error,
                None,
                0,
                now,
                artifacts=artifacts,
            ),
        )
        fill_outcome(record, request.task_id, verdict, result, error, artifacts)

    async def _settle(
        self,
        claims: Claims,
        task_id: str,
        token: int | None,
        outcome: Outcome,
        reason: str,
        delay_ms: int | None,
        *,
        park_key: bool = False,
    ) -> Verdict:
        shard, now, jitter = self._runner.shard, self._runner.now(), self._runner.random()
        verdict = decide(
            self._runner,
            lambda: outcomes.settle(
                shard, _caller(claims), task_id, token, outcome, None, reason, delay_ms, jitter, now, park_key=park_key
            ),
        )
        await self._settled()
        return verdict

    def _lease_of(self, request: pb.ClaimTaskRequest | pb.ClaimTasksRequest) -> Lease:
        if request.HasField("lease_seconds"):
            return Lease(request.lease_seconds * 1000, is_default=False)
        return Lease(self._default_lease_ms, is_default=True)

    async def _claim(
        self,
        claims: Claims,
        commands: Sequence[str],
        count: int,
        lease: Lease,
        wait_seconds: int,
        place: Callable[[], task_pb2.Task],
    ) -> None:
        runner = self._runner
        wanted = allowed_commands(claims, commands)
        caller = _caller(claims)
        check_claim(runner.shard, caller.tenant)
        claimed = claim_now(runner, caller, wanted, count, BATCH_BYTES_MAX, lease)
        if claimed is None and wait_seconds:
            # A claim whose token ends while it waits gets no work; the next claim with that token is rejected.
            patience = claims.patience(wait_seconds, runner.unix_seconds())
            claimed = await claim_or_wait(runner, caller, wanted, count, BATCH_BYTES_MAX, lease, patience)
        if claimed is None:
            await self._settled()
            return
        claim, deliveries = claimed
        if len(deliveries) > 1:
            self._rates.charge(DELIVERIES, claims, len(deliveries) - 1)  # the call has paid for the first
        for delivered in deliveries:
            error = reads.last_error(runner.shard, delivered.task_id) if delivered.attempts > 1 else None
            fill_claimed_task(place(), delivered, claim, claims.tenant_id, error)
        try:
            await self._settled(decided=True)
        except asyncio.CancelledError:
            return_unused(runner, claim, [d.task_id for d in deliveries])
            raise

    def _view(self, claims: Claims, task_id: str) -> reads.TaskView:
        shard, tenant = self._runner.shard, claims.tenant_id
        try:
            if not (claims.seen_commands is None or claims.sees(lookup.command_of(shard, tenant, task_id))):
                raise lookup.not_found(task_id)  # as for another tenant's task
            return reads.get_task(shard, tenant, task_id, self._runner.now())
        except CorruptRows as problem:
            raise Rejection(
                Reason.CORRUPT_DATA, f"the stored data of the task contradict each other: {problem}"
            ) from None


def _caller(claims: Claims) -> Caller:
    return Caller(claims.tenant_id, claims.subject, claims.subject)
