"""The tests of shards find bugs: each of these bugs, planted one at a time, breaks a promise that a test sees."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import pytest
import test_core_ids
import test_elsewhere
import test_relay
import test_relay_credits
import test_routing
import test_routing_claims
import test_routing_pages
import test_routing_places
from codeq_server.core import ids
from codeq_server.services import elsewhere, part_links, relay, relay_credits, relay_ledger, relay_part
from codeq_server.services.routing import batches, claim_router, pages, placing
from planting import planted
from several_shards import Installation

pytestmark = [pytest.mark.interpreted, pytest.mark.timeout(120)]

SECONDS_MAX = 2.0
"""Time in which a test keeps its promise without the bug; with it, some wait for good."""


class Bug(NamedTuple):
    """Where to plant a bug (function, original expression, replacement), and the test that finds it.

    A test of several shards gets `shards` of them, which answer as soon as `pace` says.
    """

    place: tuple[Any, str, str]
    found_by: Callable[..., Any]
    given: tuple[Any, ...] = ()
    shards: int = 0


BUGS: dict[str, Bug] = {
    "id leads to another shard than its task": Bug(
        (ids.Route._first, "== self.shard", "== (self.shard + 1) % self.count"),
        test_core_ids.test_ids_lead_to_the_shard_that_made_them,
        (4,),
    ),
    "task with a key is created where it arrives": Bug(
        (
            placing.of_spec,
            "return shards.shard_of(names.keyed_id",
            "return shards.mine or shards.shard_of(names.keyed_id",
        ),
        test_routing.test_task_with_a_key_is_created_once_through_whatever_process,
        shards=4,
    ),
    "task with a limit is created where it arrives": Bug(
        (placing.of_spec, "        return home", "        return shards.mine"),
        test_routing_places.test_tasks_of_a_command_with_any_keys_share_a_shard,
        shards=4,
    ),
    "claim in two shards at once": Bug(
        (claim_router.Gathering.part, "self._wanted - len(self.tasks)", "self._wanted"),
        test_routing_claims.test_claim_of_several_tasks_is_filled_from_all_shards,
        shards=3,
    ),
    "claim that its caller left is kept": Bug(
        (claim_router.ClaimRouter._return_late, "await self._return_all(late)", "pass"),
        test_routing_claims.test_claim_whose_caller_leaves_before_it_is_durable_is_returned,
        shards=3,
    ),
    "busy shard hides the work of others": Bug(
        (
            claim_router.ClaimRouter._look,
            "refusal = await self._take(gathering, shards.mine)",
            "return await self._take(gathering, shards.mine)",
        ),
        test_routing_claims.test_claim_finds_the_only_task_whatever_its_shard,
        (0, 1),
        shards=3,
    ),
    "page token skips a shard": Bug(
        (pages.Source._turn, "self.done = not self.token", "self.done = True"),
        test_routing_pages.test_merged_pages_by_time_show_every_item_once_in_order,
    ),
    "page skips the item at its beginning": Bug(
        (pages.Source.fill, "self.items = items", "self.items = items[1:]"),
        test_routing_pages.test_merged_pages_by_time_show_every_item_once_in_order,
    ),
    "errors of a batch have the indexes of their shard": Bug(
        (batches._merge, "answers[index].error.index = index", "pass"),
        test_routing.test_batch_over_several_shards_keeps_the_order_and_the_indexes_of_errors,
        shards=4,
    ),
    "ack of a frame has the ids of another order": Bug(
        (elsewhere._note, "task_ids[item.number] = task_id", "task_ids[-1 - item.number] = task_id"),
        test_elsewhere.test_tasks_go_to_the_shards_of_their_ids_and_all_others_stay,
    ),
    "credits doubled": Bug(
        (relay_credits.Credits._end_pull, "share.pulling - count", "share.pulling"),
        test_relay.test_worker_never_gets_more_tasks_than_its_credits,
    ),
    "credits of a broken link lost": Bug(
        (relay_credits.Credits.lose, "self._end_pull(self._shares[shard], 0, 0)", "pass"),
        test_relay.test_credits_of_a_pull_that_broke_are_used_for_other_shards,
    ),
    "returned credits are kept": Bug(
        (relay.WorkerRelay._return, "self._credits.held -= count", "pass"),
        test_relay.test_returned_credits_are_told_once_and_pay_for_no_task,
    ),
    "credits in a pull are returned": Bug(
        (
            relay.WorkerRelay._return,
            "credits_to_return(self._credits.held, count)",
            "credits_to_return(self.credits, count)",
        ),
        test_relay.test_credits_of_a_pull_in_flight_are_not_returned,
    ),
    "stream of one shard gets the tasks of another": Bug(
        (part_links.LinksToOne.open, "self._shard", "0"),
        test_relay.test_worker_of_one_shard_gets_its_tasks_only,
    ),
    "hint lost": Bug(
        (relay_credits.Credits.hint, "share.is_hinted = share.pulling > 0", "pass"),
        test_relay.test_hint_that_overtakes_the_answer_to_a_pull_is_not_lost,
    ),
    "outcome reported before those ahead of it": Bug(
        (relay_ledger.Ledger.report, "while order and unreported[order[0]]:", "while order and any(unreported):"),
        test_relay_credits.test_outcomes_are_reported_once_in_order_with_the_numbers_of_the_client,
    ),
    "outcome answered although it is sent again": Bug(
        (relay_ledger.Ledger.lose, "sent if keep else len(unsettled)", "len(unsettled)"),
        test_relay_credits.test_outcomes_are_reported_once_in_order_with_the_numbers_of_the_client,
    ),
    "outcome dropped while its shard is down": Bug(
        (relay_part.RelayPart._lose, "if self.is_down:", "if True:"),
        test_relay.test_outcomes_wait_for_a_shard_that_starts_again,
    ),
    "outcome sent before the shard has accepted the link": Bug(
        (relay_part.RelayPart._write, "await self._accepted.wait()", "pass"),
        test_relay.test_client_that_has_ended_leaves_its_outcomes_for_a_shard_that_starts_again,
    ),
}


@pytest.fixture(autouse=True)
async def listed() -> None:
    """Prepares the tests of pages as their own fixture does."""
    test_routing_pages.Installed.methods = dict(Installation(test_routing_pages.SHARDS).calls[0].methods)


def run(bug: Bug) -> None:
    """Runs the test of a bug."""
    test = inspect.unwrap(bug.found_by) if inspect.iscoroutinefunction(bug.found_by) else bug.found_by
    if not inspect.iscoroutinefunction(test):
        test(*bug.given)
        return

    async def limited() -> None:
        shards = (Installation(bug.shards, test_routing_claims.QUICK),) if bug.shards else ()
        async with asyncio.timeout(SECONDS_MAX):
            await test(*shards, *bug.given)

    asyncio.run(limited())


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bug_in_the_shards_is_found(bug: Bug) -> None:
    function, right, wrong = bug.place
    assert isinstance(function, FunctionType)
    with planted(function, right, wrong), pytest.raises((Exception, BaseExceptionGroup)):
        run(bug)
    run(bug)  # the test fails because of the bug
