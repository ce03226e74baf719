"""Clients: producers and workers, with streams and single calls. They are slow, stubborn and forgetful, and may die."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import sim_admin
import sim_keys
import sim_quotas
from codeq.v1 import producer_service_pb2, queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from codeq_server.core.errors import Reason, Rejection
from sim_audit import Asked, Audit, Known
from sim_node import END, LEASE_SECONDS, Lost, Node, Stream, retryable, tenant_of
from sim_receiver import URLS

COMMANDS = ("a", "b")
ACTS = ("redrive", "redrive", "redrive queue", "dead letters", "cleanup", "purge", "limit", "limit consumers", "limit")
"""What administrators do."""
TASKS_MAX = 120
"""Tasks requested in a run."""
NAMES = 8
"""Number of keys that a tenant's producers use, and of ids that they choose."""
TaskName = tuple[str, str, int]
"""See `Asked.name`."""
TAKEN = {"key": Reason.IDEMPOTENCY_CONFLICT, "id": Reason.TASK_ID_TAKEN}
"""Reason for rejecting a task whose name is already in use."""
_ENDS = {task_pb2.OUTCOME_KIND_COMPLETED: 4, task_pb2.OUTCOME_KIND_FAILED: 5}


class World:
    """State shared by the clients of a run."""

    def __init__(self, node: Node, audit: Audit, chance: random.Random) -> None:
        self.node, self.audit, self.chance = node, audit, chance
        self.asking = True
        """Whether producers create tasks and workers misbehave; afterwards workers only finish the remaining tasks."""
        self.number = 0
        self.paused: set[tuple[str, str]] = set()
        """Holder and command of queues that were paused and may not be resumed yet."""
        self.seen: list[tuple[str, str, int]] = []
        """(holder, task id, token) of deliveries, for outcomes sent late or by others."""

    def specs(self, tenant: str) -> list[task_pb2.TaskSpec]:
        """Returns a few new tasks; some have names."""
        chance = self.chance
        count = min(chance.choice((1, 1, 2, 5)), TASKS_MAX - self.number)
        return [self.spec(tenant, self.name() if chance.random() < 0.2 else None) for _ in range(count)]

    def name(self) -> TaskName:
        """Returns a key, or an id chosen by a producer; both tenants choose among the same few."""
        kind = self.chance.choice(("key", "id"))
        return kind, f"{kind}-{self.chance.randint(1, NAMES)}", -1

    def spec(self, tenant: str, name: TaskName | None) -> task_pb2.TaskSpec:
        """Returns a new task."""
        chance = self.chance
        self.number += 1
        spec = task_pb2.TaskSpec(command=chance.choice(COMMANDS), payload=f"{self.number}".encode())
        spec.priority = chance.choice((0, 0, 9))
        attempts = chance.choice((0, 1, 2, 3))
        if attempts:
            spec.max_attempts = attempts
        if chance.random() < 0.2:
            spec.delay_seconds = chance.choice((0, 1, 3))
        if chance.random() < 0.2:
            spec.expire_seconds = chance.choice((1, 2, 5, 60))
        if chance.random() < 0.3:
            spec.webhook = chance.choice(URLS)
        sim_keys.give_keys(chance, spec)
        if name is not None and name[2] < 0:
            setattr(spec, {"key": "idempotency_key", "id": "task_id"}[name[0]], name[1])
        self.audit.asked[spec.payload] = Asked(
            tenant, spec.command, spec.priority, attempts, name, spec.expire_seconds * 1000, keys=sim_keys.keys_of(spec)
        )
        return spec

    def told(self, tenant: str, spec: task_pb2.TaskSpec, task_id: str) -> None:
        """Records that a producer received the id of a task it created."""
        self.audit.created(tenant, task_id, spec.payload)

    def refused(self, tenant: str, spec: task_pb2.TaskSpec, reason: Reason) -> None:
        """Records that a task was rejected, for which there is only one valid reason."""
        if sim_quotas.refused(self.audit, tenant, reason):
            return
        name = self.audit.asked[spec.payload].name
        self.audit.demand(name and reason is TAKEN[name[0]], f"a task named {name} is rejected: {reason}")
        assert name is not None
        self.audit.refused(tenant, name)

    async def pause(self, seconds: float) -> None:
        """Waits for about this long."""
        await asyncio.sleep(seconds * self.chance.choice((0.01, 0.3, 1.0, 2.0)))

    def lives(self) -> Iterator[None]:
        """Iterates while the producers run."""
        while self.asking and self.number < TASKS_MAX:
            yield


