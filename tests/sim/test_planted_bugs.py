"""The simulator finds bugs: each of these, planted into the product one at a time, breaks a promise soon."""

from __future__ import annotations

import re
from contextlib import ExitStack
from types import FunctionType
from typing import Any, NamedTuple

import pytest
from codeq_server.core import claims, outcomes, recovery, redrive, timers
from codeq_server.core.shard import Shard
from codeq_server.core.time_index import TimeIndex
from codeq_server.engine.runner import ShardRunner
from planting import planted
from sim_run import simulate

SEEDS_MAX = 20
"""Seeds within which a bug must be found."""
LISTED = "shard.batch.ended.append((home.queue.number, keys.pack_home(home.index, delivery.position), False))"


class Bug(NamedTuple):
    """Where it is planted: function, what stands there, and what stands there instead; and what it is found by."""

    places: list[tuple[Any, str, str]]
    found_by: str


BUGS = {
    "ack before flush": Bug(
        [
            (
                ShardRunner._commit_batch,
                "await self._log.append(sealed)",
                "[f.done() or f.set_result(None) for f in self._current]; await self._log.append(sealed)",
            )
        ],
        "not durable",
    ),
    "attempt counted twice": Bug(
        [(outcomes.expire, "delivery.attempts + 1", "delivery.attempts + 2")],
        "was delivered . times, not|is dead after",
    ),
    "token not checked": Bug(
        [
            (outcomes.settle, "token != delivery.claim.token)", "False)"),
            (outcomes.complete, "token != claim.token or", "False or"),
        ],
        "by its worker's knowledge, and is not so|the end of .* is acknowledged|two ends",
    ),
    "token reused after rebuild": Bug(
        [(Shard.next_token, "self.epoch << TOKEN_COUNTER_BITS", "1 << TOKEN_COUNTER_BITS")],
        "is not above every earlier one|took .* in later",
    ),
    "retention of a running task": Bug(
        [
            (
                outcomes._try_again,
                "return Verdict(Status(state.status)",
                LISTED + "; return Verdict(Status(state.status)",
            ),
            (timers.remove_ended, "if value.startswith(head)", "if True"),
        ],
        "is listed as ended",
    ),
    "window refill skips a row": Bug(
        [(claims.load, "first, last = lane.loaded + 1,", "first, last = lane.loaded + 2,")],
        "lies not above the lane's mark|never ended|counts ready tasks",
    ),
    "index row left behind: dead letter": Bug(
        [
            (
                timers.remove_ended,
                "rows[keys.dead_key(lane.queue.number, ended_ms, *keys.split_place_key(key)[1:])] = None",
                "pass",
            )
        ],
        "leads to no dead letter",
    ),
    "index row left behind: due": Bug(
        [(TimeIndex.take, "rows[entry[:_KEY]] = None", "pass")],
        "leads to no task that is scheduled",
    ),
    "redrive forgets the token": Bug(
        [(redrive.redrive, "ended_token=state.ended_token, ", "")],
        "rows contradict each other|an older lease ended it|is live in two claims",
    ),
    "index row left behind: redriven dead letter": Bug(
        [
            (
                redrive.redrive,
                "batch.rows[keys.dead_key(queue.number, state.changed_ms, home.index, position)] = None",
                "pass",
            )
        ],
        "leads to no dead letter",
    ),
    "requeue ahead of the head mark forgotten": Bug(
        [(recovery.open_shard, "heapq.heappush(lane.returned, (position, *keys.split_pointer(value)))", "pass")],
        "never ended|counts ready tasks",
    ),
    "expired lease completed by its old holder": Bug(
        [(outcomes.expire, "del shard.deliveries[task_id]", "pass")],
        "rows contradict each other|was ended by a lease that was over|had ended|out of range: -",  # counts below 0
    ),
}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name: str) -> None:
    bug = BUGS[name]
    with ExitStack() as stack:
        for function, right, wrong in bug.places:
            assert isinstance(function, FunctionType)
            stack.enter_context(planted(function, right, wrong))
        found = next((text for seed in range(SEEDS_MAX) if (text := simulate(seed).violation)), "nothing")
    assert re.search(bug.found_by, found)
