"""Clients for single calls. For many tasks use a Producer and a Worker, whose streams cost a fraction per task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypeVar

from google.protobuf.message import Message

from codeq import calls, errors, rpcs
from codeq.artifacts import ArtifactContent
from codeq.callback_calls import AsyncCallbackClient, CallbackClient
from codeq.calls import Call
from codeq.endpoint import Address, Endpoint, Token
from codeq.outcomes import Completed, Failed, Nack
from codeq.ownership import Owner
from codeq.pages import AsyncPages, Pages
from codeq.queue_clients import AsyncQueueClient, QueueClient
from codeq.records import NewTask, OrderBy, Task
from codeq.schedule_calls import AsyncScheduleClient, ScheduleClient
from codeq.server_clients import AsyncServerClient, ServerClient
from codeq.subscription_calls import AsyncSubscriptionClient, SubscriptionClient
from codeq.task_results import Explanation, Returned, TaskResult
from codeq.tenant_calls import AsyncTenantClient, TenantClient
from codeq.tls import Tls
from codeq.topic_calls import AsyncTopicClient, TopicClient
from codeq.unary import AsyncCaller, Caller

TIMEOUT_SECONDS: Final = 30.0
"""Default timeout of a call; its `wait` comes on top."""

_Value = TypeVar("_Value")


class Client(
    CallbackClient, QueueClient, ScheduleClient, ServerClient, SubscriptionClient, TenantClient, TopicClient, Pages
):
    """A blocking, thread-safe client. Use it with `with`, or call `close`."""

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Creates a client; it connects on the first call.

        Args:
            address: Host and port of any gRPC address of the server, or of several members of its cluster; None:
                CODEQ_PRODUCER_ADDR, else localhost:9092.
            token: Token, or a function that returns one; None: CODEQ_TOKEN, else no token.
            tls: False: plaintext; True: TLS with the system's roots; TlsFiles; or an ssl.SSLContext. None: the files
                that CODEQ_TLS_CA_FILE, CODEQ_TLS_CERT_FILE and CODEQ_TLS_KEY_FILE name, else plaintext.
            timeout_seconds: Seconds within which a call ends, not counting its `wait`: over 0 and at most a day.

        Raises:
            ValueError, TypeError: An argument is out of range or has the wrong type.
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
        traceparent: str | None = None,
        tracestate: str | None = None,
        webhook: str | None = None,
        concurrency_key: str | None = None,
        rate_key: str | None = None,
        ordering_key: str | None = None,
    ) -> Task:
        """Creates a task; see NewTask for the arguments.

        Raises:
            Rejected: The server rejected the task.
            Unavailable, DeadlineExceeded, OutcomeUnknown: The task may exist; retry with an idempotency key. In a
                cluster the client retries by itself, within its timeout, and adds a key if the task has none.
        """
        task = NewTask(
            command,
            payload,
            priority,
            delay,
            run_at,
            max_attempts,
            idempotency_key,
            task_id,
            expire,
            traceparent,
            tracestate,
            webhook,
            concurrency_key,
            rate_key,
            ordering_key,
        )
        return self._call(calls.create(task, with_key=self._endpoint.servers.are_many))

    def create_batch(
        self, tasks: Iterable[NewTask], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> list[Task | errors.CodeqError]:
        """Creates 1 to 1000 tasks and returns, in order, each task or the error that rejected it.

        Args:
            tasks: Tasks to create; an item that is not a NewTask raises TypeError.
            atomic: Create all or none; the first rejected task fails the call.
            idempotency_key: Key of an atomic batch, which makes retries safe. Its tasks have no keys of their own.
        """
        many = self._endpoint.servers.are_many
        return self._call(calls.create_batch(tasks, atomic=atomic, idempotency_key=idempotency_key, with_keys=many))

    def get(self, task_id: str) -> Task:
        """Reads a task. Raises TaskNotFound."""
        return self._call(calls.get(task_id))

    def result(self, task_id: str, wait: float = 0) -> TaskResult:
        """Reads a task's result, waiting up to `wait` seconds (at most 60) for the task to end.

        Raises:
            TaskNotFound: No such task.
            ResultNotFound: The task did not end within the wait.
        """
        return self._call(calls.result(task_id, wait))

    def artifact(self, task_id: str, name: str) -> ArtifactContent:
        """Reads an artifact that the server stores.

        Raises:
            TaskNotFound: No such task.
            ArtifactNotFound: The result has no artifact of this name, or the artifact is at a URL.
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
        """Reads a page of tasks and the token of the next page (empty: none); a page may have fewer tasks or none.

        Args:
            command: Only this queue; empty: any.
            statuses: Only these statuses, such as TaskStatus.PENDING; none: any.
            created_from: Only tasks accepted at or after this time, which needs a time zone.
            created_to: Only tasks accepted before this time, which needs a time zone.
            page_size: Maximum number of tasks in the page, at most 500; 0: 100.
            page_token: Token from the previous page, read with the same filters.
            order_by: "oldest" or "newest" first, queue by queue.
        """
        return self._call(calls.tasks(command, statuses, created_from, created_to, page_size, page_token, order_by))

    def claim(
        self, commands: Sequence[str] = (), *, count: int = 1, lease_seconds: int | None = None, wait: float = 0
    ) -> list[Task]:
        """Leases up to `count` tasks (at most 100) of the commands (none: all that the token allows).

        Args:
            commands: Names of queues.
            count: Maximum number of tasks to lease.
            lease_seconds: Length of the leases, 1 to 43200; None: as the policy of the command says, else 60.
            wait: Seconds to wait for the first task, at most 30.

        Returns:
            The tasks; empty if there was no work.
        """
        return self._call(calls.claim(commands, count, lease_seconds, wait))

    def heartbeat(
        self, task: Task | str, *, lease_token: int | None = None, extend_seconds: int | None = None
    ) -> datetime:
        """Extends a lease to extend_seconds from now (None: its length) and returns its new end. Raises LeaseLost.

        Args:
            task: The claimed task, or its id.
            lease_token: Token of the lease; None: the task's, or for an id the caller's live lease.
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
        """Stores a JSON value of at most 64 KiB on a claimed task; returns the end of the lease. Raises LeaseLost."""
        return self._call(calls.report_progress(task, lease_token, progress, extend_seconds))

    def submit(self, task: Task | str, outcome: Completed | Failed, *, lease_token: int | None = None) -> TaskResult:
        """Ends a claimed task. Idempotent: the same outcome under the same lease may be repeated. Raises LeaseLost."""
        return self._call(calls.submit(task, lease_token, outcome))

    def complete(self, task: Task | str, result: object = None, *, lease_token: int | None = None) -> TaskResult:
        """Ends a claimed task as COMPLETED; None means no result. Raises LeaseLost."""
        return self._call(calls.submit(task, lease_token, Completed(result)))

    def fail(self, task: Task | str, error: object, *, lease_token: int | None = None) -> TaskResult:
        """Ends a claimed task as FAILED; it is not retried. Raises LeaseLost."""
        return self._call(calls.submit(task, lease_token, Failed(error)))

    def nack(
        self,
        task: Task | str,
        reason: object = "",
        *,
        delay: float | timedelta | None = None,
        lease_token: int | None = None,
    ) -> Returned:
        """Returns a claimed task for a retry after the delay (0: at once; None: by backoff). Raises LeaseLost."""
        return self._call(calls.nack(task, lease_token, Nack(reason, delay)))

    def abandon(
        self,
        task: Task | str,
        *,
        delay: float | timedelta | None = None,
        park_key: bool = False,
        lease_token: int | None = None,
    ) -> Returned:
        """Gives a claimed task back unused: it keeps its attempts. Raises LeaseLost.

        Args:
            task: The claimed task, or its id.
            delay: Time to wait before the task can be claimed again, rounded up to whole seconds, at most 12 h; None or
                0: the task keeps its place.
            park_key: Whether no task with its rate key, or without one its concurrency key, runs until then.
            lease_token: Token of the lease; None: the task's, or for an id the caller's live lease.
        """
        return self._call(calls.abandon(task, lease_token, delay, park_key=park_key))

    def explain(self, task_id: str) -> Explanation:
        """Reads what a task is waiting for. Raises TaskNotFound."""
        return self._call(calls.explain(task_id))

    def cancel(self, task: Task | str, reason: object = "") -> Task:
        """Cancels a task that has not ended, in any state, and notifies its worker. Raises TaskEnded."""
        return self._call(calls.cancel(task, reason))

    def redrive(self, task_id: str, *, tenant: str = "") -> Task:
        """Requeues a task that is DLQ, FAILED or CANCELLED. Raises TaskNotFound, Rejected."""
        return self._call(calls.redrive(task_id, tenant))

    def cleanup(self, before: datetime, limit: int = 0, page_token: str = "", *, tenant: str = "") -> tuple[int, str]:
        """Deletes tasks that ended before a time; returns their number and the token of the next call (empty: done)."""
        return self._call(calls.cleanup(before, limit, page_token, tenant))

    def rpc(self, request: Message) -> Message:
        """Makes the unary call that a request of `codeq.v1` belongs to, and returns its reply.

        For calls without a method of their own, such as `cluster_service_pb2.AddMemberRequest`.

        Raises:
            TypeError: The value is not the request of a unary call.
        """
        return self._call(rpcs.call_of(request, with_keys=self._endpoint.servers.are_many))

    def close(self) -> None:
        """Disconnects; calls in flight fail."""
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: Call[_Value]) -> _Value:
        return self._caller.call(call)


class AsyncClient(
    AsyncCallbackClient,
    AsyncQueueClient,
    AsyncScheduleClient,
    AsyncServerClient,
    AsyncSubscriptionClient,
    AsyncTenantClient,
    AsyncTopicClient,
    AsyncPages,
):
    """Client for one event loop. Use it with `async with`, or call `close`."""

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Creates a client; takes the arguments of Client."""
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
        traceparent: str | None = None,
        tracestate: str | None = None,
        webhook: str | None = None,
        concurrency_key: str | None = None,
        rate_key: str | None = None,
        ordering_key: str | None = None,
    ) -> Task:
        """Creates a task; see Client.create."""
        task = NewTask(
            command,
            payload,
            priority,
            delay,
            run_at,
            max_attempts,
            idempotency_key,
            task_id,
            expire,
            traceparent,
            tracestate,
            webhook,
            concurrency_key,
            rate_key,
            ordering_key,
        )
        return await self._call(calls.create(task, with_key=self._endpoint.servers.are_many))

    async def create_batch(
        self, tasks: Iterable[NewTask], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> list[Task | errors.CodeqError]:
        """Creates 1 to 1000 tasks; see Client.create_batch."""
        many = self._endpoint.servers.are_many
        return await self._call(
            calls.create_batch(tasks, atomic=atomic, idempotency_key=idempotency_key, with_keys=many)
        )

    async def get(self, task_id: str) -> Task:
        """Reads a task; see Client.get."""
        return await self._call(calls.get(task_id))

    async def result(self, task_id: str, wait: float = 0) -> TaskResult:
        """Reads a task's result; see Client.result."""
        return await self._call(calls.result(task_id, wait))

    async def artifact(self, task_id: str, name: str) -> ArtifactContent:
        """Reads an artifact; see Client.artifact."""
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
        """Reads a page of tasks; see Client.tasks."""
        return await self._call(
            calls.tasks(command, statuses, created_from, created_to, page_size, page_token, order_by)
        )

    async def claim(
        self, commands: Sequence[str] = (), *, count: int = 1, lease_seconds: int | None = None, wait: float = 0
    ) -> list[Task]:
        """Leases tasks; see Client.claim."""
        return await self._call(calls.claim(commands, count, lease_seconds, wait))

    async def heartbeat(
        self, task: Task | str, *, lease_token: int | None = None, extend_seconds: int | None = None
    ) -> datetime:
        """Extends a lease; see Client.heartbeat."""
        return await self._call(calls.heartbeat(task, lease_token, extend_seconds))

    async def report_progress(
        self,
        task: Task | str,
        progress: object,
        *,
        lease_token: int | None = None,
        extend_seconds: int | None = None,
    ) -> datetime:
        """Stores the progress of a claimed task; see Client.report_progress."""
        return await self._call(calls.report_progress(task, lease_token, progress, extend_seconds))

    async def submit(
        self, task: Task | str, outcome: Completed | Failed, *, lease_token: int | None = None
    ) -> TaskResult:
        """Ends a claimed task; see Client.submit."""
        return await self._call(calls.submit(task, lease_token, outcome))

    async def complete(self, task: Task | str, result: object = None, *, lease_token: int | None = None) -> TaskResult:
        """Ends a claimed task as COMPLETED; see Client.complete."""
        return await self._call(calls.submit(task, lease_token, Completed(result)))

    async def fail(self, task: Task | str, error: object, *, lease_token: int | None = None) -> TaskResult:
        """Ends a claimed task as FAILED; see Client.fail."""
        return await self._call(calls.submit(task, lease_token, Failed(error)))

    async def nack(
        self,
        task: Task | str,
        reason: object = "",
        *,
        delay: float | timedelta | None = None,
        lease_token: int | None = None,
    ) -> Returned:
        """Returns a claimed task for a retry; see Client.nack."""
        return await self._call(calls.nack(task, lease_token, Nack(reason, delay)))

    async def abandon(
        self,
        task: Task | str,
        *,
        delay: float | timedelta | None = None,
        park_key: bool = False,
        lease_token: int | None = None,
    ) -> Returned:
        """Gives a claimed task back unused; see Client.abandon."""
        return await self._call(calls.abandon(task, lease_token, delay, park_key=park_key))

    async def explain(self, task_id: str) -> Explanation:
        """Reads what a task is waiting for; see Client.explain."""
        return await self._call(calls.explain(task_id))

    async def cancel(self, task: Task | str, reason: object = "") -> Task:
        """Cancels a task that has not ended; see Client.cancel."""
        return await self._call(calls.cancel(task, reason))

    async def redrive(self, task_id: str, *, tenant: str = "") -> Task:
        """Requeues an ended task; see Client.redrive."""
        return await self._call(calls.redrive(task_id, tenant))

    async def cleanup(
        self, before: datetime, limit: int = 0, page_token: str = "", *, tenant: str = ""
    ) -> tuple[int, str]:
        """Deletes ended tasks; see Client.cleanup."""
        return await self._call(calls.cleanup(before, limit, page_token, tenant))

    async def rpc(self, request: Message) -> Message:
        """Makes the unary call that a request of `codeq.v1` belongs to; see Client.rpc."""
        return await self._call(rpcs.call_of(request, with_keys=self._endpoint.servers.are_many))

    async def close(self) -> None:
        """Disconnects; calls in flight fail."""
        await self._caller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call[_Value]) -> _Value:
        return await self._caller.call(call)