async def produce_by_stream(world: World, holder: str) -> None:
    """Runs a producer that reconnects, resends unacknowledged tasks, and sometimes half-closes."""
    tenant = tenant_of(holder)
    node, chance = world.node, world.chance
    again: list[list[task_pb2.TaskSpec]] = []
    for _ in world.lives():
        unacked: deque[list[task_pb2.TaskSpec]] = deque()
        try:
            stream = node.open(holder, "produce")
        except Lost:
            await world.pause(0.3)
            continue
        reader = asyncio.ensure_future(_read_acks(world, tenant, stream, unacked))
        stream.send(producer_service_pb2.ProduceRequest(hello=producer_service_pb2.ProducerHello()))
        for _ in range(chance.randint(1, 6)):
            frame = again.pop() if again else world.specs(tenant)
            if frame:
                unacked.append(frame)
                stream.send(producer_service_pb2.ProduceRequest(tasks=frame))
            await world.pause(0.1)
        if chance.random() < 0.6:
            stream.half_close()
            await asyncio.wait([reader], timeout=10)
        stream.break_off()
        reader.cancel()
        await asyncio.wait([reader])
        again = [frame for frame in unacked if chance.random() < 0.5]


async def _read_acks(world: World, tenant: str, stream: Stream, unacked: deque[list[task_pb2.TaskSpec]]) -> None:
    try:
        while (message := await stream.receive()) is not END:
            for ack in message.acks:
                frame = unacked.popleft()
                errors = {error.index: Reason(error.reason) for error in ack.errors}
                for index, (spec, task_id) in enumerate(zip(frame, ack.task_ids, strict=True)):
                    if index in errors:
                        world.refused(tenant, spec, errors[index])
                    else:
                        world.told(tenant, spec, task_id)
    except (Lost, Rejection):
        return


async def cancel(world: World, holder: str) -> None:
    """Cancels a task, whatever its state."""
    tasks = world.audit.tasks.values()
    own = [task for task in tasks if task.asked.tenant == tenant_of(holder) and task.end is None]
    if own:
        request = task_service_pb2.CancelTaskRequest(task_id=world.chance.choice(own).task_id)
        answer = await world.node.call(holder, "TaskService/CancelTask", request)
        world.audit.cancelled(tenant_of(holder), answer.task)


async def look_around(world: World, holder: str) -> None:
    """Runs an administrator that reads tasks, its own tenant's and others', and queues."""
    node, chance, audit = world.node, world.chance, world.audit
    while world.asking:
        await world.pause(0.3)
        try:
            if chance.random() < 0.2:
                queues = await node.call(holder, "QueueService/ListQueues", queue_service_pb2.ListQueuesRequest())
                audit.demand(len(queues.queues) <= len(COMMANDS), "queues are shown that were never created")
            elif chance.random() < 0.1:
                await _pause_for_a_while(world, holder)
            elif chance.random() < 0.1:
                await _list(world, holder)
            elif chance.random() < 0.3:
                await _administer(world, holder)
            elif audit.tasks:
                await _look(world, holder, chance.choice(list(audit.tasks.values())))
        except (Lost, Rejection):
            continue


