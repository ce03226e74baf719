"""Waiters for a group's decisions: proposals until they are applied, reads until the leadership is confirmed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence


class Pending:
    """The waiters of one member.

    Args:
        refusal: Makes the exception for waiters that this member cannot serve because it does not lead.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, refusal: Callable[[], Exception]) -> None:
        self._loop = loop
        self._refusal = refusal
        self._proposals: dict[int, tuple[int, asyncio.Future[None]]] = {}
        """By index: the term of a proposal, and its waiter."""
        self._reads: dict[bytes, asyncio.Future[None]] = {}
        """By context: the waiters for confirmation that this member still leads."""
        self._answered: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Entry that must be applied first, and the waiters for it."""
        self._number = 0
        self._asking: asyncio.Future[None] | None = None

    @property
    def proposals(self) -> int:
        """Number of proposals in flight."""
        return len(self._proposals)

    def failed(self) -> asyncio.Future[None]:
        """Returns a future that has already failed."""
        future: asyncio.Future[None] = self._loop.create_future()
        future.set_exception(self._refusal())
        future.exception()  # marks it as retrieved: the waiter may be gone
        return future

    def proposed(self, index: int, term: int) -> asyncio.Future[None]:
        """Returns a future that is done when the entry at `index` is applied, or fails if its term is not `term`."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._proposals[index] = (term, future)
        return future

    def applied(self, done: Sequence[tuple[int, int, bool]]) -> None:
        """Completes the waiters of entries, each given by index, term, and whether its rows were applied."""
        if not self._proposals:
            return
        for index, term, accepted in done:
            wanted, future = self._proposals.pop(index, (0, None))
            if future is None or future.done():
                continue
            if accepted and wanted == term:
                future.set_result(None)
            else:
                _fail(future, self._refusal())

    def ask(self, leads: bool, ask: Callable[[bytes], None]) -> asyncio.Future[None]:  # noqa: FBT001
        """Returns a future for the confirmation of a read, shared by all callers in one turn of the loop.

        The other members are asked at the end of that turn.

        Args:
            leads: Whether this member leads now.
            ask: Asks the other members, with a given context.
        """
        if not leads:
            return self.failed()
        if self._asking is None:
            self._asking = self._loop.create_future()
            self._loop.call_soon(self._ask, ask)
        return self._asking

    def _ask(self, ask: Callable[[bytes], None]) -> None:
        asking, self._asking = self._asking, None
        if asking is None:
            return
        self._number += 1
        context = self._number.to_bytes(8, "big")
        self._reads[context] = asking
        ask(context)

    def answered(self, index: int, context: bytes) -> None:
        """Handles an answer: when the question was asked, this member led and `index` was decided."""
        future = self._reads.pop(context, None)
        if future is not None:
            self._answered.append((index, future))

    def reached(self, index: int) -> None:
        """Completes confirmed reads whose entries are applied."""
        while self._answered and self._answered[0][0] <= index:
            _, future = self._answered.popleft()
            if not future.done():
                future.set_result(None)

    def fail(self) -> None:
        """Fails all waiters because the leadership has ended."""
        waiting = [future for _, future in self._proposals.values()]
        waiting += [*self._reads.values(), *(future for _, future in self._answered)]
        if self._asking is not None:
            waiting.append(self._asking)
            self._asking = None
        self._proposals.clear()
        self._reads.clear()
        self._answered.clear()
        for future in waiting:
            _fail(future, self._refusal())


def _fail(future: asyncio.Future[None], problem: Exception) -> None:
    if not future.done():
        future.set_exception(problem)
        future.exception()  # marks it as retrieved: the waiter may be gone
