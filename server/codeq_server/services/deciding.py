"""Runs the decisions of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from codeq_server.core.errors import Rejection
from codeq_server.engine.runner import ShardRunner

T = TypeVar("T")


def decide(runner: ShardRunner, decision: Callable[[], T]) -> T:
    """Returns the outcome of a decision; one that breaks off halfway ends the runner.

    Raises:
        Rejection: That of the decision, or OUTCOME_UNKNOWN.
    """
    try:
        return decision()
    except Rejection:
        raise
    except Exception as problem:
        raise runner.fail(problem) from problem
