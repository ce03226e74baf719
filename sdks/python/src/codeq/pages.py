"""The methods with which the clients iterate over lists, page by page."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime
from typing import TypeVar

from codeq import calls, schedule_calls, tenant_calls
from codeq.audit import AuditFilter, AuditRecord
from codeq.calls import Call
from codeq.records import OrderBy, Task
from codeq.schedule_records import Schedule
from codeq.server_records import Queue
from codeq.tenant_records import Tenant

_Value = TypeVar("_Value")
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


def _dead_letters(command: str, page_size: int, order_by: OrderBy, tenant: str) -> _Page[Task]:
    def page(token: str) -> Call[tuple[list[Task], str]]:
        call = calls.dead_letters(command, page_size, token, order_by, tenant)

        def convert(reply: object) -> tuple[list[Task], str]:
            found = call.convert(reply)
            return found.tasks, found.next_page_token

        return Call(call.method, call.request, call.reply, convert, repeatable=call.repeatable)

    return page


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

    def iter_dead_letters(
        self, command: str, *, page_size: int = 0, order_by: OrderBy = "oldest", tenant: str = ""
    ) -> Iterator[Task]:
        """Iterates over a queue's dead letters. Raises QueueNotFound."""
        return self._iterate(_dead_letters(command, page_size, order_by, tenant))

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

    def iter_dead_letters(
        self, command: str, *, page_size: int = 0, order_by: OrderBy = "oldest", tenant: str = ""
    ) -> AsyncIterator[Task]:
        """Iterates over a queue's dead letters. Raises QueueNotFound."""
        return self._iterate(_dead_letters(command, page_size, order_by, tenant))

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
