"""Which listeners cannot share a port, on each pair of hosts."""

from __future__ import annotations

import pytest
from codeq_server.config import Address
from codeq_server.node.listeners import ListenError, conflicts, refuse_taken

APART = [
    ("127.0.0.1", "10.0.0.1"),
    ("127.0.0.1", "::1"),
    ("0.0.0.0", "::1"),
    ("localhost", "10.0.0.1"),
]
TOGETHER = [
    ("127.0.0.1", "127.0.0.1"),
    ("0.0.0.0", "127.0.0.1"),
    ("0.0.0.0", "localhost"),
    ("localhost", "127.0.0.1"),
    ("localhost", "::1"),
    ("", "10.0.0.1"),
    ("", "::1"),
    ("", "0.0.0.0"),
    ("::", "127.0.0.1"),
    ("::", "0:0:0:0:0:0:0:1"),
    ("::ffff:127.0.0.1", "127.0.0.1"),
]


@pytest.mark.parametrize(("one", "other"), APART)
def test_listeners_on_different_hosts_share_a_port(one: str, other: str) -> None:
    assert [*conflicts({"PORT": Address(one, 9091), "WORKER_STREAM_ADDR": Address(other, 9091)})] == []


@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_listeners_whose_hosts_overlap_conflict_in_either_order(one: str, other: str) -> None:
    for first, second in ((one, other), (other, one)):
        wanted = {"PORT": Address(first, 9091), "RAFT_BIND_ADDR": Address(second, 9091)}
        assert [*conflicts(wanted)] == [("PORT", "RAFT_BIND_ADDR")]


def test_both_grpc_listeners_share_one_address_but_not_two_on_one_port() -> None:
    equal = {"WORKER_STREAM_ADDR": Address("", 9091), "PRODUCER_STREAM_ADDR": Address("", 9091)}
    assert [*conflicts(equal)] == []
    unequal = equal | {"PRODUCER_STREAM_ADDR": Address("127.0.0.1", 9091)}
    assert [*conflicts(unequal)] == [("WORKER_STREAM_ADDR", "PRODUCER_STREAM_ADDR")]


def test_listeners_on_any_free_port_never_conflict() -> None:
    assert [*conflicts({"PORT": Address("", 0), "RAFT_BIND_ADDR": Address("", 0), "CODEQ_PPROF_ADDR": None})] == []


def test_a_port_that_two_listeners_name_is_refused_with_both_names() -> None:
    wanted = {"PORT": Address("localhost", 6060), "CODEQ_PPROF_ADDR": Address("127.0.0.1", 6060)}
    with pytest.raises(ListenError, match=r"127\.0\.0\.1:6060 \(CODEQ_PPROF_ADDR: PORT has the same port\)"):
        refuse_taken(wanted)
