"""Searches random lives of a state machine, in rounds determined by their numbers alone.

Environment: CODEQ_SEARCH_SECONDS (least time to search), CODEQ_MODEL_SEED (first round), CODEQ_MODEL_ROUNDS (least
number of rounds), CODEQ_MODEL_EXAMPLES (lives per round). A failing round says how to replay it.
"""

from __future__ import annotations

import os
import time
from itertools import count

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

SEARCH_SECONDS = float(os.environ.get("CODEQ_SEARCH_SECONDS", "120"))
FIRST_ROUND = int(os.environ.get("CODEQ_MODEL_SEED", "0"))
ROUNDS = int(os.environ.get("CODEQ_MODEL_ROUNDS", "0"))
ROUND_EXAMPLES = int(os.environ.get("CODEQ_MODEL_EXAMPLES", "200"))


def search(
    machine: type[RuleBasedStateMachine],
    examples_least: int,
    steps: int,
    seconds: float = 0,
    round_examples: int = ROUND_EXAMPLES,
) -> None:
    """Runs random lives of at most `steps` steps: at least `examples_least`, and as many as fit into the time.

    Raises:
        AssertionError: A life broke an invariant. Any other exception in a life is raised as is.
    """
    end = time.monotonic() + seconds
    least = ROUNDS or -(-examples_least // round_examples)
    for number in count(FIRST_ROUND):
        if number - FIRST_ROUND >= least and time.monotonic() >= end:
            return
        try:
            run_state_machine_as_test(
                seed(number)(machine),
                settings=settings(
                    max_examples=round_examples,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    derandomize=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except BaseException as problem:
            problem.add_note(f"replay: make model SEED={number}")
            raise
