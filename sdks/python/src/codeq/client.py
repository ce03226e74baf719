"""Clients for single calls: create and read tasks, claim and end them, look at queues and at the server.

For many tasks use a Producer and a Worker: their streams cost a small part of a call for each task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeVar

from codeq import calls, errors
from codeq.artifacts import ArtifactContent
from codeq.calls import Call
from codeq.cluster import Topology
from codeq.dead_letters import DeadLetters, RedriveFilter, Redriven
from codeq.dialing import Tls
from codeq.endpoint import Address, Endpoint, Token
from codeq.outcomes import Completed, Failed, Nack
from codeq.ownership import Owner
from codeq.records import Explanation, NewTask, OrderBy, Returned, Task, TaskResult
from codeq.server_records import Backup, Queue, ServerInfo
from codeq.unary import AsyncCaller, Caller

TIMEOUT_SECONDS: Final = 30.0
"""Time within which a call ends where the client sets none; a call's own wait comes on top."""

_Value = TypeVar("_Value")


class Client:
    """Calls that block. Threads may share one. Use it with `with`, or call `close`."""

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """A client; it connects at the first call.

        Args:
            address: Host and port of any gRPC address of the server, or those of several members of its cluster; None:
                CODEQ_PRODUCER_ADDR, else localhost:9092.
            token: Token, or a function that returns one; None: CODEQ_TOKEN, else no token.
            tls: False: plaintext; True: TLS with the system's roots; or an ssl.SSLContext.
            timeout_seconds: Seconds within which a call ends, its own wait not included: over 0 and at most a day.

        Raises:
            ValueError, TypeError: An argument is out of its bounds, or of another type.
        """
        self._endpoint = Endpoint.for_producer(address, token, tls)
        self._caller = Caller(self._endpoint, timeout_seconds, Owner(type(self).__name__))

    def create(
        self,
        command: str,
        payload: object = None,
        priority: int = 0,
        *,
        delay: float | timedelta | None = None,
        run_at: datetime | None = None,
        expire: float | timedelta | None = None,
        max_attempts: int | None = None,
        idempotency_key: str | None = None,
        task_id: str | None = None,
    ) -> Task:
        """Create a task; see NewTask for the arguments.

        Raises:
            Rejected: The task was refused.
            Unavailable, DeadlineExceeded, OutcomeUnknown: The task may exist; with an idempotency key try again. Of a
                cluster the client does so by itself, within its timeout, with a key of its own if there is none.
        """
        task = NewTask(command, payload, priority, delay, run_at, max_attempts, idempotency_key, task_id, expire)
        return self._call(calls.create(task, with_key=self._endpoint.servers.are_many))

    def create_batch(
        self, tasks: Iterable[NewTask], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> list[Task | errors.CodeqError]:
        """Create 1 to 1000 tasks; the answers are in order, for each the task or the error that refused it.

        Args:
            tasks: Tasks to create; TypeError for what is no NewTask.
            atomic: Create all or none; the first task that is refused fails the call.
            idempotency_key: Key of an atomic batch: the same batch is made once only. Its tasks have no own keys.
        """
        many = self._endpoint.servers.are_many
        return self._call(calls.create_batch(tasks, atomic=atomic, idempotency_key=idempotency_key, with_keys=many))

    def get(self, task_id: str) -> Task:
        """Read a task. Raises TaskNotFound."""
        return self._call(calls.get(task_id))

    def result(self, task_id: str, wait: float = 0) -> TaskResult:
        """Read the record of a task's end, waiting up to `wait` seconds (at most 60) for it.

        Raises:
            TaskNotFound: No such task.
            ResultNotFound: The task did not end within the wait.
        """
        return self._call(calls.result(task_id, wait))

    def artifact(self, task_id: str, name: str) -> ArtifactContent:
        """Read an artifact of a task's result that the server keeps.

        Raises:
            TaskNotFound: No such task.
            ArtifactNotFound: Its result has no such artifact, or one that is at a URL.
        """
        return self._call(calls.artifact(task_id, name))

    def tasks(
        self,
        command: str = "",
        statuses: Iterable[str] = (),
        *,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        order_by: OrderBy = "oldest",
    ) -> tuple[list[Task], str]:
        """Read a page of tasks and the token of the next page (empty: none); a page may be short or empty.

        Args:
            command: Queue wanted; empty: any.
            statuses: Statuses wanted, such as TaskStatus.PENDING; none: any.
            created_from: Accepted then or later; with a time zone.
            created_to: Accepted before; with a time zone.
            page_size: Tasks wanted, at most 500; 0: 100.
            page_token: From the page before, read with the same filters.
            order_by: "oldest" or "newest" first, queue by queue.
        """
        return self._call(calls.tasks(command, statuses, created_from, created_to, page_size, page_token, order_by))

    def claim(
        self, commands: Sequence[str] = (), *, count: int = 1, lease_seconds: int | None = None, wait: float = 0
    ) -> list[Task]:
        """Lease up to `count` tasks (at most 100) of the commands (none: all that the token allows).

        Args:
            commands: Names of queues.
            count: Tasks wanted.
            lease_seconds: Length of the leases, 1 to 43200; None: 60.
            wait: Seconds to wait for the first task, at most 30.

        Returns:
            The tasks; empty when there was no work.
        """
        return self._call(calls.claim(commands, count, lease_seconds, wait))

    def heartbeat(
        self, task: Task | str, *, lease_token: int | None = None, extend_seconds: int | None = None
    ) -> datetime:
        """Extend a lease to now + extend_seconds (None: its own length) and return its new end. Raises LeaseLost.

        Args:
            task: The claimed task, or its id.
            lease_token: Token of the lease; None: the task's, else the caller's live lease of the id.
            extend_seconds: 1 to 43200.
        """
        return self._call(calls.heartbeat(task, lease_token, extend_seconds))

    def report_progress(
        self,
        task: Task | str,
        progress: object,
        *,
        lease_token: int | None = None,
        extend_seconds: int | None = None,
    ) -> datetime:
        """Keep a JSON-able value of at most 64 KiB on a claimed task; returns its lease's end. Raises LeaseLost."""
        return self._call(calls.report_progress(task, lease_token, progress, extend_seconds))

    def submit(self, task: Task | str, outcome: Completed | Failed, *, lease_token: int | None = None) -> TaskResult:
        """End a claimed task. Repeating the same outcome with the same lease is no error. Raises LeaseLost."""
        return self._call(calls.submit(task, lease_token, outcome))

    def complete(self, task: Task | str, result: object = None, *, lease_token: int | None = None) -> TaskResult:
        """End a claimed task as COMPLETED; a result of None is none. Raises LeaseLost."""
        return self._call(calls.submit(task, lease_token, Completed(result)))

    def fail(self, task: Task | str, error: object, *, lease_token: int | None = None) -> TaskResult:
        """End a claimed task as FAILED: it is not tried again. Raises LeaseLost."""
        return self._call(calls.submit(task, lease_token, Failed(error)))

    def nack(
        self,
        task: Task | str,
        reason: object = "",
        *,
        delay: float | timedelta | None = None,
        lease_token: int | None = None,
    ) -> Returned:
        """Have a claimed task tried again after the delay (0: at once; None: by backoff). Raises LeaseLost."""
        return self._call(calls.nack(task, lease_token, Nack(reason, delay)))

    def abandon(self, task: Task | str, *, lease_token: int | None = None) -> Returned:
        """Give a claimed task back unused: it keeps its place and its attempts. Raises LeaseLost."""
        return self._call(calls.abandon(task, lease_token))

    def explain(self, task_id: str) -> Explanation:
        """Read what a task waits for. Raises TaskNotFound."""
        return self._call(calls.explain(task_id))

    def cancel(self, task: Task | str, reason: object = "") -> Task:
        """End a task that has not ended as CANCELLED, wherever it is; its worker is told. Raises TaskEnded."""
        return self._call(calls.cancel(task, reason))

    def queues(self, page_size: int = 0, page_token: str = "") -> tuple[list[Queue], str]:
        """Read a page of queues, in the order of their names, and the token of the next page (empty: none)."""
        return self._call(calls.queues(page_size, page_token))

    def queue(self, command: str) -> Queue:
        """Read a queue. Raises QueueNotFound."""
        return self._call(calls.queue(command))

    def pause_queue(self, command: str) -> Queue:
        """Stop the deliveries of a queue: tasks are accepted, those leased run on. Makes the queue if need be."""
        return self._call(calls.pause_queue(command))

    def resume_queue(self, command: str) -> Queue:
        """Let the deliveries of a queue go on. Raises QueueNotFound."""
        return self._call(calls.resume_queue(command))

    def purge_queue(self, command: str) -> Queue:
        """End every task that waits in a queue now, scheduled ones too, as CANCELLED with the error PURGED.

        It goes on in the background while the queue's `purging` is set, and nothing is delivered meanwhile.

        Raises:
            QueueNotFound: There is no such queue.
        """
        return self._call(calls.purge_queue(command))

    def dead_letters(
        self, command: str, page_size: int = 0, page_token: str = "", order_by: OrderBy = "oldest"
    ) -> DeadLetters:
        """Read a page of a queue's dead-letter queue. Raises QueueNotFound."""
        return self._call(calls.dead_letters(command, page_size, page_token, order_by))

    def redrive(self, task_id: str) -> Task:
        """Give a task that is DLQ, FAILED or CANCELLED another life. Raises TaskNotFound, Rejected."""
        return self._call(calls.redrive(task_id))

    def redrive_queue(self, command: str, wanted: RedriveFilter | None = None, page_token: str = "") -> Redriven:
        """Give ended tasks of a queue another life; repeat with next_page_token while there is one.

        Args:
            command: The queue.
            wanted: Which tasks, and how; None: the dead letters.
            page_token: Where to go on.
        """
        return self._call(calls.redrive_queue(command, wanted, page_token))

    def cleanup(self, before: datetime, limit: int = 0, page_token: str = "") -> tuple[int, str]:
        """Remove ended tasks that ended before a time; return how many, and the token to go on with (empty: done)."""
        return self._call(calls.cleanup(before, limit, page_token))

    def back_up(self, name: str) -> Backup:
        """Have the server make a backup in its folder for backups; it goes on when the call's time is over."""
        return self._call(calls.back_up(name))

    def server_info(self) -> ServerInfo:
        """Read version, mode and limits of the server."""
        return self._call(calls.server_info())

    def topology(self) -> Topology:
        """Read who the members of the cluster are, and which of them leads."""
        return self._call(calls.topology())

    def close(self) -> None:
        """Disconnect; calls under way fail."""
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call[_Value]) -> _Value:
        return self._caller.call(call)


