"""Who waits for what a group decides: proposals until they are applied, reads until the leadership is confirmed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence


class Pending:
    """The waiters of one member.

    Args:
        refusal: Makes what those are told whom this member, which does not lead, cannot answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, refusal: Callable[[], Exception]) -> None:
        self._loop = loop
        self._refusal = refusal
        self._proposals: dict[int, tuple[int, asyncio.Future[None]]] = {}
        """By index: the term of a proposal, and who waits for it."""
        self._reads: dict[bytes, asyncio.Future[None]] = {}
        """By context: who asked whether this member still leads."""
        self._answered: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Entry up to which must be applied, and who asked."""
        self._number = 0
        self._asking: asyncio.Future[None] | None = None

    @property
    def proposals(self) -> int:
        """Number of proposals that are on their way."""
        return len(self._proposals)

    def failed(self) -> asyncio.Future[None]:
        """Returns what has failed already."""
        future: asyncio.Future[None] = self._loop.create_future()
        future.set_exception(self._refusal())
        future.exception()  # who waited may be gone
        return future

    def proposed(self, index: int, term: int) -> asyncio.Future[None]:
        """Returns what is done when the entry at `index` is applied, if its term is `term`."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._proposals[index] = (term, future)
        return future

    def applied(self, done: Sequence[tuple[int, int, bool]]) -> None:
        """Tells those who wait for entries: index, term, and whether its rows were taken."""
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
        """Returns what is done when a read is confirmed; all who ask in one turn of the loop ask together, at its end.

        Args:
            leads: Whether this member leads now.
            ask: Takes a context with which it asks the others.
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
        """Takes the answer to a question: this member led when it was asked, and `index` was decided then."""
        future = self._reads.pop(context, None)
        if future is not None:
            self._answered.append((index, future))

    def reached(self, index: int) -> None:
        """Tells those whose read is confirmed and for whom enough is applied."""
        while self._answered and self._answered[0][0] <= index:
            _, future = self._answered.popleft()
            if not future.done():
                future.set_result(None)

    def fail(self) -> None:
        """Tells everybody that the leadership is gone."""
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
        future.exception()  # who waited may be gone
