"""A Raft group per shard: any node takes any call, a killed node costs nothing acknowledged, leaders spread."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import codeq
import httpx
import pytest
from acknowledged_load import Ledger, drain, load, missing
from codeq_server.core.ids import shard_of
from codeq_server.node.descriptors import FILES_MAX
from codeq_server.storage.check import check_store
from codeq_server.storage.layout import shard_path
from racing_callers import Race
from raft_groups import NAMES, SHARDS, leaders, raft_groups, serves_all, voting
from server_process import DEV_TOKEN, LOOPBACK, ServerProcess, raft_variables, reserved_port
from shard_processes_of import processes
from static_cluster import TASKS, ask, claim, create, until

ROUNDS = int(os.environ.get("SHARD_KILLS", "2"))
SECONDS_PER_ROUND = 30
CALLERS = 4
AUTH = {"Authorization": f"Bearer {DEV_TOKEN}"}
SPREAD_SECONDS_MAX = 120
"""Leaders move half a minute after the nodes have caught up."""
NOTICED_SECONDS_MAX = 30
"""Less than 10 s, and more on a busy machine."""

pytestmark = pytest.mark.timeout(340 + ROUNDS * SECONDS_PER_ROUND)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[ServerProcess]]:
    with raft_groups(tmp_path) as nodes:
        yield nodes


def in_shard(shard: int) -> str:
    """Returns an id that leads to a shard."""
    return next(name for number in range(1000) if shard_of(name := f"chosen-{number}", SHARDS) == shard)


def streams_reach_all_shards(nodes: list[ServerProcess]) -> None:
    """Streams at any node create and get tasks of all shards."""
    made, seen = set[str](), set[str]()
    for node in nodes:
        with codeq.Producer(node.producer_addr, token=DEV_TOKEN) as producer:
            made |= {producer.create("b", number) for number in range(10)}
            made |= {producer.create("b", 1, task_id=f"n{nodes.index(node)}-{number}") for number in range(10)}
    assert {shard_of(task_id, SHARDS) for task_id in made} == set(range(SHARDS))
    workers = [codeq.Worker(node.worker_addr, token=DEV_TOKEN, concurrency=1) for node in nodes]
    running = [
        threading.Thread(
            target=each.run,
            args=(lambda task: seen.add(task.id),),
            kwargs={"commands": ["b"], "handle_signals": False},
        )
        for each in workers
    ]
    for each in running:
        each.start()
    until(lambda: seen == made)
    for worker in workers:
        worker.stop()
    for each in running:
        each.join()
    statuses = [ask(nodes[1], "GET", f"{TASKS}/{task_id}").json()["status"] for task_id in made]
    assert set(statuses) == {"COMPLETED"}


def test_any_node_takes_any_call_and_stream(nodes: list[ServerProcess]) -> None:
    streams_reach_all_shards(nodes)
    chosen = [create(nodes[0], taskId=in_shard(shard)) for shard in range(SHARDS)]
    made = chosen + [create(node) for node in nodes for _ in range(3)]
    keyed = {create(node, idempotencyKey="once") for node in nodes}
    assert len(keyed) == 1
    race = Race("race")
    race.run(nodes)
    race.run(nodes)
    for node in nodes:
        assert {ask(node, "GET", f"{TASKS}/{task_id}").json()["id"] for task_id in made} == set(made)
        assert ask(node, "GET", "/v1/codeq/admin/queues/a").json()["ready"] == len(made) + 1
    given = claim(nodes[2], 100)
    assert sorted(given) == sorted([*made, *keyed])
    artifact = {"name": "a", "contentBase64": "YQ=="}
    results = [{"taskId": each, "status": "COMPLETED", "artifacts": [artifact]} for each in given]
    done = ask(nodes[1], "POST", f"{TASKS}/batch/results", results=results).json()["results"]
    assert [each.get("error") for each in done] == [None] * len(given)
    for node in nodes:
        assert {ask(node, "GET", f"{TASKS}/{task_id}/artifacts/a").content for task_id in given} == {b"a"}


def test_leaders_spread_over_the_nodes_and_return_after_a_restart(nodes: list[ServerProcess]) -> None:
    spread = dict(enumerate(NAMES))
    until(lambda: leaders(nodes[0]) == spread, SPREAD_SECONDS_MAX)
    nodes[1].kill()
    until(lambda: leaders(nodes[0])[1] in ("a", "c"))
    assert leaders(nodes[0])[0] == "a"
    nodes[1].start()
    until(lambda: leaders(nodes[0]) == spread, SPREAD_SECONDS_MAX)


async def test_killed_nodes_under_load_lose_nothing_acknowledged(tmp_path: Path) -> None:
    with raft_groups(tmp_path) as nodes:
        ledger, chance = Ledger(), random.Random(1)
        busy = [asyncio.create_task(load(node, ledger, CALLERS)) for node in nodes]
        for number in range(ROUNDS):
            ledger.progress.clear()
            await asyncio.wait_for(ledger.progress.wait(), 60)
            await asyncio.sleep(chance.uniform(0, 0.4))  # the kill may come at any moment of the load
            await asyncio.to_thread(nodes[number % len(nodes)].restart)
            await asyncio.to_thread(until, lambda: all(map(serves_all, nodes)))
        for each in busy:
            each.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await drain(nodes[0], ledger)
        assert await missing(nodes[0], ledger) == []
        for node in nodes:
            assert await asyncio.to_thread(node.stop) == 0
        for node in nodes:
            for shard in range(SHARDS):
                assert list(check_store(shard_path(node.store, shard))[0]) == []
        assert ledger.completed_twice == set()
        assert len(ledger.created) > ROUNDS
        print(f"{ROUNDS} kills, {len(ledger.created)} creates and {len(ledger.completed)} completions acknowledged")


async def test_no_call_to_another_node_fails_while_one_stops(nodes: list[ServerProcess]) -> None:
    at = [*NAMES].index(await asyncio.to_thread(lambda: leaders(nodes[0])[0]))
    stays = [node for node in nodes if node is not nodes[at]]
    failed: list[str] = []
    answered: Counter[int] = Counter()

    async def call(caller: int, http: httpx.AsyncClient) -> None:
        while True:
            number = answered[caller]
            made = [http.post(TASKS, json={"command": "a", "payload": 1, "taskId": f"t{caller}-{number}"})]
            made.append(http.get(f"{TASKS}/t{caller}-{number - 1}" if number else TASKS))
            made.append(http.post(f"{TASKS}/claim", json={"commands": ["none"], "waitSeconds": number % 2}))
            made.append(http.get("/v1/codeq/admin/queues"))
            answers = await asyncio.gather(*made)
            failed.extend(
                f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"
                for answer in answers
                if not answer.is_success
            )
            answered[caller] += 1

    async def all_answered(more: int) -> None:
        """Waits until every caller has been answered so many more times."""
        goal = {caller: answered[caller] + more for caller in range(len(calling))}
        await asyncio.to_thread(until, lambda: all(answered[caller] >= goal[caller] for caller in goal))

    async with AsyncExitStack() as stack:
        calling = []
        for caller in range(CALLERS * len(stays)):
            http = httpx.AsyncClient(base_url=stays[caller % len(stays)].http_url, headers=AUTH, timeout=60)
            calling.append(asyncio.create_task(call(caller, await stack.enter_async_context(http))))
        await all_answered(3)
        nodes[at].signal(signal.SIGTERM)
        assert await asyncio.to_thread(nodes[at].wait) == 0
        await all_answered(3)
        for each in calling:
            each.cancel()
        await asyncio.gather(*calling, return_exceptions=True)
    assert failed == []


def test_missing_majorities_and_nodes_with_other_shards_serve_nothing(
    tmp_path: Path, nodes: list[ServerProcess]
) -> None:
    for node in nodes[1:]:
        node.kill()
    until(lambda: ask(nodes[0], "GET", "/readyz").status_code == 503)
    refused = ask(nodes[0], "POST", TASKS, command="a", payload=1)
    assert (refused.status_code, refused.json()["reason"]) == (503, "SERVER_UNREACHABLE")
    nodes[1].start()
    until(lambda: serves_all(nodes[0]))
    create(nodes[0])
    other = ServerProcess(tmp_path / "other", env=nodes[2].env, apart=False)
    other.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": 2})
    with other:
        until(lambda: "it is for group 0 of 3, but numShards is 2 here" in other.log)
        until(lambda: "it is for group 0 of 2, but numShards is 3 here" in nodes[0].log)
        assert not serves_all(other)


def test_a_killed_process_costs_no_other_shard_its_leader(nodes: list[ServerProcess]) -> None:
    before = leaders(nodes[0])
    at = [*NAMES].index(before[2])
    victim = processes(nodes[at])[2]
    os.kill(victim, signal.SIGKILL)
    until(lambda: all(map(serves_all, nodes)) and leaders(nodes[at]).get(2))
    after = leaders(nodes[at])
    assert {shard: after[shard] for shard in (0, 1)} == {shard: before[shard] for shard in (0, 1)}
    assert create(nodes[at], taskId=in_shard(2)) == in_shard(2)


def test_node_with_a_lost_disk_is_replaced_in_all_groups_at_once(nodes: list[ServerProcess]) -> None:
    made = [create(nodes[0]) for _ in range(9)]
    nodes[2].kill()
    shutil.rmtree(nodes[2].store)
    nodes[2].start()
    members = "/v1/codeq/admin/cluster/members"
    at = nodes[2].env["RAFT_BIND_ADDR"]
    refused = ask(nodes[1], "POST", members, id="d", raftAddr=at)
    assert (refused.json()["reason"], "not in RAFT_PEERS" in refused.text) == ("INVALID_FIELD", True)
    answer = ask(nodes[1], "POST", members, id="c", raftAddr=at, replace=True)
    assert answer.status_code == 200, answer.text
    assert [group["shardIdx"] for group in answer.json()["groups"]] == [*range(SHARDS)]
    until(lambda: voting(nodes[:2], "c") == {*range(SHARDS)})
    nodes[0].kill()  # from now on the new disk is needed for every majority
    until(lambda: serves_all(nodes[1]) and serves_all(nodes[2]))
    assert sorted(claim(nodes[2], 100)) == sorted(made)
    transfer = ask(nodes[1], "POST", "/v1/codeq/admin/cluster/transfer").json()
    assert transfer["reason"] == "NOT_IMPLEMENTED"


def test_parent_opens_as_many_files_as_it_may(tmp_path: Path) -> None:
    few = ["sh", "-c", 'ulimit -Sn 600 && exec "$@"', "sh"]
    with ExitStack() as stack:
        held = [stack.enter_context(reserved_port()) for _ in NAMES]
        places = {name: f"{LOOPBACK}:{port.getsockname()[1]}" for name, port in zip(NAMES, held, strict=True)}
        node = ServerProcess(tmp_path, env=raft_variables(SHARDS, places, "a"), apart=False, prefix=few)
        stack.callback(node.close)
        node.spawn()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        until(lambda: accepts(held[0].getsockname()))
        assert resource.prlimit(node.pid, resource.RLIMIT_NOFILE) == (min(hard, FILES_MAX), hard)


def accepts(address: tuple[str, int]) -> bool:
    """Whether connections to an address are accepted."""
    with socket.socket() as made:
        return made.connect_ex(address) == 0


def test_backups_and_acts_refused_by_a_group_are_of_every_shard_once(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    with raft_groups(tmp_path, {"BACKUP_DIR": str(folder)}) as nodes:
        made = ask(nodes[0], "POST", "/v1/codeq/admin/backup", name="monday")
        assert made.status_code == 200, made.text
        assert all((shard_path(folder, shard) / "monday").is_dir() for shard in range(SHARDS))
        again = ask(nodes[1], "POST", "/v1/codeq/admin/backup", name="monday").json()
        assert (again["reason"], again["details"][0]["field"]) == ("INVALID_FIELD", "name")
        refused = ask(nodes[2], "POST", "/v1/codeq/admin/cluster/members", id="d", raftAddr="127.0.0.1:1")
        assert refused.json()["reason"] == "INVALID_FIELD"
        for node in nodes:
            records = ask(node, "GET", "/v1/codeq/admin/audit?orderBy=oldest").json()["records"]
            assert [(record["call"], record["outcome"]) for record in records] == [
                ("BackUp", "OK"),
                ("BackUp", "INVALID_FIELD"),
                ("AddMember", "INVALID_FIELD"),
            ]


def test_node_that_hangs_is_noticed(nodes: list[ServerProcess]) -> None:
    at = [*NAMES].index(leaders(nodes[0])[1])
    other = nodes[(at + 1) % len(nodes)]
    hung = [nodes[at].pid, *processes(nodes[at]).values()]
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    try:
        since = time.monotonic()
        until(lambda: leaders(other)[1] not in ("", NAMES[at]))
        until(lambda: serves_all(other))
        # A call that waits for the node when it is noticed has an unknown outcome. Each connection may reach another
        # process, with links of its own.
        body = {"command": "a", "payload": 1, "taskId": in_shard(1)}
        for _ in range(6):
            until(lambda: ask(other, "POST", TASKS, **body).status_code in (200, 202, 409))  # 409: it was created
        print(f"noticed after {time.monotonic() - since:.1f} s")
        assert time.monotonic() - since < NOTICED_SECONDS_MAX
    finally:
        for pid in hung:
            os.kill(pid, signal.SIGCONT)
    until(lambda: all(map(serves_all, nodes)))
