"""A node that has started stays so, whatever happens to its cluster."""

from __future__ import annotations

from codeq_server.auth.authenticator import Authenticator
from codeq_server.core.errors import Reason, Rejection
from codeq_server.node.readiness import Readiness
from codeq_server.services.calls import Calls
from codeq_server.services.shard_table import ShardTable
from scripted_validator import Nobody


def absence() -> Rejection:
    return Rejection(Reason.NOT_LEADER, "no leader is known; try again")


def test_node_that_has_caught_up_once_stays_started() -> None:
    reasons = ["this node has no vote yet", "", "no leader is known yet"]
    calls = Calls(Authenticator(Nobody(), Nobody()), ShardTable(absence))
    readiness = Readiness(calls, absence, lambda: reasons.pop(0))
    assert [readiness.starting() for _ in range(4)] == ["this node has no vote yet", "", "", ""]
    assert readiness.rest() == "no leader is known; try again"
