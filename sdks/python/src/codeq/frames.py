"""What an exception keeps alive, and how it is let go."""

from __future__ import annotations


def let_go(problem: BaseException) -> None:
    """Takes the frames from an exception that has been dealt with, and from all that it came from.

    A frame that still has the exception among its variables, as those of task groups and of who waits for a future
    have, would otherwise live, with the request it was about, until the next look for reference cycles. Whoever turns
    refusals into replies calls this when the reply is made.
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
