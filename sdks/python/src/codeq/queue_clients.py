"""The methods with which the clients inspect and administer queues."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from codeq import calls
from codeq.calls import Call
from codeq.dead_letters import DeadLetters, RedriveFilter, Redriven
from codeq.records import OrderBy
from codeq.server_records import ConnectedWorker, Queue

_Value = TypeVar("_Value")


class QueueClient:
    """The calls of `Client` about queues."""

    def queues(self, page_size: int = 0, page_token: str = "", *, tenant: str = "") -> tuple[list[Queue], str]:
        """Reads a page of queues, ordered by name, and the token of the next page (empty: none)."""
        return self._call(calls.queues(page_size, page_token, tenant))

    def workers(
        self, page_size: int = 0, page_token: str = "", *, tenant: str = ""
    ) -> tuple[list[ConnectedWorker], str]:
        """Reads a page of the workers that are connected by streams, and the token of the next page (empty: none).

        The longest connected worker comes first. Callers that claim tasks with single calls are not connected.
        """
        return self._call(calls.workers(page_size, page_token, tenant))

    def queue(self, command: str, *, tenant: str = "") -> Queue:
        """Reads a queue. Raises QueueNotFound."""
        return self._call(calls.queue(command, tenant))

    def pause_queue(self, command: str, *, tenant: str = "") -> Queue:
        """Pauses a queue: it accepts tasks but delivers none; leased tasks continue. Creates the queue if needed."""
        return self._call(calls.pause_queue(command, tenant))

    def resume_queue(self, command: str, *, tenant: str = "") -> Queue:
        """Resumes the deliveries of a queue. Raises QueueNotFound."""
        return self._call(calls.resume_queue(command, tenant))

    def purge_queue(self, command: str, *, tenant: str = "") -> Queue:
        """Ends every task now waiting in a queue, including scheduled tasks, as CANCELLED with the error PURGED.

        The purge runs in the background. While it runs, the queue's `purging` is set and the queue delivers nothing.
        Raises QueueNotFound.
        """
        return self._call(calls.purge_queue(command, tenant))

    def dead_letters(
        self, command: str, page_size: int = 0, page_token: str = "", order_by: OrderBy = "oldest", *, tenant: str = ""
    ) -> DeadLetters:
        """Reads a page of a queue's dead letters. Raises QueueNotFound."""
        return self._call(calls.dead_letters(command, page_size, page_token, order_by, tenant))

    def redrive_queue(
        self, command: str, wanted: RedriveFilter | None = None, page_token: str = "", *, tenant: str = ""
    ) -> Redriven:
        """Requeues ended tasks of a queue; repeat the call with next_page_token until it is empty.

        Args:
            command: The queue.
            wanted: Which tasks, and how; None: the dead letters.
            page_token: next_page_token of the previous call; empty: the first call.
            tenant: Tenant of the queue; only operators name another one than the token's.
        """
        return self._call(calls.redrive_queue(command, wanted, page_token, tenant))

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncQueueClient:
    """The calls of `AsyncClient` about queues."""

    async def queues(self, page_size: int = 0, page_token: str = "", *, tenant: str = "") -> tuple[list[Queue], str]:
        """Reads a page of queues; see Client.queues."""
        return await self._call(calls.queues(page_size, page_token, tenant))

    async def workers(
        self, page_size: int = 0, page_token: str = "", *, tenant: str = ""
    ) -> tuple[list[ConnectedWorker], str]:
        """Reads a page of the connected workers; see Client.workers."""
        return await self._call(calls.workers(page_size, page_token, tenant))

    async def queue(self, command: str, *, tenant: str = "") -> Queue:
        """Reads a queue; see Client.queue."""
        return await self._call(calls.queue(command, tenant))

    async def pause_queue(self, command: str, *, tenant: str = "") -> Queue:
        """Pauses a queue; see Client.pause_queue."""
        return await self._call(calls.pause_queue(command, tenant))

    async def resume_queue(self, command: str, *, tenant: str = "") -> Queue:
        """Resumes the deliveries of a queue; see Client.resume_queue."""
        return await self._call(calls.resume_queue(command, tenant))

    async def purge_queue(self, command: str, *, tenant: str = "") -> Queue:
        """Ends every task now waiting in a queue; see Client.purge_queue."""
        return await self._call(calls.purge_queue(command, tenant))

    async def dead_letters(
        self, command: str, page_size: int = 0, page_token: str = "", order_by: OrderBy = "oldest", *, tenant: str = ""
    ) -> DeadLetters:
        """Reads a page of a queue's dead letters; see Client.dead_letters."""
        return await self._call(calls.dead_letters(command, page_size, page_token, order_by, tenant))

    async def redrive_queue(
        self, command: str, wanted: RedriveFilter | None = None, page_token: str = "", *, tenant: str = ""
    ) -> Redriven:
        """Requeues ended tasks of a queue; see Client.redrive_queue."""
        return await self._call(calls.redrive_queue(command, wanted, page_token, tenant))

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
