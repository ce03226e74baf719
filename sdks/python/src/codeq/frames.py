"""Releases the frames that a handled exception keeps alive."""

from __future__ import annotations


def let_go(problem: BaseException) -> None:
    """Drops the tracebacks of a handled exception and of its causes, contexts and grouped exceptions.

    A frame that still holds the exception in a variable, as task groups and waiters of futures do, forms a reference
    cycle. The frame and its request would then live until the next garbage collection. Code that turns errors into
    replies calls this once the reply is made.
    """
    rest: list[BaseException | None] = [problem]
    while rest:
        each = rest.pop()
        if each is None or each.__traceback__ is None:
            continue
        each.__traceback__ = None
        rest += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            rest += each.exceptions