class AsyncClient:
    """The calls of Client on one event loop. Use it with `async with`, or call `close`."""

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """A client; the arguments are those of Client."""
        self._endpoint = Endpoint.for_producer(address, token, tls)
        self._caller = AsyncCaller(self._endpoint, timeout_seconds, Owner(type(self).__name__))

    async def create(
        self,
        command: str,
        payload: object = None,
        priority: int = 0,
        *,
        delay: float | timedelta | None = None,
        run_at: datetime | None = None,
        expire: float | timedelta | None = None,
        max_attempts: int | None = None,
        idempotency_key: str | None = None,
        task_id: str | None = None,
    ) -> Task:
        """Create a task; as Client.create."""
        task = NewTask(command, payload, priority, delay, run_at, max_attempts, idempotency_key, task_id, expire)
        return await self._call(calls.create(task, with_key=self._endpoint.servers.are_many))

    async def create_batch(
        self, tasks: Iterable[NewTask], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> list[Task | errors.CodeqError]:
        """Create 1 to 1000 tasks; as Client.create_batch."""
        many = self._endpoint.servers.are_many
        return await self._call(
            calls.create_batch(tasks, atomic=atomic, idempotency_key=idempotency_key, with_keys=many)
        )

    async def get(self, task_id: str) -> Task:
        """Read a task; as Client.get."""
        return await self._call(calls.get(task_id))

    async def result(self, task_id: str, wait: float = 0) -> TaskResult:
        """Read the record of a task's end; as Client.result."""
        return await self._call(calls.result(task_id, wait))

    async def artifact(self, task_id: str, name: str) -> ArtifactContent:
        """Read an artifact; as Client.artifact."""
        return await self._call(calls.artifact(task_id, name))

    async def tasks(
        self,
        command: str = "",
        statuses: Iterable[str] = (),
        *,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        order_by: OrderBy = "oldest",
    ) -> tuple[list[Task], str]:
        """Read a page of tasks; as Client.tasks."""
        return await self._call(
            calls.tasks(command, statuses, created_from, created_to, page_size, page_token, order_by)
        )

    async def claim(
        self, commands: Sequence[str] = (), *, count: int = 1, lease_seconds: int | None = None, wait: float = 0
    ) -> list[Task]:
        """Lease tasks; as Client.claim."""
        return await self._call(calls.claim(commands, count, lease_seconds, wait))

    async def heartbeat(
        self, task: Task | str, *, lease_token: int | None = None, extend_seconds: int | None = None
    ) -> datetime:
        """Extend a lease; as Client.heartbeat."""
        return await self._call(calls.heartbeat(task, lease_token, extend_seconds))

    async def report_progress(
        self,
        task: Task | str,
        progress: object,
        *,
        lease_token: int | None = None,
        extend_seconds: int | None = None,
    ) -> datetime:
        """Keep a progress on a claimed task; as Client.report_progress."""
        return await self._call(calls.report_progress(task, lease_token, progress, extend_seconds))

    async def submit(
        self, task: Task | str, outcome: Completed | Failed, *, lease_token: int | None = None
    ) -> TaskResult:
        """End a claimed task; as Client.submit."""
        return await self._call(calls.submit(task, lease_token, outcome))

    async def complete(self, task: Task | str, result: object = None, *, lease_token: int | None = None) -> TaskResult:
        """End a claimed task as COMPLETED; as Client.complete."""
        return await self._call(calls.submit(task, lease_token, Completed(result)))

    async def fail(self, task: Task | str, error: object, *, lease_token: int | None = None) -> TaskResult:
        """End a claimed task as FAILED; as Client.fail."""
        return await self._call(calls.submit(task, lease_token, Failed(error)))

    async def nack(
        self,
        task: Task | str,
        reason: object = "",
        *,
        delay: float | timedelta | None = None,
        lease_token: int | None = None,
    ) -> Returned:
        """Have a claimed task tried again; as Client.nack."""
        return await self._call(calls.nack(task, lease_token, Nack(reason, delay)))

    async def abandon(self, task: Task | str, *, lease_token: int | None = None) -> Returned:
        """Give a claimed task back unused; as Client.abandon."""
        return await self._call(calls.abandon(task, lease_token))

    async def explain(self, task_id: str) -> Explanation:
        """Read what a task waits for; as Client.explain."""
        return await self._call(calls.explain(task_id))

    async def cancel(self, task: Task | str, reason: object = "") -> Task:
        """End a task that has not ended; as Client.cancel."""
        return await self._call(calls.cancel(task, reason))

    async def queues(self, page_size: int = 0, page_token: str = "") -> tuple[list[Queue], str]:
        """Read a page of queues; as Client.queues."""
        return await self._call(calls.queues(page_size, page_token))

    async def queue(self, command: str) -> Queue:
        """Read a queue; as Client.queue."""
        return await self._call(calls.queue(command))

    async def pause_queue(self, command: str) -> Queue:
        """Stop the deliveries of a queue; as Client.pause_queue."""
        return await self._call(calls.pause_queue(command))

    async def resume_queue(self, command: str) -> Queue:
        """Let the deliveries of a queue go on; as Client.resume_queue."""
        return await self._call(calls.resume_queue(command))

    async def purge_queue(self, command: str) -> Queue:
        """End every task that waits in a queue now; as Client.purge_queue."""
        return await self._call(calls.purge_queue(command))

    async def dead_letters(
        self, command: str, page_size: int = 0, page_token: str = "", order_by: OrderBy = "oldest"
    ) -> DeadLetters:
        """Read a page of a dead-letter queue; as Client.dead_letters."""
        return await self._call(calls.dead_letters(command, page_size, page_token, order_by))

    async def redrive(self, task_id: str) -> Task:
        """Give an ended task another life; as Client.redrive."""
        return await self._call(calls.redrive(task_id))

    async def redrive_queue(self, command: str, wanted: RedriveFilter | None = None, page_token: str = "") -> Redriven:
        """Give ended tasks of a queue another life; as Client.redrive_queue."""
        return await self._call(calls.redrive_queue(command, wanted, page_token))

    async def cleanup(self, before: datetime, limit: int = 0, page_token: str = "") -> tuple[int, str]:
        """Remove ended tasks; as Client.cleanup."""
        return await self._call(calls.cleanup(before, limit, page_token))

    async def back_up(self, name: str) -> Backup:
        """Have the server make a backup; as Client.back_up."""
        return await self._call(calls.back_up(name))

    async def server_info(self) -> ServerInfo:
        """Read version, mode and limits of the server."""
        return await self._call(calls.server_info())

    async def topology(self) -> Topology:
        """Read who the members of the cluster are; as Client.topology."""
        return await self._call(calls.topology())

    async def close(self) -> None:
        """Disconnect; calls under way fail."""
        await self._caller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call[_Value]) -> _Value:
        return await self._caller.call(call)
