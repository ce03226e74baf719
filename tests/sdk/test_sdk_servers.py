"""Rules for the choice of a server and for failures that a call survives, tested without a connection."""

from __future__ import annotations

import itertools

import codeq
import pytest
from codeq import errors
from codeq.backoff import Backoff
from codeq.endpoint import Endpoint
from codeq.errors import NotSent
from codeq.following import ATTEMPT_SECONDS_MAX, Following
from codeq.servers import DELAY_SECONDS_MAX, DELAY_SECONDS_MIN, KNOWN_MAX, REFRESH_SECONDS, Servers
from codeq.streams import QUICK_ATTEMPTS, Reconnects


def not_leader(leader: str = "") -> errors.CodeqError:
    return errors.NotLeader("no", metadata={"leaderGrpc": leader} if leader else {})


def test_next_server_is_tried_after_a_delay_that_grows_to_its_limit() -> None:
    servers = Servers(["a:1", "b:1", "c:1"])
    gone: list[str] = []
    delays: list[float] = []
    for _ in range(9):
        delays.append(servers.left(servers.current))
        gone.append(servers.current)
    assert gone == ["b:1", "c:1", "a:1"] * 3
    assert all(DELAY_SECONDS_MIN <= delay <= DELAY_SECONDS_MAX for delay in delays)
    assert max(delays[:1]) <= 0.1
    assert min(delays[4:]) >= DELAY_SECONDS_MAX / 2


def test_named_leader_is_used_at_once_and_remembered() -> None:
    servers = Servers(["a:1"])
    assert not servers.are_many
    assert servers.left("a:1", "b:1") == 0
    assert (servers.current, servers.known, servers.are_many) == ("b:1", ("a:1", "b:1"), True)


def test_servers_naming_each_other_as_leader_are_eventually_tried_with_a_delay() -> None:
    servers = Servers(["a:1", "b:1"])
    others = {"a:1": "b:1", "b:1": "a:1"}
    delays = [servers.left(servers.current, others[servers.current]) for _ in range(30)]
    assert delays[:2] == [0, 0]
    assert all(any(three) for three in zip(delays, delays[1:], delays[2:], strict=False))


def test_dead_leader_named_by_a_server_does_not_block_other_servers() -> None:
    servers = Servers(["dead:1", "b:1", "c:1"])
    asked = []
    for _ in range(7):
        asked.append(servers.current)
        servers.left(servers.current, "" if servers.current == "dead:1" else "dead:1")
    assert asked == ["dead:1", "b:1", "dead:1", "c:1", "dead:1", "b:1", "dead:1"]


def test_late_failure_of_a_former_server_does_not_change_the_current_one() -> None:
    servers = Servers(["a:1", "b:1", "c:1"])
    servers.left("a:1")
    assert servers.left("a:1") == 0
    assert servers.current == "b:1"


def test_learned_members_never_replace_the_configured_addresses() -> None:
    servers = Servers(["a:1", "b:1"])
    servers.learn(["c:1", "", "a:1", "d:1"])
    assert servers.known == ("a:1", "b:1", "c:1", "d:1")
    servers.left("a:1", "c:1")
    servers.learn(["e:1"])
    assert servers.known == ("a:1", "b:1", "e:1", "c:1")  # the current server stays, too
    servers.learn(f"m{number}:1" for number in range(1000))
    assert len(servers.known) <= KNOWN_MAX


def test_members_are_requested_first_and_then_periodically() -> None:
    servers = Servers(["a:1"])
    times = (0.0, 1.0, REFRESH_SECONDS - 1, REFRESH_SECONDS, REFRESH_SECONDS + 1)
    assert [servers.is_refresh_due(now) for now in times] == [True, False, False, True, False]


def test_several_addresses_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Endpoint.for_producer(["a:1", "b:1", "a:1"], None, tls=False).servers.known == ("a:1", "b:1")
    monkeypatch.setenv("CODEQ_WORKER_ADDR", "a:1, b:1,")
    assert Endpoint.for_worker(None, None, tls=False).servers.known == ("a:1", "b:1")
    with pytest.raises(ValueError, match="address"):
        codeq.Client([" "])


def following(servers: Servers, *, repeatable: bool, timeout: float = 30.0) -> Following:
    call = Following(servers, repeatable=repeatable, now=0.0, timeout=timeout, wait=2.0)
    call.timeout(0.0)
    return call


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("error", [not_leader(), not_leader("b:1"), errors.Draining("d"), NotSent("n")])
def test_call_that_had_no_effect_is_retried_on_another_server(error: errors.CodeqError, repeatable: bool) -> None:
    call = following(Servers(["a:1", "b:1"]), repeatable=repeatable)
    assert call.delay_after(error, 1.0) is not None
    call.timeout(1.0)
    assert call.address == "b:1"


