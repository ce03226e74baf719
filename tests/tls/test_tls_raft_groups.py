"""A group per shard with TLS: messages and calls between nodes go through one port, encrypted from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
from authority import Authority, trusting
from codeq_server.core.ids import shard_of
from raft_groups import NAMES, raft_groups, serves_all
from static_cluster import ask, until

TASKS = "/v1/codeq/tasks"

pytestmark = pytest.mark.timeout(240)


def test_nodes_replicate_and_call_each_other_over_tls(tmp_path: Path) -> None:
    files, members = Authority().files(tmp_path / "certificates"), Authority("members").files(tmp_path / "members")
    env = files.server_env | {
        "SERVER_TLS_CA_FILE": str(files.ca),
        "RAFT_TLS_CERT": str(members.certificate),
        "RAFT_TLS_KEY": str(members.key),
        "RAFT_TLS_CA": str(members.ca),
    }
    trust = trusting(files)
    with raft_groups(tmp_path, env, trust, shards=2) as nodes:
        made = {
            ask(node, "POST", TASKS, trust, command="a", payload=1, taskId=f"n{at}-{number}").json()["id"]
            for at, node in enumerate(nodes)
            for number in range(4)
        }
        assert {shard_of(task_id, 2) for task_id in made} == {0, 1}
        nodes[NAMES.index("a")].kill()  # the founder, which leads both groups at first
        until(lambda: serves_all(nodes[1], trust) and serves_all(nodes[2], trust))
        claimed = ask(nodes[2], "POST", f"{TASKS}/claim/batch", trust, commands=["a"], count=100).json()
        assert {task["id"] for task in claimed["tasks"]} == made
