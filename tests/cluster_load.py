"""Load of every kind on a cluster during failures, with a ledger of everything acknowledged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

import grpc
from cluster_client import Follower, OutcomeUnknown, Refused, reason_of
from cluster_ledger import COMMANDS, DOES, LEASE_SECONDS, Attempt, Delivery, End, Ledger
from cluster_process import STRANGER_TOKEN, TOKEN
from codeq.v1 import error_pb2, queue_service_pb2, task_pb2
from codeq.v1 import task_service_pb2 as pb
from codeq.v1 import worker_service_pb2 as work_pb

PRODUCERS: Final = 12
STREAMS: Final = 2
CREDITS: Final = 64
PAUSE_SECONDS: Final = 0.03
"""Pause of a producer after each create, so that the cluster, not its clients, keeps the machine busy."""
SILENCE_SECONDS: Final = 1.5
"""A stream that receives nothing for this long is abandoned: its node may be paused or isolated."""
ATTEMPTS_MAX: Final = 1000
HOLD_SECONDS: Final = 1.5 * LEASE_SECONDS
BATCH_TASKS: Final = 4
SETTLE_SECONDS: Final = 60.0
"""Time for an answer to a call that is retried until it is answered."""
COMPLETED, FAILED, NACK = (
    task_pb2.OUTCOME_KIND_COMPLETED,
    task_pb2.OUTCOME_KIND_FAILED,
    task_pb2.OUTCOME_KIND_NACK,
)
_STATUS: Final = {COMPLETED: "COMPLETED", FAILED: "FAILED"}
_OVER: Final = frozenset({"STALE_LEASE_TOKEN", "TASK_NOT_CLAIMED", "NOT_LEASE_OWNER", "TASK_ENDED"})
"""Rejections of an outcome whose lease has ended."""


def seconds_of(stamp: Any) -> float:
    """Returns a timestamp as Unix time."""
    return float(stamp.seconds) + float(stamp.nanos) / 1e9


class Load:
    """Producers and workers of a cluster.

    Attributes:
        ledger: Their records.
        client: Follows the leader for unary calls.
    """

    def __init__(self, addresses: list[str], ledger: Ledger, seed: int, *, fill: int = 0) -> None:
        self.ledger = ledger
        self.client = Follower(addresses, TOKEN)
        self._streams = [Follower(addresses, TOKEN) for _ in range(STREAMS)]
        self._stranger = Follower(addresses, STRANGER_TOKEN)
        self._chance = random.Random(seed)
        self._fill = "x" * fill
        self._producing: list[asyncio.Task[None]] = []
        self._working: list[asyncio.Task[None]] = []
        self._late: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    @property
    def followers(self) -> list[Follower]:
        """Every client that follows the leader."""
        return [self.client, self._stranger, *self._streams]

    async def prepare(self) -> None:
        """Does to the cluster whatever must precede the load."""

    def start(self) -> None:
        """Starts producers and workers."""
        self._producing = [asyncio.create_task(self._produce()) for _ in range(PRODUCERS)]
        self._working = [asyncio.create_task(self._work(follower)) for follower in self._streams]
        self._working += [asyncio.create_task(self._poll()), asyncio.create_task(self._trespass())]

    def check(self) -> None:
        """Raises the first error of a client, if any."""
        for task in [*self._producing, *self._working, *self._late]:
            if task.done() and not task.cancelled() and (problem := task.exception()) is not None:
                raise problem

    async def stop_creating(self) -> None:
        """Lets producers finish; workers continue."""
        self._stop.set()
        await asyncio.gather(*self._producing)

    async def close(self) -> None:
        """Ends everything."""
        tasks = [*self._producing, *self._working, *self._late]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for follower in self.followers:
            await follower.__aexit__(None, None, None)

    async def settled(self) -> None:
        """Returns once this client has nothing more to report about a task."""
        while self._late:
            await asyncio.gather(*self._late)

    # -- producers ---------------------------------------------------------------------------------------------------

    async def _produce(self) -> None:
        kinds, weights = list(DOES), list(DOES.values())
        while not self._stop.is_set():
            (kind,) = self._chance.choices(kinds, weights)
            with suppress(OutcomeUnknown):  # unacknowledged creates do not count
                if kind == "batch":
                    await self._create_batch()
                else:
                    await self._create(kind)
            await asyncio.sleep(PAUSE_SECONDS * self._chance.uniform(0.5, 1.5))

    async def _create(self, kind: str) -> None:
        delays = {"delayed": 1.0, "cancel": 2.0, "scheduled": self._chance.uniform(0.1, 3)}
        delay = delays.get(kind, 0.0)
        attempt = self.ledger.attempt(kind, time.time() + delay if delay else 0.0)
        spec = self._spec(attempt)
        if kind == "scheduled":
            spec.run_at.FromNanoseconds(int(attempt.due * 1e9))
            attempt.due = seconds_of(spec.run_at) - 0.001  # the server keeps milliseconds
        elif delay:
            spec.delay_seconds = int(delay)
        keyed = kind == "keyed"
        if keyed:
            spec.idempotency_key = f"key-{attempt.number}"
        answer, address = await self._sent("CreateTask", pb.CreateTaskRequest(spec=spec), again=keyed)
        self.ledger.created(attempt, answer.task.id, address)
        if keyed and self._chance.random() < 0.3:
            answer, address = await self._sent("CreateTask", pb.CreateTaskRequest(spec=spec), again=True)
            self.ledger.created(attempt, answer.task.id, address)
            if not answer.task.duplicate:
                self.ledger.problem(f"I5: create {attempt.number} was repeated, and the answer is no duplicate")
        if kind == "cancel":
            await self._cancel(attempt)

    async def _create_batch(self) -> None:
        attempts = [self.ledger.attempt("batch") for _ in range(BATCH_TASKS)]
        request = pb.BatchCreateTasksRequest(tasks=[self._spec(attempt) for attempt in attempts], atomic=True)
        answer, address = await self._sent("BatchCreateTasks", request, again=False)
        for attempt, item in zip(attempts, answer.results, strict=True):
            self.ledger.created(attempt, item.task.id, address)

    async def _cancel(self, attempt: Attempt) -> None:
        attempt.cancelled = "sent"
        try:
            await self._sent("CancelTask", pb.CancelTaskRequest(task_id=attempt.task_id), again=True)
        except Refused as refused:
            if refused.reason != "TASK_ENDED":
                self.ledger.problem(f"I1: the cancel of {attempt.task_id} was refused: {refused}")
        else:
            attempt.cancelled = "acknowledged"

    def _spec(self, attempt: Attempt) -> task_pb2.TaskSpec:
        attempts = 2 if attempt.kind == "dead" else ATTEMPTS_MAX
        payload = json.dumps({"n": attempt.number, "kind": attempt.kind, "fill": self._fill}).encode()
        return task_pb2.TaskSpec(command=self._chance.choice(COMMANDS), payload=payload, max_attempts=attempts)

    async def _sent(self, method: str, request: Any, *, again: bool) -> tuple[Any, str]:
        return await self.client.call("tasks", method, request, again=again, seconds=SETTLE_SECONDS)

    # -- workers -----------------------------------------------------------------------------------------------------

    async def _work(self, follower: Follower) -> None:
        """Works over a stream, and opens another one whenever it ends."""
        while True:
            node = follower.node()
            stream = _Stream(self, node.address)
            leader = ""
            try:
                call: Any = node.stubs["work"].Work(metadata=follower.metadata)
                leader = await stream.run(call)
            except grpc.aio.AioRpcError as error:
                leader = reason_of(error)[1].get("leaderGrpc", "")
            except TimeoutError:
                pass
            finally:
                for outcome, newest in stream.unsettled:
                    self.later(self.settle(outcome, newest))
            follower.failed(node, leader)
            if not leader:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _poll(self) -> None:
        """Works by claims, a few tasks at a time."""
        request = pb.ClaimTasksRequest(commands=COMMANDS, lease_seconds=LEASE_SECONDS, wait_seconds=1, count=5)
        while True:
            try:
                answer, address = await self._sent("ClaimTasks", request, again=False)
            except OutcomeUnknown:
                continue
            for task in answer.tasks:
                outcome = self.received(task, address)
                if outcome is not None:
                    self.later(self.settle(outcome, self.ledger.newest(task.id)))
            await asyncio.sleep(PAUSE_SECONDS)

    def received(self, task: task_pb2.Task, address: str) -> task_pb2.Outcome | None:
        """Records a delivery and returns the outcome to send at once."""
        body = json.loads(task.payload)
        until = seconds_of(task.lease_until)
        delivery = Delivery(task.lease_token, until - LEASE_SECONDS, until)
        self.ledger.delivered(task.id, body["n"], delivery, address)
        outcome = task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token, kind=COMPLETED)
        kind = body["kind"]
        if kind == "hold":
            self.later(self._hold(task.id, task.lease_token))
            return None
        if kind == "dead" or (kind == "nack" and task.attempts <= 2):
            outcome.kind = NACK
            outcome.delay_seconds = task.attempts - 1
            delivery.given_up = True
        elif kind == "fail":
            outcome.kind = FAILED
            outcome.error = f"failed with {task.lease_token}"
        else:
            outcome.result = b'{"token":%d}' % task.lease_token
        return outcome

    async def _hold(self, task_id: str, token: int) -> None:
        """Extends a lease beyond its length, across changes of leader, then completes the task."""
        lease = self.ledger.lease(task_id, token)
        end = time.monotonic() + HOLD_SECONDS
        request = pb.HeartbeatTaskRequest(task_id=task_id, lease_token=token, extend_seconds=LEASE_SECONDS)
        try:
            while time.monotonic() < end:
                await asyncio.sleep(LEASE_SECONDS / 4)
                answer, _ = await self._sent("HeartbeatTask", request, again=True)
                lease.until = max(lease.until, seconds_of(answer.lease_until))
        except Refused as refused:
            self._refused(task_id, refused, "lost while held")
            return
        self.ledger.counts["held"] += 1
        outcome = task_pb2.Outcome(task_id=task_id, lease_token=token, kind=COMPLETED, result=b'{"token":%d}' % token)
        await self.settle(outcome, self.ledger.newest(task_id))

    def accepted(self, outcome: task_pb2.Outcome, newest: int) -> None:
        """Records an acknowledged outcome."""
        if outcome.kind in _STATUS:
            self.ledger.ended(outcome.task_id, End(outcome.lease_token, _STATUS[outcome.kind], outcome.result), newest)
        else:
            self.ledger.counts["nacked"] += 1

    async def settle(self, outcome: task_pb2.Outcome, newest: int) -> None:
        """Sends an outcome as a separate call, repeated until it is answered."""
        request: Any
        if outcome.kind == NACK:
            method = "NackTask"
            request = pb.NackTaskRequest(
                task_id=outcome.task_id, lease_token=outcome.lease_token, delay_seconds=outcome.delay_seconds
            )
        else:
            method = "SubmitResult"
            status = task_pb2.TASK_STATUS_COMPLETED if outcome.kind == COMPLETED else task_pb2.TASK_STATUS_FAILED
            request = pb.SubmitResultRequest(
                task_id=outcome.task_id, lease_token=outcome.lease_token, status=status, error=outcome.error
            )
            if outcome.HasField("result"):
                request.result = outcome.result
        try:
            await self._sent(method, request, again=True)
        except Refused as refused:
            self._refused(outcome.task_id, refused, "outcomes too late")
        else:
            self.accepted(outcome, newest)

    def _refused(self, task_id: str, refused: Refused, counted: str) -> None:
        """Records a worker's rejection, which is not a fault if its lease has ended."""
        if refused.reason in _OVER:
            self.ledger.counts[counted] += 1
        else:
            self.ledger.problem(f"I1: what a worker said of {task_id} was refused: {refused}")

    async def _trespass(self) -> None:
        """Claims the same commands for another tenant, which must get nothing."""
        request = pb.ClaimTasksRequest(commands=COMMANDS, lease_seconds=LEASE_SECONDS, wait_seconds=1, count=5)
        while True:
            with suppress(OutcomeUnknown):
                answer, _ = await self._stranger.call(
                    "tasks", "ClaimTasks", request, again=False, seconds=SETTLE_SECONDS
                )
                for task in answer.tasks:
                    self.ledger.problem(f"I8: {task.id} was delivered to another tenant")
            await asyncio.sleep(0.2)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine in the background; `settled` waits for it."""
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._late.discard(task)  # a failed task stays, so that `check` finds it

    # -- the end -----------------------------------------------------------------------------------------------------

    async def left(self) -> int:
        """Returns how many tasks are waiting or leased."""
        total = 0
        for command in COMMANDS:
            request = queue_service_pb2.GetQueueRequest(command=command)
            try:
                answer, _ = await self.client.call("queues", "GetQueue", request, again=True, seconds=SETTLE_SECONDS)
            except Refused as refused:
                if refused.reason != "QUEUE_NOT_FOUND":
                    raise
            else:
                queue = answer.queue
                total += queue.ready + queue.claimed + queue.scheduled
        return total


class _Stream:
    """One worker stream.

    Attributes:
        unsettled: Outcomes that were sent and not answered yet, with the newest token of the task at that time.
    """

    def __init__(self, load: Load, address: str) -> None:
        self.unsettled: deque[tuple[task_pb2.Outcome, int]] = deque()
        self._load, self._address = load, address
        self._settled = 0

    async def run(self, call: Any) -> str:
        """Works until the stream ends; returns the leader that it names, or "".

        Raises:
            AioRpcError: The stream broke.
            TimeoutError: Nothing arrived in time.
        """
        leader = ""
        try:
            hello = work_pb.WorkerHello(commands=COMMANDS, lease_seconds=LEASE_SECONDS)
            async with asyncio.timeout(SILENCE_SECONDS):
                await call.write(work_pb.WorkRequest(hello=hello, add_credits=CREDITS))
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    return leader
                leader = message.notice.leader or leader
                self._note(message)
                outcomes = [self._load.received(task, self._address) for task in message.tasks]
                said = [outcome for outcome in outcomes if outcome is not None]
                if message.tasks:
                    newest = self._load.ledger.newest
                    self.unsettled.extend((outcome, newest(outcome.task_id)) for outcome in said)
                    await call.write(work_pb.WorkRequest(outcomes=said, add_credits=len(message.tasks)))
        finally:
            call.cancel()

    def _note(self, message: work_pb.WorkResponse) -> None:
        refused = {error.number: error for error in message.outcome_errors}
        for number in range(self._settled + 1, self._settled + message.settled + 1):
            outcome, newest = self.unsettled.popleft()
            error = refused.get(number)
            if error is None:
                self._load.accepted(outcome, newest)
            elif error_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_") in _OVER:
                self._load.ledger.counts["outcomes too late"] += 1
            else:
                self._load.later(self._load.settle(outcome, newest))
        self._settled += message.settled