async def _administer(world: World, holder: str) -> None:
    command = world.chance.choice(COMMANDS)
    match world.chance.choice(ACTS):
        case "redrive":
            await sim_admin.redrive_task(world, holder)
        case "redrive queue":
            await sim_admin.redrive_queue(world, holder, command)
        case "dead letters":
            await sim_admin.list_dead_letters(world, holder, command)
        case "purge":
            await sim_admin.purge(world, holder, command)
        case "limit":
            await sim_admin.limit(world, holder)
        case "limit consumers":
            await sim_admin.limit_consumers(world, holder, command)
        case _:
            await sim_admin.cleanup(world, holder)


async def _look(world: World, holder: str, known: Known) -> None:
    """Reads a task. Only its own tenant may find it, and must always find it until the task has ended."""
    tenant, audit = tenant_of(holder), world.audit
    own, removed = known.asked.tenant == tenant, known.removed
    request = task_service_pb2.GetTaskRequest(task_id=known.task_id)
    try:
        task = (await world.node.call(holder, "TaskService/GetTask", request)).task
    except Rejection as refusal:
        missing = refusal.reason is Reason.TASK_NOT_FOUND
        audit.demand(missing or retryable(refusal), f"a look ended with {refusal.reason}")
        audit.demand(not missing or not own or known.removed or known.end, f"{known.task_id} is not found")
        return
    seen = audit.asked[task.payload]
    audit.demand(seen.tenant == tenant, f"{known.task_id} is shown to another tenant")
    again = audit.tasks[tenant, task.id] is not known
    audit.demand(again or not removed, f"{known.task_id} was removed but is shown")


async def _pause_for_a_while(world: World, holder: str) -> None:
    command = world.chance.choice(COMMANDS)
    pause = queue_service_pb2.PauseQueueRequest(command=command)
    world.paused.add((holder, command))
    try:
        await world.node.call(holder, "QueueService/PauseQueue", pause, doubled=0)
    finally:
        world.paused.add((holder, command))  # the queue may have been resumed while the call was in flight
    world.audit.count("paused")
    await world.pause(0.5)
    await resume(world, holder, command)


async def resume(world: World, holder: str, command: str) -> None:
    """Resumes a queue."""
    request = queue_service_pb2.ResumeQueueRequest(command=command)
    world.paused.discard((holder, command))  # a pause in the meantime adds it again
    try:
        with world.audit.resuming(tenant_of(holder), command):
            await world.node.call(holder, "QueueService/ResumeQueue", request, doubled=0)
    except BaseException:
        world.paused.add((holder, command))
        raise


async def resume_all(world: World) -> None:
    """Resumes every queue that may still be paused."""
    while world.paused:
        for holder, command in sorted(world.paused):
            try:
                await resume(world, holder, command)
            except Lost:
                continue
            except Rejection as refusal:
                if not retryable(refusal):
                    world.paused.discard((holder, command))  # the queue does not exist


async def _list(world: World, holder: str) -> None:
    """Reads every page of the tasks and checks that each is shown once."""
    seen: set[tuple[str, int]] = set()
    request = task_service_pb2.ListTasksRequest(page_size=7)
    while True:
        page = await world.node.call(holder, "TaskService/ListTasks", request)
        for task in page.tasks:
            row = (task.id, task.created_at.ToMilliseconds())
            world.audit.demand(row not in seen, f"{task.id} is listed twice")
            world.audit.demand(task.tenant_id == tenant_of(holder), f"{task.id} is listed for another tenant")
            seen.add(row)
        request.page_token = page.next_page_token
        if not request.page_token:
            world.audit.count("listed")
            return


def choose(world: World, tenant: str, task: task_pb2.Task) -> task_pb2.Outcome | None:
    """Returns the outcome of a tenant's worker for a task; None: none."""
    chance = world.chance
    outcome = task_pb2.Outcome(task_id=task.id, lease_token=task.lease_token)
    kind = chance.random() if world.asking else 0.0
    if kind < 0.5:
        outcome.kind = task_pb2.OUTCOME_KIND_COMPLETED
        outcome.result = f'"{task.lease_token}"'.encode()
    elif kind < 0.58:
        outcome.kind = task_pb2.OUTCOME_KIND_FAILED
        outcome.error = "broken"
    elif kind < 0.75:
        outcome.kind = task_pb2.OUTCOME_KIND_NACK
        if chance.random() < 0.7:
            outcome.delay_seconds = chance.choice((0, 0, 1))
    elif kind < 0.85:
        outcome.kind = task_pb2.OUTCOME_KIND_ABANDON
        if chance.random() < 0.5:
            outcome.delay_seconds = chance.choice((0, 1, 3))
            world.audit.delays[tenant, task.id, task.lease_token] = outcome.delay_seconds * 1000
    else:
        return None
    return outcome


