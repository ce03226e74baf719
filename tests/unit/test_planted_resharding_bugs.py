"""The tests of resharding find bugs: each of these bugs, planted one at a time, breaks a promise that a test sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import pytest
import test_resharding
import test_resharding_switch
from codeq_server.core import lookup, names
from codeq_server.storage.resharding import lanes, references, reshard, shared, targets
from planting import planted
from resharded_stores import waiting_store

pytestmark = [pytest.mark.interpreted, pytest.mark.timeout(120)]


class Bug(NamedTuple):
    """Where to plant a bug (function, original expression, replacement), and the test that finds it."""

    place: tuple[Any, str, str]
    found_by: Callable[..., None]
    step: str = ""


BUGS: dict[str, Bug] = {
    "merged shards one after the other": Bug(
        (lanes.LaneMover.waiting, "max(at_ms, self._came_ms(key, value))", "0"),
        test_resharding.test_waiting_tasks_of_merged_shards_keep_the_order_of_acceptance,
    ),
    "task with a key in the shard of its id": Bug(
        (lanes.LaneMover._wanted, "keys_of(task) is not None", "keys_of(task) is None"),
        test_resharding.test_tasks_with_keys_stay_together_in_the_home_of_their_command,
    ),
    "id of a merged task is not looked for among names": Bug(
        (lookup.read_home, "ref is None or shard.resharded", "ref is None"),
        test_resharding.test_task_is_found_by_its_id_after_shards_were_merged,
    ),
    "idempotency key is looked for under its present id only": Bug(
        (names._taken, "not shard.resharded or", "True or"),
        test_resharding.test_request_with_a_key_finds_its_task_under_another_number_of_shards,
    ),
    "moved task is not noted": Bug(
        (lanes.LaneMover._take, "tasks.moved(", "("),
        test_resharding.test_file_that_is_missing_is_made_from_restored_stores,
    ),
    "leases of different workers joined": Bug(
        (targets.Lease.join, "if not same or", "if"),
        test_resharding.test_leases_of_two_workers_with_one_token_get_two,
    ),
    "ended delivery stays leased": Bug(
        (references._is_live, "ended_token < token", "ended_token < token + 1"),
        test_resharding.test_ended_deliveries_of_a_claim_are_left_out,
    ),
    "policy in one shard only": Bug(
        (shared._copy, "for target in targets:", "for target in targets[:1]:"),
        test_resharding.test_limits_policies_and_pauses_are_in_every_new_shard_and_totals_in_one,
    ),
    "counts of removed tasks in every shard": Bug(
        (shared._add_history, "kept.removed_total += row.removed_total", "kept.removed_total += 0"),
        test_resharding.test_limits_policies_and_pauses_are_in_every_new_shard_and_totals_in_one,
    ),
    "new stores are not checked": Bug(
        (reshard._replace, '_check_all(_stores(aside.new, job.to), "new", job.say)', "..."),
        test_resharding_switch.test_new_stores_with_contradictions_never_replace_the_old_ones,
    ),
    "old stores are in a folder that the next run empties": Bug(
        (reshard._replace, "aside.settle()", "..."),
        test_resharding_switch.test_crash_at_any_step_leaves_whole_stores_under_the_name,
        "keep",
    ),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bug_in_resharding_is_found(bug: Bug, tmp_path: Path) -> None:
    function, right, wrong = bug.place
    assert isinstance(function, FunctionType)
    with planted(function, right, wrong), pytest.raises((Exception, pytest.fail.Exception)):
        run(bug, tmp_path / "with")
    run(bug, tmp_path / "without")  # the test fails because of the bug


def run(bug: Bug, folder: Path) -> None:
    folder.mkdir()
    if bug.step:
        bug.found_by(waiting_store(folder), bug.step)
    elif bug.found_by is test_resharding_switch.test_new_stores_with_contradictions_never_replace_the_old_ones:
        bug.found_by(waiting_store(folder))
    else:
        bug.found_by(folder)
