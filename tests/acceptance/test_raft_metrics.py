"""The metrics of a cluster node: they have the right values, and the operator's guide documents each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from lone_member import lone_member, post
from server_process import ServerProcess
from test_readme import ROOT

FORMER = {
    "codeq_commits_total": "codeq_commit_seconds_count",
    "codeq_raft_syncs_total": "codeq_sync_seconds_count",
    "codeq_raft_sync_seconds_total": "codeq_sync_seconds_sum",
}
"""Former names, which show the same counts as the present ones."""


@pytest.fixture
def member(tmp_path: Path) -> Iterator[ServerProcess]:
    with lone_member(tmp_path / "server") as server:
        yield server


def figures(server: ServerProcess) -> dict[str, float]:
    """Returns every value of /metrics."""
    lines = httpx.get(f"{server.http_url}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def create(server: ServerProcess) -> None:
    assert post(server, "/tasks", {"command": "A", "payload": 1}).status_code == 202


def test_member_metrics_show_its_role_and_grow_with_its_work(member: ServerProcess) -> None:
    create(member)
    before = figures(member)
    create(member)
    after = figures(member)
    roles = {name: value for name, value in after.items() if name.startswith("codeq_raft_role{")}
    assert len(roles) == 5
    assert sum(roles.values()) == 1
    assert after["codeq_raft_has_leader"] == 1
    assert after["codeq_raft_elections_total"] == 1
    assert after["codeq_raft_term"] >= 1
    for name in ("commit_index", "applied_index", "syncs_total", "sync_seconds_total", "log_entries", "log_bytes"):
        assert after[f"codeq_raft_{name}"] > before[f"codeq_raft_{name}"], name
    for name in ("apply_lag", "proposals_waiting", "writes_waiting", "messages_dropped_total", "snapshots_made_total"):
        assert after[f"codeq_raft_{name}"] == 0, name
    assert after["codeq_commits_total"] > before["codeq_commits_total"]
    for former, name in FORMER.items():
        assert after[former] == after[name], former
    assert "codeq_raft_snapshot_age_seconds" not in after


def test_operations_document_lists_exactly_the_member_metrics(member: ServerProcess) -> None:
    shown = httpx.get(f"{member.http_url}/metrics").text
    families = set(re.findall(r"^# TYPE (codeq_raft_\w+) ", shown, re.MULTILINE))
    documented = re.findall(r"^\| `(codeq_raft_\w+)` \|", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert sorted(families) == sorted(documented)
