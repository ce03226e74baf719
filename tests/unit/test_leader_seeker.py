"""The search for the process that leads a group: near first, then where others say."""

from __future__ import annotations

from functools import partial

from codeq_gateway.links import Reach
from codeq_server.services.leader_seeker import HOPS_MAX, LeaderSeeker


def seeker() -> LeaderSeeker:
    return LeaderSeeker("a", {name: partial(Reach, name) for name in "abc"})


def test_process_of_this_node_is_asked_first_and_after_a_loss() -> None:
    sought = seeker()
    assert (sought.reach().address, sought.is_near) == ("a", True)
    assert sought.missed({"leader": "c"})
    assert (sought.reach().address, sought.is_near) == ("c", False)
    assert not sought.missed(None)
    assert sought.reach().address == "a"


def test_other_nodes_are_asked_in_turn_while_this_one_knows_no_leader() -> None:
    sought = seeker()
    asked = []
    for told in (None, None, {}, {}, None, None):
        assert not sought.missed(told)
        asked.append(sought.reach().address)
    assert asked == ["c", "a", "b", "a", "c", "a"]


def test_two_that_name_each_other_are_not_asked_without_a_pause() -> None:
    sought = seeker()
    answers = [sought.missed({"leader": name}) for name in ("b", "c", "b", "c", "b", "c")]
    assert answers == [True] * HOPS_MAX + [False] + [True] * HOPS_MAX + [False]


def test_leader_of_an_unknown_name_and_one_that_names_itself_are_not_followed() -> None:
    sought = seeker()
    assert not sought.missed({"leader": "z"})
    assert sought.reach().address != "z"
    assert seeker().missed({"leader": "a"}) is False