@pytest.mark.parametrize("error", [errors.Unavailable("u"), errors.OutcomeUnknown("o"), errors.DeadlineExceeded("d")])
def test_call_with_an_unknown_outcome_is_retried_if_it_is_idempotent(error: errors.CodeqError) -> None:
    servers = Servers(["a:1", "b:1"])
    assert following(servers, repeatable=False).delay_after(error, 1.0) is None
    assert following(servers, repeatable=True).delay_after(error, 1.0) is not None


@pytest.mark.parametrize("error", [errors.TaskNotFound("t"), errors.StaleLeaseToken("s"), errors.ServerFault("f")])
def test_answered_call_is_not_retried(error: errors.CodeqError) -> None:
    assert following(Servers(["a:1", "b:1"]), repeatable=True).delay_after(error, 1.0) is None


@pytest.mark.parametrize("error", [errors.Unavailable("u"), errors.OutcomeUnknown("o"), errors.Draining("d")])
def test_failed_call_to_the_only_server_is_not_retried(error: errors.CodeqError) -> None:
    assert following(Servers(["a:1"]), repeatable=True).delay_after(error, 1.0) is None


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("addresses", [["a:1"], ["a:1", "b:1"]])
def test_call_refused_by_a_rate_limit_returns_to_its_server_when_it_may(addresses: list[str], repeatable: bool) -> None:
    call = following(Servers(addresses), repeatable=repeatable)
    assert call.delay_after(errors.RateLimited("r", retry_after=7.0), 1.0) == 7.0
    call.timeout(8.0)
    assert call.address == "a:1"
    assert call.delay_after(errors.RateLimited("r"), 8.0) == 1.0


def test_call_refused_by_a_rate_limit_fails_at_once_if_its_deadline_is_earlier() -> None:
    call = following(Servers(["a:1"]), repeatable=True)  # its deadline is at 32 s
    assert call.delay_after(errors.RateLimited("r", retry_after=30.0), 1.9) == 30.0
    assert call.delay_after(errors.RateLimited("r", retry_after=30.0), 2.0) is None


def test_other_limits_of_the_server_are_not_retried() -> None:
    error = errors.LimitReached("l", retry_after=1.0)
    assert following(Servers(["a:1"]), repeatable=True).delay_after(error, 1.0) is None


def test_call_respects_its_deadline_and_splits_it_among_servers() -> None:
    call = following(Servers(["a:1", "b:1"]), repeatable=True)
    assert call.timeout(0.0) == ATTEMPT_SECONDS_MAX + 2.0
    assert call.timeout(31.0) == 1.0
    assert call.delay_after(not_leader(), 31.9999) is None
    assert following(Servers(["a:1", "b:1"]), repeatable=False).timeout(0.0) == 32.0
    assert following(Servers(["a:1"]), repeatable=True).timeout(0.0) == 32.0


def test_stream_to_a_single_server_reconnects_with_growing_delays() -> None:
    reconnects = Reconnects("worker", Servers(["a:1"]), Backoff(random=lambda: 1.0))
    broken = errors.Unavailable("u", retry_after=1.0)
    delays = [reconnects.delay_after(broken, "a:1", leader="", is_stable=False) for _ in range(4)]
    assert delays == [1.0, 1.0, 1.0, 1.6]
    assert reconnects.delay_after(errors.Unavailable("u"), "a:1", leader="", is_stable=True) == 0.2


def test_stream_follows_the_leader_named_in_a_notice_or_rejection_at_once() -> None:
    servers = Servers(["a:1"])
    reconnects = Reconnects("worker", servers, Backoff())
    broken = errors.Unavailable("u", retry_after=1.0)
    assert reconnects.delay_after(broken, "a:1", leader="b:1", is_stable=True) == 0
    assert reconnects.delay_after(not_leader("c:1"), "b:1", leader="", is_stable=False) == 0
    assert servers.current == "c:1"


def test_stream_without_a_leader_reconnects_less_and_less_often() -> None:
    servers = Servers(["a:1", "b:1"])
    reconnects = Reconnects("worker", servers, Backoff(random=lambda: 1.0))
    delays = [
        reconnects.delay_after(not_leader(), servers.current, leader="", is_stable=False)
        for _ in range(QUICK_ATTEMPTS + 10)
    ]
    assert max(delays[:QUICK_ATTEMPTS]) <= DELAY_SECONDS_MAX
    assert delays[-1] == 10.0
    assert all(first <= second for first, second in itertools.pairwise(delays[QUICK_ATTEMPTS + 3 :]))
