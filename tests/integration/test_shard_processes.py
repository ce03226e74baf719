"""A server with several shards: its processes as a user sees them, one of them killed, and the parent killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from server_process import LOOPBACK, ServerProcess, reserved_port
from shard_processes_of import ENV, SHARDS, asked, is_alive, processes, served, until

FILES = ["LOCK", "shard0", "shard1", "shard2", "shards.json"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server", env=ENV) as server:
        yield server


def test_server_with_shards_looks_like_one_server(server: ServerProcess) -> None:
    assert sorted(processes(server)) == list(range(SHARDS))
    until(lambda: served(server))
    assert asked(server, "/v1/codeq/server").json()["numShards"] == SHARDS
    page = asked(server, "/metrics").text
    for name in ("codeq_task_created_total", "process_resident_memory_bytes", "codeq_http_requests_total"):
        lines = [line for line in page.splitlines() if line.startswith(name)]
        assert {line for shard in range(SHARDS) for line in lines if f'shard="{shard}"' in line} == set(lines), name
        assert page.count(f"# TYPE {name} ") == 1
        assert len(lines) >= SHARDS
    assert sorted(path.name for path in server.store.iterdir()) == FILES
    children = list(processes(server).values())
    assert server.stop() == 0
    assert not any(is_alive(pid) for pid in children)


def test_process_that_is_killed_is_started_again_and_the_others_go_on(server: ServerProcess) -> None:
    for shard in range(SHARDS):
        victim = processes(server)[shard]
        others = {other: pid for other, pid in processes(server).items() if other != shard}
        os.kill(victim, signal.SIGKILL)
        until(lambda shard=shard, victim=victim: processes(server).get(shard, victim) != victim)
        until(lambda: served(server))
        assert {other: processes(server)[other] for other in others} == others
    ends = [json.loads(line) for line in server.log.splitlines() if '"shard_process_ended"' in line]
    assert [(end["shard"], end["exit_code"]) for end in ends] == [(shard, -9) for shard in range(SHARDS)]


def test_process_that_hangs_is_replaced(server: ServerProcess) -> None:
    victim = processes(server)[1]
    os.kill(victim, signal.SIGSTOP)
    until(lambda: processes(server).get(1, victim) != victim)
    until(lambda: served(server))
    assert '"shard_process_hangs"' in server.log


def test_processes_end_with_their_parent_and_a_new_one_takes_over(server: ServerProcess) -> None:
    children = list(processes(server).values())
    server.kill()
    until(lambda: not any(is_alive(pid) for pid in children))
    server.start()
    until(lambda: served(server))
    assert not set(processes(server).values()) & set(children)


@pytest.mark.parametrize("number", [1, 4])
def test_another_number_of_shards_stops_the_start(tmp_path: Path, number: int) -> None:
    with ServerProcess(tmp_path / "server", env=ENV) as server:
        server.stop()
        server.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": number})
        with pytest.raises(RuntimeError, match=f"numShards {SHARDS}, but the configuration says {number}"):
            server.start()
        assert sorted(path.name for path in server.store.iterdir()) == FILES


def test_port_in_use_is_named_and_leaves_no_store(tmp_path: Path) -> None:
    with closing(reserved_port()) as held:
        held.listen()
        taken = held.getsockname()[1]
        env = ENV | {"CODEQ_PPROF": "1", "CODEQ_PPROF_ADDR": f"{LOOPBACK}:{taken - 1}"}
        server = ServerProcess(tmp_path / "server", env=env)
        try:
            with pytest.raises(RuntimeError, match=f"{LOOPBACK}:{taken} .CODEQ_PPROF_ADDR of shard 1: Address already"):
                server.start()
            assert not server.store.exists()
        finally:
            server.close()


def test_member_of_a_cluster_does_not_open_several_shards(tmp_path: Path) -> None:
    with closing(reserved_port()) as port, ServerProcess(tmp_path / "server", env=ENV) as server:
        server.stop()
        address = f"{LOOPBACK}:{port.getsockname()[1]}"
        member = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": address, "RAFT_BOOTSTRAP": "true"}
        server.env |= {"PERSISTENCE_CONFIG": "{}", **member}
        with pytest.raises(RuntimeError, match=f"numShards {SHARDS}, but the configuration says 1"):
            server.start()


def test_store_of_one_shard_is_not_opened_as_several(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server", env={"PERSISTENCE_CONFIG": "{}"}) as server:
        server.stop()
        server.env["PERSISTENCE_CONFIG"] = json.dumps({"numShards": SHARDS})
        with pytest.raises(RuntimeError, match=f"numShards 1, but the configuration says {SHARDS}"):
            server.start()
        assert not (server.store / "shard0").exists()


def test_damaged_store_takes_out_its_shard_only(server: ServerProcess) -> None:
    server.stop()
    (server.store / "shard1" / "CURRENT").write_text("damaged\n")
    server.start()
    until(lambda: asked(server, "/readyz").json()["shards"] == {"0": "served", "1": "not served", "2": "served"})
    assert asked(server, "/readyz").status_code == 200
    assert "shard1" in server.log


def test_missing_store_is_not_replaced_by_an_empty_one(server: ServerProcess) -> None:
    server.stop()
    (server.store / "shard1").rename(server.store / "elsewhere")
    server.start()
    until(lambda: asked(server, "/readyz").json()["shards"] == {"0": "served", "1": "not served", "2": "served"})
    assert '"shard_store_missing"' in server.log
    assert not (server.store / "shard1").exists()
    (server.store / "elsewhere").rename(server.store / "shard1")
    until(lambda: served(server))


def test_restored_stores_must_be_as_many_as_the_configuration_says(server: ServerProcess) -> None:
    server.stop()
    (server.store / "shards.json").unlink()
    (server.store / "shard1").rename(server.store / "elsewhere")
    with pytest.raises(RuntimeError, match=f"stores of the shards 0, 2, but numShards is {SHARDS}"):
        server.start()
    assert not (server.store / "shards.json").exists()
    (server.store / "elsewhere").rename(server.store / "shard1")
    server.start()
    until(lambda: served(server))


def test_server_without_any_sound_shard_does_not_start(server: ServerProcess) -> None:
    server.stop()
    for shard in range(SHARDS):
        shutil.rmtree(server.store / f"shard{shard}")
        (server.store / f"shard{shard}").write_text("not a folder\n")
    with pytest.raises(RuntimeError, match="ended with code 1"):
        server.start()


def test_second_server_on_the_same_store_does_not_start(tmp_path: Path, server: ServerProcess) -> None:
    second = ServerProcess(tmp_path / "second", env=ENV, store=server.store)
    try:
        with pytest.raises(RuntimeError, match="is in use by another server"):
            second.start()
    finally:
        second.close()
    until(lambda: served(server))
