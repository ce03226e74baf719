"""Producers: create tasks over one stream. Concurrent calls share frames, so many small creates are cheap."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self

from codeq import arguments, calls, runtime
from codeq.backoff import Backoff
from codeq.calls import keyed
from codeq.endpoint import Address, Endpoint, Token
from codeq.errors import CodeqError, OutcomeUnknown
from codeq.ownership import Owner
from codeq.producer_attempts import Attempts, Item
from codeq.producer_frames import Job, Result
from codeq.producer_stream import ProducerStream
from codeq.records import NewTask, new_tasks
from codeq.streams import Inbox
from codeq.tls import Tls
from codeq.unary import Caller, check_loop
from codeq.v1 import producer_service_pb2

TIMEOUT_SECONDS: Final = 30.0
"""Default timeout of a create."""


GRACE_SECONDS: Final = 0.5
"""Extra time to wait for the shared thread, which enforces a call's timeout itself."""


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

        Raises:
            ValueError, TypeError: An argument is out of range or has the wrong type.
        """
        self._endpoint = Endpoint.for_producer(address, token, tls)
        self._client_name = arguments.client_name(client_name)
        self._timeout_seconds = arguments.seconds(timeout_seconds, "timeout_seconds")
        self._owner = Owner(type(self).__name__)
        self._stream: ProducerStream | None = None

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
        timeout_seconds: float | None = None,
    ) -> str:
        """Creates a task; once this returns, the task is durable.

        Args:
            command: Name of the queue.
            payload: Any JSON-serialisable object; bytes and RawJson are sent as is. At most 1 MiB.
            priority: 0 to 9; the highest is delivered first.
            delay: Time before the first delivery, rounded up to whole seconds.
            run_at: Time of the earliest delivery, with a time zone. Cannot be combined with delay.
            expire: Time after which the task, if still waiting, ends as FAILED with the error EXPIRED.
            max_attempts: Deliveries after which the task goes to the dead-letter queue.
            idempotency_key: Makes the create idempotent: if its answer is lost, it is retried until the timeout. 1 to
                256 printable ASCII characters.
            task_id: Id of the task, unique within the tenant; None: the server assigns one. Cannot be combined with a
                key.
            traceparent: Trace context that the worker gets with the task (W3C traceparent).
            tracestate: Vendor part of the trace context (W3C tracestate).
            timeout_seconds: Seconds within which the call ends, including the wait for a connection: over 0 and at most
                a day.

        Returns:
            Id of the task.

        Raises:
            Rejected: The server rejected the task (InvalidField, TooLarge, …) or the producer (Unauthenticated, …).
            OutcomeUnknown: The task was sent but the answer did not arrive, so the task may exist. A create is retried
                only with a key. A producer that knows several servers of a cluster adds a key, unless the task has an
                id.
            DeadlineExceeded: The task was not sent within the timeout.
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
        )
        [result] = await self._create([_to_item(task, self._endpoint)], timeout_seconds)
        return _id_of(result)

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
        results, items = _to_batch(tasks, self._endpoint)
        return _merge(results, await self._create(items, timeout_seconds) if items else [])

    async def close(self) -> None:
        """Waits for the calls in flight, then disconnects. Later creates raise Closed.

        Does nothing in a forked child: the connection is the parent's.
        """
        if self._owner.is_here:
            await self._connected().close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _connected(self) -> ProducerStream:
        stream = self._stream
        if stream is None or stream.loop is not asyncio.get_running_loop():
            check_loop(None if stream is None else stream.loop)
            stream = self._stream = ProducerStream(self._endpoint, self._client_name, Backoff())
        return stream

    async def _create(self, items: list[Item], timeout_seconds: float | None) -> list[Result]:
        self._owner.check()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _timeout(timeout_seconds, self._timeout_seconds)
        attempts = Attempts(items)
        while attempts.waiting:
            future: asyncio.Future[list[Result]] = loop.create_future()
            self._connected().submit(Job(attempts.waiting, future, deadline))
            attempts.note(await future, may_repeat=loop.time() < deadline)
        return attempts.results


