"""Producers: create tasks over one stream. Concurrent calls share frames, so many small creates are cheap."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, Unpack

from codeq import arguments, calls, runtime, settling
from codeq.awaited_results import Polls
from codeq.begun_creates import Begun, is_done, result_of
from codeq.endpoint import Address, Endpoint, Token
from codeq.errors import CodeqError
from codeq.in_flight import IN_FLIGHT_LIMIT, IN_FLIGHT_MAX, InFlight
from codeq.metrics import Metrics, told_safely
from codeq.ownership import Owner
from codeq.producer_attempts import Item
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
from codeq.streams import Inbox
from codeq.task_results import TaskResult
from codeq.tls import Tls
from codeq.unary import Caller
from codeq.v1 import producer_service_pb2


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
        request_keys: bool = False,
        in_flight_max: int = IN_FLIGHT_MAX,
        fail_fast: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """Creates a producer; takes the arguments of AsyncProducer."""
        self._endpoint = Endpoint.for_producer(address, token, tls)
        self._client_name = arguments.client_name(client_name)
        self._timeout_seconds = arguments.seconds(timeout_seconds, "timeout_seconds")
        self._owner = Owner(type(self).__name__)
        self._guard = threading.RLock()  # guards the next two; reentrant, as a signal may interrupt its holder
        self._inbox: Inbox[Job] | None = None
        self._is_refusing = False  # set once the creates before the close are with the stream
        self._stream: ProducerStreams | None = None  # owned by the shared thread
        self._caller = Caller(self._endpoint, timeout_seconds, self._owner)
        self._request_keys = request_keys
        self._in_flight_max = arguments.whole(in_flight_max, "in_flight_max", IN_FLIGHT_LIMIT)
        self._in_flight = InFlight(self._in_flight_max, fail_fast=fail_fast)
        self._metrics = told_safely(metrics)

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
            webhook,
            concurrency_key,
            rate_key,
            ordering_key,
        )
        [result] = self._create([to_item(task, with_key=self._with_keys)], timeout_seconds)
        return id_of(result)

    def create_batch(self, tasks: Iterable[NewTask], *, timeout_seconds: float | None = None) -> list[str | CodeqError]:
        """Creates tasks and returns, in order, their ids or errors; see AsyncProducer.create_batch."""
        results, items = to_batch(tasks, with_key=self._with_keys)
        return merge(results, self._create(items, timeout_seconds) if items else [])

    def create_future(
        self,
        command: str,
        payload: object = None,
        priority: int = 0,
        *,
        timeout_seconds: float | None = None,
        **options: Unpack[CreateOptions],
    ) -> concurrent.futures.Future[str]:
        """Starts to create a task and returns the future of its id, or of the error that `create` would raise.

        It takes the arguments of `create`. It waits only if `in_flight_max` creates are in flight. The future cannot be
        cancelled. Its callbacks run on a thread that all producers share, so they should be short.

        Raises:
            CodeqError: The task cannot be encoded, or there was no room for it (DeadlineExceeded, LimitReached).
            ValueError, TypeError: timeout_seconds is out of range or not a number.
        """
        task = NewTask(command, payload, priority, **options)
        begun = self._begin([to_item(task, with_key=self._with_keys)], timeout_seconds)
        return begun.future()

    def create_all(
        self,
        tasks: Iterable[NewTask],
        *,
        in_flight: int = CREATE_ALL_IN_FLIGHT,
        timeout_seconds: float | None = None,
    ) -> Iterator[str | CodeqError]:
        """Creates the tasks of an iterable, reading it only as fast as they are created; see AsyncProducer.create_all.

        The results of tasks that are in flight are yielded when the iterable gives its next task, or ends.
        """
        most = arguments.whole(in_flight, "in_flight", IN_FLIGHT_LIMIT)
        arguments.seconds(self._timeout_seconds if timeout_seconds is None else timeout_seconds, "timeout_seconds")
        return self._create_each(tasks, min(most, self._in_flight_max), timeout_seconds)

    def create_and_wait(
        self,
        command: str,
        payload: object = None,
        priority: int = 0,
        *,
        timeout_seconds: float | None = None,
        **options: Unpack[CreateOptions],
    ) -> TaskResult:
        """Creates a task and waits for its end; see AsyncProducer.create_and_wait."""
        seconds = timeout_of(timeout_seconds, self._timeout_seconds)
        polls_until = time.monotonic() + seconds
        task_id = self.create(command, payload, priority, timeout_seconds=seconds, **options)
        polls = Polls(task_id, polls_until)
        while True:
            call, timeout = polls.following(time.monotonic())
            try:
                return self._caller.call(call, timeout)
            except CodeqError as error:
                time.sleep(polls.delay_after(error, time.monotonic()))

    def close(self) -> None:
        """Waits at most timeout_seconds for the calls in flight, then disconnects. Later creates raise Closed.

        Does nothing in a forked child: the connection is the parent's.
        """
        if not self._owner.is_here:
            return
        with self._guard:
            if self._inbox is None:
                self._is_refusing = True
        self._caller.close()
        if (inbox := self._inbox) is not None and runtime.may_wait():
            until = time.monotonic() + self._timeout_seconds
            closing = asyncio.run_coroutine_threadsafe(self._close_stream(inbox), runtime.loop())
            with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                closing.result(self._timeout_seconds)
            settling.flush(max(0.0, until - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _with_keys(self) -> bool:
        return self._request_keys or self._endpoint.servers.are_many

    def _create(self, items: list[Item], timeout_seconds: float | None) -> list[Result]:
        return self._begin(items, timeout_seconds).results()

    def _begin(self, items: list[Item], timeout_seconds: float | None) -> Begun:
        """Starts to create tasks, once there is room for them."""
        self._owner.check()
        begun_at = time.monotonic()
        deadline = begun_at + timeout_of(timeout_seconds, self._timeout_seconds)
        if (inbox := self._connected()) is None:
            return Begun.done([self._create_alone(data, deadline) for data, _ in items])
        self._in_flight.enter(len(items), deadline)
        return Begun(items, inbox, self._in_flight, self._metrics, begun_at, deadline)

    def _create_each(
        self, tasks: Iterable[NewTask], in_flight: int, timeout_seconds: float | None
    ) -> Iterator[str | CodeqError]:
        window: deque[Begun | CodeqError] = deque()
        for task in tasks:
            [checked] = new_tasks([task])
            while window and (len(window) >= in_flight or is_done(window[0])):
                yield result_of(window.popleft())
            try:
                window.append(self._begin([to_item(checked, with_key=self._with_keys)], timeout_seconds))
            except CodeqError as error:
                window.append(error)
        while window:
            yield result_of(window.popleft())

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
            self._stream = ProducerStreams(self._endpoint, self._client_name, adds_keys=self._request_keys)
            if self._is_refusing:
                self._stream.refuse()
        self._stream.submit(job)

    async def _close_stream(self, inbox: Inbox[Job]) -> None:
        inbox.drain()
        self._is_refusing = True
        if self._stream is not None:
            await self._stream.close()

    def _create_alone(self, data: bytes, deadline: float) -> Result:
        """Creates a task with a unary call on the calling thread."""
        spec = producer_service_pb2.ProduceRequest.FromString(data).tasks[0]
        try:
            return self._caller.call(calls.create_spec(spec), max(0.0, deadline - time.monotonic())).id
        except CodeqError as error:
            return error
