"""The producer for programs with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, Unpack

from codeq import arguments
from codeq.async_creates import InOrder
from codeq.awaited_results import Polls
from codeq.endpoint import Address, Endpoint, Token
from codeq.errors import CodeqError
from codeq.in_flight import IN_FLIGHT_LIMIT, IN_FLIGHT_MAX, AsyncInFlight
from codeq.metrics import Metrics, told_safely
from codeq.ownership import Owner
from codeq.producer_attempts import Attempts, Item
from codeq.producer_frames import Job, Result
from codeq.producer_items import (
    CREATE_ALL_IN_FLIGHT,
    TIMEOUT_SECONDS,
    CreateOptions,
    id_of,
    merge,
    timeout_of,
    to_batch,
    to_item,
)
from codeq.producer_streams import ProducerStreams
from codeq.records import NewTask, new_tasks
from codeq.task_results import TaskResult
from codeq.tls import Tls
from codeq.unary import AsyncCaller, check_loop


class AsyncProducer:
    """Creates tasks from one event loop.

    Use it with `async with`, or call `close`. It connects on the first create and reconnects when the stream breaks.
    """

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = None,
        client_name: str = "",
        timeout_seconds: float = TIMEOUT_SECONDS,
        request_keys: bool = False,
        in_flight_max: int = IN_FLIGHT_MAX,
        fail_fast: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """Creates a producer.

        Args:
            address: Host and port of a server, or of several members of a cluster; None: CODEQ_PRODUCER_ADDR, else
                localhost:9092.
            token: Token, or a function that returns one; None: CODEQ_TOKEN, else no token.
            tls: False: plaintext; True: TLS with the system's roots; TlsFiles; or an ssl.SSLContext. None: the files
                that CODEQ_TLS_CA_FILE, CODEQ_TLS_CERT_FILE and CODEQ_TLS_KEY_FILE name, else plaintext.
            client_name: Name for the server's logs, at most 128 characters.
            timeout_seconds: Default timeout of a call in seconds, over 0 and at most a day.
            request_keys: Whether each create with neither key nor task_id gets a random idempotency key, so that it can
                be retried when its answer is lost. A producer that knows several servers always adds one.
            in_flight_max: Maximum number of creates without an answer, 1 to a million. At the limit callers wait.
            fail_fast: Whether callers fail with LimitReached at the limit instead of waiting.
            metrics: Is told of every call; None: nobody is.

        Raises:
            ValueError, TypeError: An argument is out of range or has the wrong type.
        """
        self._endpoint = Endpoint.for_producer(address, token, tls)
        self._client_name = arguments.client_name(client_name)
        self._timeout_seconds = arguments.seconds(timeout_seconds, "timeout_seconds")
        self._owner = Owner(type(self).__name__)
        self._stream: ProducerStreams | None = None
        self._request_keys = request_keys
        self._in_flight_max = arguments.whole(in_flight_max, "in_flight_max", IN_FLIGHT_LIMIT)
        self._in_flight = AsyncInFlight(self._in_flight_max, fail_fast=fail_fast)
        self._metrics = told_safely(metrics)
        self._caller = AsyncCaller(self._endpoint, timeout_seconds, self._owner)

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
        timeout_seconds: float | None = None,
    ) -> str:
        """Creates a durable task and returns its id.

        Args:
            command: Name of the queue.
            payload: Any JSON-serialisable object; bytes and RawJson are sent as is. At most 1 MiB.
            priority: 0 to 9; the highest is delivered first.
            delay: Time before the first delivery, rounded up to whole seconds.
            run_at: Time of the earliest delivery, with a time zone. Cannot be combined with delay.
            expire: Time after which the task, if still waiting, ends as FAILED with the error EXPIRED.
            max_attempts: Deliveries after which the task goes to the dead-letter queue.
            idempotency_key: Makes the create idempotent: if its answer is lost, it is retried until the timeout.
            task_id: Id of the task, unique within the tenant; None: the server assigns one. Excludes a key.
            traceparent: Trace context for the worker (W3C traceparent); None: that of the current OpenTelemetry span.
            tracestate: Vendor part of the trace context (W3C tracestate).
            webhook: URL to which the server reports the end of the task.
            concurrency_key: See NewTask for this and the other keys.
            rate_key: Rate key.
            ordering_key: Ordering key.
            timeout_seconds: Seconds within which the call ends, connecting included: over 0 and at most a day.

        Raises:
            Rejected: The server rejected the task (InvalidField, TooLarge, …) or the producer (Unauthenticated, …).
            OutcomeUnknown: The task was sent but the answer did not arrive, so the task may exist. A create is retried
                only with a key. A producer that knows several servers adds a key, unless the task has an id.
            DeadlineExceeded: The task was not sent within the timeout.
            LimitReached: `in_flight_max` creates are in flight, and the producer was made with `fail_fast`.
            Closed: The producer is closed.
            ValueError, TypeError: timeout_seconds is out of range or not a number.
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
        [result] = await self._create([to_item(task, with_key=self._with_keys)], timeout_seconds)
        return id_of(result)

    async def create_batch(
        self, tasks: Iterable[NewTask], *, timeout_seconds: float | None = None
    ) -> list[str | CodeqError]:
        """Creates tasks; each succeeds or fails independently.

        Returns:
            For each task in order, its id or the error that `create` would raise.

        Raises:
            TypeError: An item is not a NewTask.
            ValueError: timeout_seconds is out of range.
        """
        results, items = to_batch(tasks, with_key=self._with_keys)
        return merge(results, await self._create(items, timeout_seconds) if items else [])

    async def create_all(
        self,
        tasks: Iterable[NewTask] | AsyncIterable[NewTask],
        *,
        in_flight: int = CREATE_ALL_IN_FLIGHT,
        timeout_seconds: float | None = None,
    ) -> AsyncIterator[str | CodeqError]:
        """Creates the tasks of an iterable or async iterable, reading it only as fast as they are created.

        Args:
            tasks: Tasks to create.
            in_flight: Maximum number of tasks that are read but not yet created; limited by the producer's
                `in_flight_max`.
            timeout_seconds: Timeout of each create; None: the producer's.

        Yields:
            For each task in order, its id or the error that `create` would raise.

        Raises:
            TypeError: An item is not a NewTask.
            ValueError: An argument is out of range.
            Exception: Whatever the iterable raises, once the tasks before are answered.
        """
        most = arguments.whole(in_flight, "in_flight", IN_FLIGHT_LIMIT)
        timeout = timeout_of(timeout_seconds, self._timeout_seconds)
        ordered = InOrder(min(most, self._in_flight_max), lambda task: self._create_one(task, timeout))
        async with contextlib.aclosing(ordered.results(tasks)) as results:
            async for result in results:
                yield result

    async def create_and_wait(
        self,
        command: str,
        payload: object = None,
        priority: int = 0,
        *,
        timeout_seconds: float | None = None,
        **options: Unpack[CreateOptions],
    ) -> TaskResult:
        """Creates a task and waits for its end; takes the arguments of `create`.

        Args:
            command: Name of the queue.
            payload: Any JSON-serialisable object.
            priority: 0 to 9.
            timeout_seconds: Seconds within which the task has to be created and to end; None: the producer's timeout.
            **options: Further arguments of `create`.

        Returns:
            The result, whatever the task's status is: see `TaskResult.status`.

        Raises:
            DeadlineExceeded: The task was not created, or did not end in time; in the second case it goes on, and
                `taskId` in the error's metadata names it.
            CodeqError: As `create` raises it, or the result cannot be read.
        """
        loop = asyncio.get_running_loop()
        seconds = timeout_of(timeout_seconds, self._timeout_seconds)
        polls_until = loop.time() + seconds
        task_id = await self.create(command, payload, priority, timeout_seconds=seconds, **options)
        polls = Polls(task_id, polls_until)
        while True:
            call, timeout = polls.following(loop.time())
            try:
                return await self._caller.call(call, timeout)
            except CodeqError as error:
                await asyncio.sleep(polls.delay_after(error, loop.time()))

    async def close(self) -> None:
        """Waits for the calls in flight, then disconnects. Later creates raise Closed.

        Does nothing in a forked child: the connection is the parent's.
        """
        if self._owner.is_here:
            try:
                await self._connected().close()
            finally:
                await self._caller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _with_keys(self) -> bool:
        return self._request_keys or self._endpoint.servers.are_many

    def _connected(self) -> ProducerStreams:
        stream = self._stream
        if stream is None or stream.loop is not asyncio.get_running_loop():
            check_loop(None if stream is None else stream.loop)
            stream = self._stream = ProducerStreams(self._endpoint, self._client_name, adds_keys=self._request_keys)
        return stream

    async def _create_one(self, task: NewTask, timeout: float) -> Result:  # noqa: ASYNC109 - of the create
        try:
            [checked] = new_tasks([task])
            [result] = await self._create([to_item(checked, with_key=self._with_keys)], timeout)
        except CodeqError as error:
            return error
        return result

    async def _create(self, items: list[Item], timeout_seconds: float | None) -> list[Result]:
        self._owner.check()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        deadline = begun + timeout_of(timeout_seconds, self._timeout_seconds)
        await self._in_flight.enter(len(items), deadline)
        try:
            attempts = Attempts(items)
            while attempts.waiting:
                future: asyncio.Future[list[Result]] = loop.create_future()
                self._connected().submit(Job(attempts.waiting, future, deadline))
                attempts.note(await future, may_repeat=loop.time() < deadline)
        finally:
            self._in_flight.leave(len(items))
        if self._metrics is not None:
            self._metrics.created(attempts.results, loop.time() - begun)
        return attempts.results