class Producer:
    """Creates tasks from any number of threads; their calls share frames.

    Use it with `with`, or call `close`. It connects on the first create, on a thread that all producers and workers of
    the process share. If it cannot wait for that thread (during interpreter shutdown, or on that very thread), it
    creates each task with a unary call. In a forked child, the parent's producer raises Forked.
    """

    def __init__(
        self,
        address: Address = None,
        *,
        token: Token = None,
        tls: Tls = None,
        client_name: str = "",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Creates a producer; takes the arguments of AsyncProducer."""
        self._endpoint = Endpoint.for_producer(address, token, tls)
        self._client_name = arguments.client_name(client_name)
        self._timeout_seconds = arguments.seconds(timeout_seconds, "timeout_seconds")
        self._owner = Owner(type(self).__name__)
        self._guard = threading.RLock()  # guards the next two; reentrant, as a signal may interrupt its holder
        self._inbox: Inbox[Job] | None = None
        self._is_closed = False
        self._stream: ProducerStream | None = None  # owned by the shared thread
        self._caller = Caller(self._endpoint, timeout_seconds, self._owner)

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
        timeout_seconds: float | None = None,
    ) -> str:
        """Creates a task and returns its id; see AsyncProducer.create."""
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
        )
        [result] = self._create([_to_item(task, self._endpoint)], timeout_seconds)
        return _id_of(result)

    def create_batch(self, tasks: Iterable[NewTask], *, timeout_seconds: float | None = None) -> list[str | CodeqError]:
        """Creates tasks and returns, in order, their ids or errors; see AsyncProducer.create_batch."""
        results, items = _to_batch(tasks, self._endpoint)
        return _merge(results, self._create(items, timeout_seconds) if items else [])

    def close(self) -> None:
        """Waits at most timeout_seconds for the calls in flight, then disconnects. Later creates raise Closed.

        Does nothing in a forked child: the connection is the parent's.
        """
        if not self._owner.is_here:
            return
        with self._guard:
            self._is_closed = True
        self._caller.close()
        if self._inbox is not None and runtime.may_wait():
            closing = asyncio.run_coroutine_threadsafe(self._close_stream(), runtime.loop())
            with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                closing.result(self._timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _create(self, items: list[Item], timeout_seconds: float | None) -> list[Result]:
        self._owner.check()
        deadline = time.monotonic() + _timeout(timeout_seconds, self._timeout_seconds)
        if (inbox := self._connected()) is None:
            return [self._create_alone(data, deadline) for data, _ in items]
        attempts = Attempts(items)
        while attempts.waiting:
            future: concurrent.futures.Future[list[Result]] = concurrent.futures.Future()
            inbox.put(Job(attempts.waiting, future, deadline))
            attempts.note(_answers(future, deadline, len(attempts.waiting)), may_repeat=time.monotonic() < deadline)
        return attempts.results

    def _connected(self) -> Inbox[Job] | None:
        """Returns the inbox of the stream; None: the shared thread cannot be waited for."""
        if not runtime.may_wait():
            return None
        if self._inbox is None:
            with self._guard, contextlib.suppress(RuntimeError):  # no thread can be started any more
                if self._inbox is None:
                    self._inbox = Inbox(runtime.loop(), self._submit)
        return self._inbox

    def _submit(self, job: Job) -> None:
        """Passes a job to the stream; runs on the shared thread."""
        if self._stream is None:
            self._stream = ProducerStream(self._endpoint, self._client_name, Backoff())
            if self._is_closed:
                self._stream.refuse()
        self._stream.submit(job)

    async def _close_stream(self) -> None:
        if self._stream is not None:
            await self._stream.close()

    def _create_alone(self, data: bytes, deadline: float) -> Result:
        """Creates a task with a unary call on the calling thread."""
        spec = producer_service_pb2.ProduceRequest.FromString(data).tasks[0]
        try:
            return self._caller.call(calls.create_spec(spec), max(0.0, deadline - time.monotonic())).id
        except CodeqError as error:
            return error


def _timeout(given: float | None, default: float) -> float:
    """Returns the timeout of a call."""
    return default if given is None else arguments.seconds(given, "timeout_seconds")


def _answers(future: concurrent.futures.Future[list[Result]], deadline: float, count: int) -> list[Result]:
    """Returns the answers of the stream, which enforces the deadline itself; OutcomeUnknown if its thread is stuck."""
    try:
        return future.result(max(0.0, deadline - time.monotonic()) + GRACE_SECONDS)
    except concurrent.futures.TimeoutError:
        return [OutcomeUnknown("not answered within the timeout: the SDK's thread is stuck") for _ in range(count)]


def _to_item(task: NewTask, endpoint: Endpoint) -> Item:
    """Encodes a task; in a cluster, the task gets a key, so that its create can be retried when the answer is lost."""
    if endpoint.servers.are_many:
        task = keyed(task)
    request = producer_service_pb2.ProduceRequest()
    task.fill(request.tasks.add())
    return request.SerializeToString(), task.idempotency_key is not None


def _id_of(result: Result) -> str:
    if isinstance(result, CodeqError):
        raise result
    return result


def _to_batch(tasks: Iterable[NewTask], endpoint: Endpoint) -> tuple[list[Result | None], list[Item]]:
    """Returns the errors of tasks that cannot be encoded, each at its index, and the other tasks encoded."""
    results: list[Result | None] = []
    items: list[Item] = []
    for task in new_tasks(tasks):
        try:
            items.append(_to_item(task, endpoint))
            results.append(None)
        except CodeqError as error:
            results.append(error)
    return results, items


def _merge(results: list[Result | None], answers: list[Result]) -> list[Result]:
    """Fills the gaps in the results with the answers."""
    following = iter(answers)
    return [next(following) if result is None else result for result in results]
