"""The tests of groups find bugs: each of these bugs, planted one at a time, breaks a promise that a test sees."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import test_leader_seeker
import test_passing
import test_peer_front
import test_place
from codeq_gateway import links
from codeq_server.node import peer_front, place
from codeq_server.replication.raft import routes
from codeq_server.services import call_stream, internal_callers, leader_seeker, passing, shard_links
from planting import planted

pytestmark = [pytest.mark.interpreted, pytest.mark.timeout(120)]

SECONDS_MAX = 8.0
"""Time in which a test keeps its promise without the bug; with it, some wait for good."""


class Bug(NamedTuple):
    """Where to plant a bug (function, original expression, replacement), and the test that finds it."""

    place: tuple[Any, str, str]
    found_by: Callable[..., Any]


BUGS: dict[str, Bug] = {
    "node with another number of groups is let in": Bug(
        (routes.read_head, "theirs != groups or ", ""), test_peer_front.test_route_names_group_and_node
    ),
    "connection reaches the process of another group": Bug(
        (peer_front.PeerFront.port_for, "[route.group]", "[0]"),
        test_peer_front.test_connection_reaches_the_process_of_its_group,
    ),
    "what follows the head is lost": Bug(
        (peer_front._Caller.join, "process.send(self._head)", "pass"),
        test_peer_front.test_head_may_arrive_byte_by_byte_and_with_what_follows,
    ),
    "silent connections fill the port": Bug(
        (peer_front.PeerFront.admit, "next(iter(self._headless)).close()", "pass"),
        test_peer_front.test_silent_connections_keep_nobody_out,
    ),
    "process listens where its node does": Bug(
        (place.Place.settings, "self.raft[self.shard]", "raft.bind_addr.port"),
        test_place.test_process_of_a_group_has_its_own_place_between_nodes,
    ),
    "owner of the same shard at another node is refused": Bug(
        (internal_callers.Owner.check, "self.is_member or ", ""),
        test_place.test_process_of_a_group_has_its_own_place_between_nodes,
    ),
    "leader that is named is not asked": Bug(
        (leader_seeker.LeaderSeeker.missed, "self._at = leader", "pass"),
        test_leader_seeker.test_process_of_this_node_is_asked_first_and_after_a_loss,
    ),
    "two that name each other are asked for ever": Bug(
        (leader_seeker.LeaderSeeker.missed, "self._hops <= HOPS_MAX", "True"),
        test_leader_seeker.test_two_that_name_each_other_are_not_asked_without_a_pause,
    ),
    "calls in flight are cut when a link moves": Bug(
        (links._close_after, "asyncio.gather(*uses, return_exceptions=True)", "asyncio.sleep(0)"),
        test_passing.test_call_in_flight_is_answered_although_its_link_moves,
    ),
    "stream is passed on again and again": Bug(
        (passing.PassingOn.stream, "None if PASSED_KEY in metadata else ", ""),
        test_passing.test_what_was_passed_on_is_not_passed_on_again,
    ),
    "call is passed on again and again": Bug(
        (call_stream._CallStream._carry_out, "passed=self.is_owner and not is_routed", "passed=False"),
        test_passing.test_what_was_passed_on_is_not_passed_on_again,
    ),
    "call of a stopping node fails at the others": Bug(
        (shard_links.ShardLinks.sent, "not in _ELSEWHERE", "is not Reason.NOT_LEADER"),
        test_passing.test_calls_at_a_leader_that_stops_are_sent_to_the_next_one,
    ),
    "call waits as long again at the next leader": Bug(
        (shard_links.Tries.next, "max(0, wait - int(now - self._begun))", "wait"),
        test_passing.test_call_that_is_sent_again_waits_for_what_is_left_of_its_time,
    ),
}


def run(bug: Bug) -> None:
    """Runs the test of a bug."""
    test = inspect.unwrap(bug.found_by)
    if not inspect.iscoroutinefunction(test):
        test()
        return

    async def limited() -> None:
        async with asyncio.timeout(SECONDS_MAX):
            await test()

    asyncio.run(limited())


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_planted_bug_in_the_groups_is_found(bug: Bug) -> None:
    function, right, wrong = bug.place
    with planted(function, right, wrong), pytest.raises((Exception, BaseExceptionGroup, pytest.fail.Exception)):
        run(bug)
    run(bug)  # the test fails because of the bug