def late(world: World, holder: str) -> task_pb2.Outcome | None:
    """Returns the completion of an earlier delivery, perhaps another worker's; None: there is none yet."""
    tenant = tenant_of(holder)
    seen = [each for each in world.seen[-20:] if tenant_of(each[0]) == tenant]
    if not seen:
        return None
    _, task_id, token = world.chance.choice(seen)
    kind = task_pb2.OUTCOME_KIND_COMPLETED
    return task_pb2.Outcome(task_id=task_id, lease_token=token, kind=kind, result=f'"{token}"'.encode())


async def work_by_stream(world: World, holder: str, name: str) -> None:
    """Runs a worker that takes any task on a stream, and reconnects."""
    while True:
        try:
            stream = world.node.open(holder, "work")
        except Lost:
            await world.pause(0.3)
            continue
        worker = _StreamWorker(world, holder, stream)
        hello = worker_service_pb2.WorkerHello(name=name, lease_seconds=LEASE_SECONDS)
        stream.send(worker_service_pb2.WorkRequest(hello=hello, add_credits=world.chance.choice((1, 3, 20))))
        reader = asyncio.ensure_future(worker.read())
        patience = world.chance.uniform(0.1, 6) if world.asking else 1e6
        await asyncio.wait([reader], timeout=patience)
        if not reader.done() and world.chance.random() < 0.5:
            stream.half_close()
            await asyncio.wait([reader], timeout=5)
        worker.stop()
        stream.break_off()
        reader.cancel()
        await asyncio.wait([reader])
        await world.pause(0.1)


class _StreamWorker:
    """One connection of a worker."""

    def __init__(self, world: World, holder: str, stream: Stream) -> None:
        self._world, self._holder, self._stream = world, holder, stream
        self._tenant = tenant_of(holder)
        self._sent: deque[task_pb2.Outcome] = deque()
        self._number = 0
        self._asked: dict[tuple[str, int], deque[int]] = {}
        """Lease ends requested in unanswered heartbeats."""
        self._running: set[asyncio.Task[None]] = set()

    async def read(self) -> None:
        try:
            while (message := await self._stream.receive()) is not END:
                for task in message.tasks:
                    self._world.seen.append((self._holder, task.id, task.lease_token))
                    running = asyncio.ensure_future(self._work(task))
                    self._running.add(running)
                    running.add_done_callback(self._running.discard)
                self._settled(message)
        except (Lost, Rejection):
            return

    def stop(self) -> None:
        for running in self._running:
            running.cancel()

    def _settled(self, message: worker_service_pb2.WorkResponse) -> None:
        refused = {error.number for error in message.outcome_errors}
        for _ in range(message.settled):
            self._number += 1
            said = self._sent.popleft()
            if self._number not in refused and said.kind in _ENDS:
                self._world.audit.accepted(self._tenant, said.task_id, said.lease_token, _ENDS[said.kind], said.result)
        for grant in message.extended:
            until = self._asked[grant.task_id, grant.lease_token].popleft()
            self._world.audit.extended(self._tenant, grant.task_id, grant.lease_token, until)
        for lease in message.lost:
            self._asked[lease.task_id, lease.lease_token].popleft()

    def _say(self, *outcomes: task_pb2.Outcome) -> None:
        self._sent.extend(outcomes)
        self._stream.send(worker_service_pb2.WorkRequest(outcomes=outcomes))

    async def _work(self, task: task_pb2.Task) -> None:
        world = self._world
        await world.pause(0.2)
        while world.asking and world.chance.random() < 0.3:
            seconds = world.chance.choice((1, 3))
            beat = worker_service_pb2.Heartbeat(task_id=task.id, lease_token=task.lease_token, extend_seconds=seconds)
            until = world.node.mono_ms() + seconds * 1000
            self._asked.setdefault((task.id, task.lease_token), deque()).append(until)
            self._stream.send(worker_service_pb2.WorkRequest(heartbeats=[beat]))
            await world.pause(0.8)
        said = choose(world, self._tenant, task)
        if said is not None:
            self._say(*[said] * world.chance.choice((1, 1, 1, 2)))
        if world.chance.random() < 0.2 and (other := late(world, self._holder)) is not None:
            self._say(other)
        self._stream.send(worker_service_pb2.WorkRequest(add_credits=1))


