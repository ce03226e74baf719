"""The methods with which the clients iterate over lists, page by page."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime
from typing import TypeVar

from codeq import callback_calls, calls, schedule_calls, tenant_calls
from codeq.audit import AuditFilter, AuditRecord
from codeq.callback_records import Callback, Callbacks, CallbackState
from codeq.calls import Call
from codeq.dead_letters import DeadLetters
from codeq.records import OrderBy, Task
from codeq.schedule_records import Schedule
from codeq.server_records import ConnectedWorker, Queue
from codeq.tenant_records import Tenant

_Value = TypeVar("_Value")
_Found = TypeVar("_Found", DeadLetters, Callbacks)
_Page = Callable[[str], Call[tuple[list[_Value], str]]]
"""Returns the call for the page that a token names; the empty token names the first page."""


def _tasks(
    command: str,
    statuses: Iterable[str],
    created_from: datetime | None,
    created_to: datetime | None,
    page_size: int,
    order_by: OrderBy,
) -> _Page[Task]:
    wanted = statuses if isinstance(statuses, str) else list(statuses)  # a str is rejected when the page is read
    return lambda token: calls.tasks(command, wanted, created_from, created_to, page_size, token, order_by)


def _queues(page_size: int, tenant: str) -> _Page[Queue]:
    return lambda token: calls.queues(page_size, token, tenant)


def _workers(page_size: int, tenant: str) -> _Page[ConnectedWorker]:
    return lambda token: calls.workers(page_size, token, tenant)


def _dead_letters(command: str, page_size: int, order_by: OrderBy, tenant: str) -> _Page[Task]:
    return lambda token: _items_of(
        calls.dead_letters(command, page_size, token, order_by, tenant), lambda found: found.tasks
    )


def _callbacks(command: str, state: str, page_size: int, tenant: str) -> _Page[Callback]:
    return lambda token: _items_of(
        callback_calls.callbacks(command, state, page_size, token, tenant), lambda found: found.callbacks
    )


def _items_of(call: Call[_Found], items: Callable[[_Found], list[_Value]]) -> Call[tuple[list[_Value], str]]:
    """Returns a call for a page of which only the items and the token of the next page are of use."""

    def convert(reply: object) -> tuple[list[_Value], str]:
        found = call.convert(reply)
        return items(found), found.next_page_token

    return Call(call.method, call.request, call.reply, convert, repeatable=call.repeatable)


def _audit(wanted: AuditFilter | None, tenant: str) -> _Page[AuditRecord]:
    return lambda token: calls.audit(wanted, token, tenant)


def _schedules(page_size: int, tenant: str) -> _Page[Schedule]:
    return lambda token: schedule_calls.schedules(page_size, token, tenant)


def _tenants(page_size: int) -> _Page[Tenant]:
    return lambda token: tenant_calls.tenants(page_size, token)


class Pages:
    """The iterators of `Client`. Each reads a page when the items of the last one are used up.

    A page that cannot be read raises what the call for one page raises. Items that appear while a list is read may be
    left out; none comes twice unless it changed its place meanwhile.
    """

    def iter_tasks(
        self,
        command: str = "",
        statuses: Iterable[str] = (),
        *,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        page_size: int = 0,
        order_by: OrderBy = "oldest",
    ) -> Iterator[Task]:
        """Iterates over tasks; takes the filters of `Client.tasks`."""
        return self._iterate(_tasks(command, statuses, created_from, created_to, page_size, order_by))

    def iter_queues(self, *, page_size: int = 0, tenant: str = "") -> Iterator[Queue]:
        """Iterates over queues, ordered by name."""
        return self._iterate(_queues(page_size, tenant))

    def iter_workers(self, *, page_size: int = 0, tenant: str = "") -> Iterator[ConnectedWorker]:
        """Iterates over the connected workers, longest connected first."""
        return self._iterate(_workers(page_size, tenant))

    def iter_dead_letters(
        self, command: str, *, page_size: int = 0, order_by: OrderBy = "oldest", tenant: str = ""
    ) -> Iterator[Task]:
        """Iterates over a queue's dead letters. Raises QueueNotFound."""
        return self._iterate(_dead_letters(command, page_size, order_by, tenant))

    def iter_callbacks(
        self, command: str, state: str = CallbackState.UNSPECIFIED, *, page_size: int = 0, tenant: str = ""
    ) -> Iterator[Callback]:
        """Iterates over the callbacks of a command; takes the filter of `Client.callbacks`. Raises QueueNotFound."""
        return self._iterate(_callbacks(command, state, page_size, tenant))

    def iter_audit(self, wanted: AuditFilter | None = None, *, tenant: str = "") -> Iterator[AuditRecord]:
        """Iterates over the audit; takes the filter of `Client.audit`."""
        return self._iterate(_audit(wanted, tenant))

    def iter_schedules(self, *, page_size: int = 0, tenant: str = "") -> Iterator[Schedule]:
        """Iterates over schedules, ordered by name, without their next instants."""
        return self._iterate(_schedules(page_size, tenant))

    def iter_tenants(self, *, page_size: int = 0) -> Iterator[Tenant]:
        """Iterates over tenants, ordered by name; for operators."""
        return self._iterate(_tenants(page_size))

    def _iterate(self, page: _Page[_Value]) -> Iterator[_Value]:
        token = ""
        while True:
            items, token = self._call(page(token))
            yield from items
            if not token:
                return

    @abstractmethod
    def _call(self, call: Call[_Value]) -> _Value: ...


