"""The simulator finds bugs: each of these bugs, planted one at a time, soon breaks a promise.

A bug may be planted in several ways, each of which is found. `docs/evidence.md` names the bug for each promise.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from types import FunctionType
from typing import Any, NamedTuple

import pytest
from codeq_server.core import (
    callbacks,
    ending,
    expiry,
    firing,
    gate_recovery,
    gates,
    holders,
    names,
    ordering,
    outcomes,
    purging,
    recovery,
    redrive,
    sweep,
    windows,
)
from codeq_server.core.shard import Shard
from codeq_server.core.time_index import TimeIndex
from codeq_server.engine.runner import ShardRunner
from codeq_server.webhooks.courier import Courier
from planting import planted
from sim_run import simulate

pytestmark = pytest.mark.interpreted

SEEDS_MAX = 60
"""Seeds within which a bug must be found; most are found by the first few."""
SECONDS_MAX = 3600
"""Seconds that this many seeds may take if other suites leave no core idle."""
SEALED = "return SealedBatch(batch.lsn, batch.lsn - 1, self.epoch, now.wall_ms, rows)"
LATE_NAMES = (
    "late, self.late = getattr(self, 'late', {}), {k: v for k, v in rows.items() if k[:1] == b'i'}; "
    "rows = {k: v for k, v in rows.items() if k[:1] != b'i'} | late; "
) + SEALED
ANEW = (
    "adopt_schedule(shard.schedules, key, value); early = rows_pb2.ScheduleRow.FromString(value); "
    "early.next_ms[:] = sorted({early.after_ms, *early.next_ms} - {0}); early.after_ms = 0; "
    "shard.batch.rows[key] = early.SerializeToString()"
)
LISTED = "shard.batch.ended.append((home.queue.number, keys.pack_home(home.index, delivery.position), False))"


class Bug(NamedTuple):
    """Where to plant a bug (function, original expression, replacement), and a pattern of the expected violation.

    With `unseen_by_checker`, inconsistent rows are ignored, so that only clients can notice the bug. The search begins
    with `first_seed`, because the lives that meet a rare bug are far apart.
    """

    places: list[tuple[Any, str, str]]
    found_by: str
    unseen_by_checker: bool = False
    first_seed: int = 0


BUGS: dict[str, Bug | dict[str, Bug]] = {
    "ack before flush": Bug(
        [
            (
                ShardRunner._commit_batch,
                "self._log.append(sealed).add",
                "[f.done() or f.set_result(None) for f in flight.waiters]; self._log.append(sealed).add",
            )
        ],
        "not durable",
    ),
    "attempt counted twice": Bug(
        [(outcomes.expire, "delivery.attempts + 1", "delivery.attempts + 2")],
        "was delivered . times, not|is dead after",
    ),
    "delay of an abandon": {
        "counts as a delivery": Bug(
            [(outcomes.give_back, "1 if is_counted else delivery.attempts", "1")],
            "was delivered . times, not|is dead after",
        ),
        "forgotten": Bug(
            [(outcomes.give_back, "is_counted or delay_ms > 0", "is_counted")],
            "was abandoned for",
        ),
        "cut short": Bug(
            [(outcomes._try_again, "due_ms = now.wall_ms + delay_ms", "due_ms = now.wall_ms + delay_ms // 2")],
            "waits for .*, not for",
        ),
    },
    "token not checked": {
        "": Bug(
            [(holders.objection, "token != claim.token", "False")],
            "did not end as its worker was told|the end of .* is acknowledged|two ends",
        ),
        "forgotten in a redrive": Bug(
            [(redrive.redrive, "ended_token=state.ended_token,", "")],
            "inconsistent|contradict each other|an older lease ended it|is live in two claims",
        ),
    },
    "token reused after rebuild": Bug(
        [(Shard.next_token, "self.epoch << TOKEN_COUNTER_BITS", "1 << TOKEN_COUNTER_BITS")],
        "is not above every earlier one|included .* later",
    ),
    "retention of a running task": {
        "": Bug(
            [
                (
                    outcomes._try_again,
                    "return Verdict(Status(state.status)",
                    LISTED + "; return Verdict(Status(state.status)",
                ),
                (sweep._remove_run, "if value.startswith(head)", "if True"),
            ],
            "is listed as ended|was removed and had not ended",
        ),
        "of a redriven task": Bug(
            [
                (
                    ending.end_task,
                    "batch.ended.append((queue.number, home.index << 48 | position, status is _DLQ))",
                    "batch.completed.append((queue.number, home.index << 48 | position))",
                )
            ],
            "is listed as completed|was removed and had not ended",
        ),
    },
    "window refill skips a row": Bug(
        [(windows.load, "first, last = lane.loaded + 1,", "first, last = lane.loaded + 2,")],
        "is not above the lane's mark|never ended|counts ready tasks",
    ),
    "one index row left behind": {
        "dead letter": Bug(
            [
                (
                    sweep._remove_run,
                    "shard.batch.rows[keys.dead_key(number, ended_ms, *keys.split_place_key(key)[1:])] = None",
                    "pass",
                )
            ],
            "leads to no dead letter",
        ),
        "redriven dead letter": Bug(
            [
                (
                    redrive.redrive,
                    "batch.rows[keys.dead_key(queue.number, state.changed_ms, home.index, position)] = None",
                    "pass",
                )
            ],
            "leads to no dead letter",
        ),
        "due": Bug([(TimeIndex.take, "rows[entry[:_KEY]] = None", "pass")], "leads to no task with this time"),
        "due of a purged task": Bug(
            [(purging._scheduled, "shard.due.remove(purge.queue, due_ms, home_lane, position)", "pass")],
            "leads to no task with this time|scheduled is",
        ),
        "expiry": Bug(
            [(expiry.leave_expiry, "shard.expiry.remove(queue, expire_ms, home.index, position)", "pass")],
            "leads to no task with this time",
        ),
        "task that waited for its key": Bug(
            [(gates._let_through, "shard.batch.rows[key] = None", "pass")],
            "leads to no task that waits",
        ),
        "task in the line of its key": Bug(
            [(ordering.leave, "rows[keys.blocked_key(queue.number, name, number)] = None", "pass")],
            "is left behind|leads to no task that waits",
        ),
        "name": Bug(
            [(names.forget, "rows[keys.name_key(queue.tenant, task_id)] = None", "pass")],
            "leads to no task|CORRUPT_DATA",
        ),
    },
    "requeue ahead of the head mark forgotten": Bug(
        [
            (
                recovery.open_shard,
                "heapq.heappush(lane.returned, (position, *unpacked(keys.split_pointer, key, value)))",
                "pass",
            )
        ],
        "never ended|counts ready tasks",
    ),
    "idempotency row written in another batch than its task": {
        "seen by clients": Bug(
            [(Shard.seal, SEALED, LATE_NAMES)],
            "two tasks have the id|is acknowledged but not durable|is not found|a look ended with Reason.CORRUPT",
            unseen_by_checker=True,
        ),
        "seen by the checker": Bug(
            [(Shard.seal, SEALED, LATE_NAMES)],
            "no row leads from its id",
        ),
    },
    "history of deliveries lost": {
        "by an end": Bug([(outcomes._finish, "row += _kept(shard, delivery, task_id)", "pass")], "lost part"),
        "in a redrive": Bug(
            [(redrive.redrive, "deliveries=history.deliveries(state)", "deliveries=[]")], "lost part", first_seed=59
        ),
        "over a restart": Bug([(recovery._note_earlier, "claim.again.add(task_id)", "pass")], "lost part"),
    },
    "instant fires twice": {
        "with another id": Bug(
            [
                (
                    firing.fire,
                    "_naming(shard, schedule, row.generation, instant)",
                    "_naming(shard, schedule, row.fired_total, instant)",
                ),
                (firing._fire_instants, "del row.next_ms[:done]", "del row.next_ms[: done - row.fired_total % 2]"),
            ],
            "both ids of|does not move its schedule",
            unseen_by_checker=True,
        ),
        "because the schedule moves in a later batch": Bug(
            [(firing._turn, "if value != stored:", "if row.fired_total % 2:")],
            "does not move its schedule|inconsistent",
        ),
        "because a server that starts computes its instants anew": Bug(
            [
                (
                    recovery._adopt_settings,
                    "adopt_schedule(shard.schedules, key, value)",
                    ANEW,
                ),
            ],
            "went back to an earlier instant|fires early|both ids of",
        ),
    },
    "quota forgets the open batch": Bug(
        [(Shard.used_by, "self.count()", "pass")],
        "tasks of .* wait, of which",
    ),
    "callback before its end is durable": Bug(
        [(Courier._turn, "await runner.wait_durable()", "pass")],
        "is reported, but not durable",
    ),
    "callback lost": {
        "at a restart, before its first attempt": Bug(
            [(callbacks.adopt, "outbox.mark = outbox.taken = state.mark", "outbox.mark = outbox.taken = state.tail")],
            "callbacks never arrived|was removed, not made",
            unseen_by_checker=True,
        ),
        "by the sweep": Bug(
            [(sweep._let_callbacks_go, "if is_pending(shard, queue, state):", "if False:")],
            "was removed, not made",
        ),
        "with its lease": Bug(
            [(callbacks.take_again, "_wait_until(shard, queue, position, row, now.wall_ms + LEASE_MS)", "pass")],
            "is not in the index of retries",
        ),
        "by a redrive": Bug(
            [(redrive.redrive, "callbacks=carry_into_next_life(shard, queue, state),", "")],
            "is listed by no task",
        ),
    },
    "slot of a limit of consumers": {
        "leaked after an expired lease": Bug(
            [(outcomes.leave_claim, "if queue.full:", "if queue.full and not shard.totals.expired:")],
            "never ended",
        ),
        "given twice after a restart": Bug(
            [(recovery._adopt_settings, "shard.policies.adopt(key, value)", "pass")],
            "are leased, not",
        ),
    },
    "limit of a key": {
        "leaks after an expired lease": Bug(
            [(gates.leave, "gate.running.pop(home, None)", "pass")],
            "never ended",
        ),
        "exceeded after recovery": Bug(
            [(gate_recovery.adopt_running, "ring.gate(name).running[packed] = None", "ring.gate(name)")],
            "are leased, . may be",
        ),
        "not counted": Bug(
            [(gates.enter, "gate.running[home] = None", "pass")],
            "are leased, . may be",
        ),
    },
    "order of a key broken": {
        "by a retry": Bug(
            [
                (
                    outcomes._try_again,
                    "return Verdict(Status(state.status)",
                    "gates.ordering.leave(shard, home, delivery.position); return Verdict(Status(state.status)",
                )
            ],
            "passed|of one ordering key are leased",
            unseen_by_checker=True,
        ),
        "by a claim": Bug(
            [(ordering.is_first, "line[1] == home", "True")],
            "passed|of one ordering key are leased",
        ),
    },
    "expired lease completed by its old holder": Bug(
        [(outcomes.expire, "del shard.deliveries[task_id]", "pass")],
        # Counts may fall below 0.
        "inconsistent|contradict each other|was ended by an expired lease|had ended|out of range: -|home of a leased",
    ),
}


WAYS = [
    (f"{name}: {way}" if way else name, bug)
    for name, ways in BUGS.items()
    for way, bug in (ways.items() if isinstance(ways, dict) else [("", ways)])
]


@pytest.mark.timeout(SECONDS_MAX)
@pytest.mark.parametrize("bug", [bug for _, bug in WAYS], ids=[name for name, _ in WAYS])
def test_planted_bug_is_found(bug: Bug) -> None:
    with ExitStack() as stack:
        for function, right, wrong in bug.places:
            assert isinstance(function, FunctionType)
            stack.enter_context(planted(function, right, wrong))
        seeds = range(bug.first_seed, bug.first_seed + SEEDS_MAX)
        lives = (simulate(seed, checked=not bug.unseen_by_checker) for seed in seeds)
        assert any(re.search(bug.found_by, life.violation) for life in lives)  # some lives show another symptom first


def test_nineteen_bugs_are_planted() -> None:
    assert len(BUGS) == 19