async def work_by_calls(world: World, holder: str) -> None:
    """Runs a worker that claims and ends tasks by single calls."""
    node, chance = world.node, world.chance
    while True:
        try:
            claim = task_service_pb2.ClaimTasksRequest(
                count=chance.choice((1, 1, 4)), lease_seconds=LEASE_SECONDS, wait_seconds=chance.choice((0, 1, 5))
            )
            if chance.random() < 0.5:
                claim.commands.append(chance.choice(COMMANDS))
            claimed = await node.call(holder, "TaskService/ClaimTasks", claim, patience=chance.choice((0.5, 8.0)))
        except (Lost, Rejection):
            await world.pause(0.3)
            continue
        for task in claimed.tasks:
            wanted = claim.commands or COMMANDS
            world.audit.demand(task.command in wanted, f"{task.id} of {task.command} is delivered for {wanted}")
            world.seen.append((holder, task.id, task.lease_token))
            await world.pause(0.1)
            said = choose(world, tenant_of(holder), task)
            if said is not None:
                await _say_by_call(world, holder, said)
            if chance.random() < 0.2 and (other := late(world, holder)) is not None:
                await _say_by_call(world, holder, other)
        if not claimed.tasks:
            await world.pause(0.3)


def _call_of(said: task_pb2.Outcome) -> tuple[str, Any]:
    """Returns the call that sends an outcome, and its request."""
    method = "TaskService/SubmitResult"
    request: Any = task_service_pb2.SubmitResultRequest(task_id=said.task_id, lease_token=said.lease_token)
    if said.kind == task_pb2.OUTCOME_KIND_NACK:
        method = "TaskService/NackTask"
        request = task_service_pb2.NackTaskRequest(task_id=said.task_id, lease_token=said.lease_token, delay_seconds=0)
    elif said.kind == task_pb2.OUTCOME_KIND_ABANDON:
        method = "TaskService/AbandonTask"
        request = task_service_pb2.AbandonTaskRequest(task_id=said.task_id, lease_token=said.lease_token)
        if said.HasField("delay_seconds"):
            request.delay_seconds = said.delay_seconds
    else:
        request.status = _ENDS[said.kind]
        if said.result:
            request.result = said.result
        request.error = said.error
    return method, request


async def _say_by_call(world: World, holder: str, said: task_pb2.Outcome) -> None:
    """Sends an outcome, and repeats it as long as it is unknown whether it took effect."""
    method, request = _call_of(said)
    for _ in range(world.chance.choice((1, 3))):
        try:
            answer = await world.node.call(holder, method, request)
        except Lost:
            await world.pause(0.2)
            continue
        except Rejection as refusal:
            if retryable(refusal):
                continue
            return
        if said.kind == task_pb2.OUTCOME_KIND_ABANDON:
            told, asked = answer.delay_seconds, said.delay_seconds
            world.audit.demand(told == asked, f"{said.task_id} was abandoned for {asked} s, its worker is told {told}")
        if said.kind in _ENDS:
            world.audit.accepted(tenant_of(holder), said.task_id, said.lease_token, _ENDS[said.kind], said.result)
        return
