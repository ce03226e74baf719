"""A static cluster: any node takes any call, a node that is down costs its own tasks only, at once."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import codeq
import pytest
from codeq_server.core.ids import shard_of
from racing_callers import Race
from server_process import DEV_TOKEN, ServerProcess
from static_cluster import NAMES, TASKS, ask, claim, create, served, static_cluster, until

NOTICED_SECONDS_MAX = 40
"""20 s, and as much again on a busy machine."""
AT_ONCE = 2.0
"""Seconds in which a node tells that another one is down, on a busy machine."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    with static_cluster(tmp_path) as nodes:
        yield nodes


def owner(task_id: str) -> int:
    return shard_of(task_id, len(NAMES))


def test_any_node_takes_any_call(nodes: list[ServerProcess]) -> None:
    made = [create(node) for node in nodes for _ in range(4)]
    assert {owner(task_id) for task_id in made} == {0, 1, 2}
    keyed = {create(node, idempotencyKey="once") for node in nodes}
    assert len(keyed) == 1
    race = Race("race")
    race.run(nodes)
    race.run(nodes)
    for node in nodes:
        assert {ask(node, "GET", f"{TASKS}/{task_id}").json()["id"] for task_id in made} == set(made)
        assert ask(node, "GET", "/v1/codeq/admin/queues/a").json()["ready"] == len(made) + 1
        assert ask(node, "GET", "/v1/codeq/server").json()["numShards"] == len(NAMES)
    given = claim(nodes[1], 100)
    assert sorted(given) == sorted([*made, *keyed])
    results = [{"taskId": each, "status": "COMPLETED"} for each in given]
    done = ask(nodes[2], "POST", f"{TASKS}/batch/results", results=results).json()["results"]
    assert [each for each in done if each.get("error")] == []
    ask(nodes[0], "POST", "/v1/codeq/admin/queues/a/pause")
    assert [ask(node, "GET", "/v1/codeq/admin/queues/a").json()["paused"] for node in nodes] == [True] * 3


def test_node_that_is_down_costs_its_own_tasks_only(nodes: list[ServerProcess]) -> None:
    made = [create(node) for node in nodes for _ in range(3)]
    nodes[1].kill()
    until(lambda: "not served" in served(nodes[0]))
    for task_id in made:
        begun = time.monotonic()
        answer = ask(nodes[0], "GET", f"{TASKS}/{task_id}")
        assert time.monotonic() - begun < AT_ONCE
        assert answer.status_code == (503 if owner(task_id) == 1 else 200)
        if answer.status_code == 503:
            assert (answer.json()["code"], "the node b" in answer.json()["error"]) == ("UNAVAILABLE", True)
    assert ask(nodes[0], "GET", "/readyz").status_code == 200
    assert sorted(claim(nodes[2], 100)) == sorted(task_id for task_id in made if owner(task_id) != 1)
    nodes[1].start()
    until(lambda: served(nodes[2]) == {"served"})
    until(lambda: sorted(claim(nodes[2], 100)) == sorted(task_id for task_id in made if owner(task_id) == 1))


@pytest.mark.timeout(120)
def test_node_that_hangs_is_noticed(nodes: list[ServerProcess]) -> None:
    nodes[1].signal(signal.SIGSTOP)
    begun = time.monotonic()
    until(lambda: "not served" in served(nodes[0]))
    assert time.monotonic() - begun < NOTICED_SECONDS_MAX
    nodes[1].signal(signal.SIGCONT)
    until(lambda: served(nodes[0]) == {"served"})


def test_worker_gets_the_tasks_of_all_nodes_over_one_stream(nodes: list[ServerProcess]) -> None:
    with codeq.Client(nodes[0].producer_addr, token=DEV_TOKEN) as client:
        made = {each.id for each in client.create_batch([codeq.NewTask("a", n) for n in range(4)])}
    made |= {create(node) for node in nodes for _ in range(4)}
    seen: set[str] = set()
    worker = codeq.Worker(nodes[2].worker_addr, token=DEV_TOKEN)
    running = threading.Thread(
        target=worker.run, args=(lambda task: seen.add(task.id),), kwargs={"commands": ["a"], "handle_signals": False}
    )
    running.start()
    until(lambda: seen == made)
    worker.stop()
    running.join()
    ended = [ask(nodes[1], "GET", f"{TASKS}/{task_id}").json()["status"] for task_id in made]
    assert set(ended) == {"COMPLETED"}


def test_nodes_without_the_same_secret_do_not_serve_each_other(tmp_path: Path, nodes: list[ServerProcess]) -> None:
    nodes[0].stop()
    nodes[0].env["CLUSTER_SECRET"] = "another secret of the nodes"
    nodes[0].start()
    task_id = next(each for each in (create(nodes[1]) for _ in range(50)) if owner(each) == 1)
    assert ask(nodes[0], "GET", f"{TASKS}/{task_id}").status_code == 503
    assert served(nodes[0]) == {"served", "not served"}


def test_node_that_another_list_names_wrongly_is_not_taken_for_it(nodes: list[ServerProcess]) -> None:
    nodes[0].stop()
    places = dict(part.split("=") for part in nodes[0].env["CLUSTER_NODES"].split(","))
    places["b"], places["c"] = places["c"], places["b"]
    nodes[0].env["CLUSTER_NODES"] = ",".join(f"{name}={place}" for name, place in places.items())
    nodes[0].start()
    until(lambda: nodes[0].log.count('"owner_refused"') == 2)
    assert "the nodes must have the same list of nodes" in nodes[0].log
    assert served(nodes[0]) == {"served", "not served"}
    until(lambda: served(nodes[1]) == {"served"})  # those that know where the others are go on


def test_second_node_of_the_same_name_is_not_taken_for_another(tmp_path: Path) -> None:
    with static_cluster(tmp_path) as nodes:
        nodes[1].stop()
        shutil.rmtree(nodes[1].store)
        nodes[1].env["CLUSTER_SELF_ID"] = "a"
        nodes[1].start()
        until(lambda: "owner_refused" in nodes[0].log and "owner_refused" in nodes[1].log)
        assert served(nodes[1]) == {"served", "not served"}
        assert served(nodes[2]) == {"served", "not served"}


def test_store_belongs_to_its_node_and_the_number_of_nodes(nodes: list[ServerProcess]) -> None:
    for node in nodes:
        node.stop()
    listed = nodes[0].env["CLUSTER_NODES"]
    for env, problem in (
        ({"CLUSTER_SELF_ID": "b"}, "the store is shard 0 of 3, but it is opened as shard 1 of 3; a node must keep"),
        ({"CLUSTER_NODES": f"{listed},d=127.0.0.1:1"}, "the store is shard 0 of 3, but it is opened as shard 0 of 4"),
        ({"CLUSTER_ENABLED": "false"}, "the store is shard 0 of 3, but it is opened as shard 0 of 1"),
    ):
        before = dict(nodes[0].env)
        nodes[0].env |= env
        with pytest.raises(RuntimeError, match=problem):
            nodes[0].start()
        nodes[0].env.clear()
        nodes[0].env |= before
