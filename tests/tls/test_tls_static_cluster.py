"""A static cluster with TLS: its nodes call each other over it, also after their certificates were replaced."""

from __future__ import annotations

from pathlib import Path

from authority import Authority, replace, trusting
from server_process import LOOPBACK
from static_cluster import ask, served, static_cluster
from tls_clients import QUICK, serial, until

TASKS = "/v1/codeq/tasks"


def test_nodes_call_each_other_over_tls_with_certificates_that_are_replaced(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    files = old.files(tmp_path / "certificates")
    env = files.server_env | {"SERVER_TLS_CA_FILE": str(files.ca)}
    with static_cluster(tmp_path, env, trusting(files), QUICK) as nodes:
        replace(files.ca, old.pem + new.pem)
        fresh = new.sign()
        files.write(fresh)
        places = [(LOOPBACK, int(node.env["CLUSTER_GRPC_ADDR"].rpartition(":")[2])) for node in nodes]
        until(lambda: [serial(place) for place in places] == [fresh.serial] * len(nodes))
        trust = trusting(files)
        made = {ask(node, "POST", TASKS, trust, command="a", payload=1).json()["id"] for node in nodes for _ in "abcd"}
        nodes[1].restart()  # the others come back over new connections only
        until(lambda: all(served(node, trust) == {"served"} for node in nodes))
        claimed = ask(nodes[0], "POST", f"{TASKS}/claim/batch", trust, commands=["a"], count=100).json()
        assert {task["id"] for task in claimed["tasks"]} == made


def test_node_without_tls_reaches_none_that_has_it(tmp_path: Path) -> None:
    files = Authority().files(tmp_path / "certificates")
    env = files.server_env | {"SERVER_TLS_CA_FILE": str(files.ca)}
    with static_cluster(tmp_path, env, trusting(files)) as nodes:
        nodes[0].stop()
        for name in env:
            del nodes[0].env[name]
        nodes[0].start()
        assert served(nodes[0]) == {"served", "not served"}
        until(lambda: "not served" in served(nodes[1], trusting(files)))