class AsyncPages:
    """The iterators of `AsyncClient`, for `async for`; see `Client`."""

    def iter_tasks(
        self,
        command: str = "",
        statuses: Iterable[str] = (),
        *,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        page_size: int = 0,
        order_by: OrderBy = "oldest",
    ) -> AsyncIterator[Task]:
        """Iterates over tasks; takes the filters of `Client.tasks`."""
        return self._iterate(_tasks(command, statuses, created_from, created_to, page_size, order_by))

    def iter_queues(self, *, page_size: int = 0, tenant: str = "") -> AsyncIterator[Queue]:
        """Iterates over queues, ordered by name."""
        return self._iterate(_queues(page_size, tenant))

    def iter_workers(self, *, page_size: int = 0, tenant: str = "") -> AsyncIterator[ConnectedWorker]:
        """Iterates over the connected workers, longest connected first."""
        return self._iterate(_workers(page_size, tenant))

    def iter_dead_letters(
        self, command: str, *, page_size: int = 0, order_by: OrderBy = "oldest", tenant: str = ""
    ) -> AsyncIterator[Task]:
        """Iterates over a queue's dead letters. Raises QueueNotFound."""
        return self._iterate(_dead_letters(command, page_size, order_by, tenant))

    def iter_callbacks(
        self, command: str, state: str = CallbackState.UNSPECIFIED, *, page_size: int = 0, tenant: str = ""
    ) -> AsyncIterator[Callback]:
        """Iterates over the callbacks of a command; takes the filter of `Client.callbacks`. Raises QueueNotFound."""
        return self._iterate(_callbacks(command, state, page_size, tenant))

    def iter_audit(self, wanted: AuditFilter | None = None, *, tenant: str = "") -> AsyncIterator[AuditRecord]:
        """Iterates over the audit; takes the filter of `Client.audit`."""
        return self._iterate(_audit(wanted, tenant))

    def iter_schedules(self, *, page_size: int = 0, tenant: str = "") -> AsyncIterator[Schedule]:
        """Iterates over schedules, ordered by name, without their next instants."""
        return self._iterate(_schedules(page_size, tenant))

    def iter_tenants(self, *, page_size: int = 0) -> AsyncIterator[Tenant]:
        """Iterates over tenants, ordered by name; for operators."""
        return self._iterate(_tenants(page_size))

    async def _iterate(self, page: _Page[_Value]) -> AsyncIterator[_Value]:
        token = ""
        while True:
            items, token = await self._call(page(token))
            for item in items:
                yield item
            if not token:
                return

    @abstractmethod
    async def _call(self, call: Call[_Value]) -> _Value: ...
