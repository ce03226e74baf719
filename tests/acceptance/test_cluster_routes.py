"""Routes of the cluster on a single server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_process import ServerProcess
from test_bad_input import call, refused
from two_workers import FIRST, SECOND, environment


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two workers of one tenant."""
    with ServerProcess(tmp_path_factory.mktemp("cluster"), env=environment(), dev=False) as started:
        yield started


@pytest.mark.parametrize("token", [FIRST, SECOND])
def test_raft_status_of_a_single_server_reports_raft_as_disabled(server: ServerProcess, token: str) -> None:
    answer = call(server, "GET", "/raft/status", token)
    assert (answer.status_code, answer.json()) == (200, {"enabled": False, "numGroups": 0, "groups": [], "fsync": True})


def test_topology_of_a_single_server_has_no_members(server: ServerProcess) -> None:
    answer = call(server, "GET", "/cluster/topology", FIRST)
    assert (answer.status_code, answer.json()) == (200, {"raftEnabled": False, "leaderId": "", "members": []})


CHANGES = [
    ("POST", "/admin/cluster/members", {"id": "b", "raftAddr": "b:7000"}),
    ("DELETE", "/admin/cluster/members/b", None),
    ("POST", "/admin/cluster/transfer", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_membership_changes_on_a_single_server_are_rejected(
    server: ServerProcess, method: str, path: str, body: object
) -> None:
    given: dict[str, object] = {} if body is None else {"json": body}
    refused(call(server, method, path, SECOND, **given), 409, "NOT_CLUSTERED")


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_membership_changes_need_an_administrator(server: ServerProcess, method: str, path: str, body: object) -> None:
    given: dict[str, object] = {} if body is None else {"json": body}
    refused(call(server, method, path, FIRST, **given), 403, "WRONG_TOKEN_KIND")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("members", {"id": "", "raftAddr": "b:7000"}),
        ("members", {"id": "two words", "raftAddr": "b:7000"}),
        ("members", {"id": "b", "raftAddr": "b"}),
        ("members", {"id": "b", "raftAddr": "http://b:7000"}),
        ("transfer", {"id": "-"}),
    ],
)
def test_membership_change_error_names_the_malformed_field(server: ServerProcess, path: str, body: object) -> None:
    refused(call(server, "POST", f"/admin/cluster/{path}", SECOND, json=body), 400, "INVALID_FIELD")
