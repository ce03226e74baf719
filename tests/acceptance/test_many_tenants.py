"""Teams share a server: each has tokens of its own, which come and go while the server runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from bare_streams import auth, produce, producing, settle, take, working
from codeq.v1 import producer_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from codeq.v1.task_service_pb2_grpc import TaskServiceStub
from server_process import ServerProcess
from test_bad_input import WORKER_SCOPES, call, refused

TEAMS = ("acme", "umbrella")
REVOKED_SECONDS_MAX = 5.0
"""Streams of a token end within this time after it has left the file."""
WAIT_SECONDS = 30


def producer_of(team: str, token: str = "", **more: Any) -> dict[str, Any]:
    return {"token": token or f"{team}-p", "subject": f"{team}-shop", "raw": {"tenantId": team, "role": "ADMIN"}} | more


def worker_of(team: str, token: str = "", **more: Any) -> dict[str, Any]:
    rights = {"scopes": WORKER_SCOPES, "eventTypes": ["*"], "raw": {"tenantId": team}}
    return {"token": token or f"{team}-w", "subject": f"{team}-printer", **rights} | more


class Server(ServerProcess):
    """A server whose tokens are in files, which tests change."""

    def __init__(self, directory: Path, *, apart: bool) -> None:
        self.files = {role: directory / f"{role}s.json" for role in ("producer", "worker")}
        env = {"GATEWAY_SECRET": "0123456789abcdef"}
        for role, path in self.files.items():
            env |= {f"{role.upper()}_AUTH_PROVIDER": "static", f"{role.upper()}_AUTH_CONFIG": f'{{"file":"{path}"}}'}
        super().__init__(directory / "server", env=env, dev=False, apart=apart)
        self.set(producer=[producer_of(team) for team in TEAMS], worker=[worker_of(team) for team in TEAMS])

    def set(self, **tokens: list[dict[str, Any]]) -> None:
        """Replaces the tokens of roles by renaming a new file over the old one."""
        for role, those in tokens.items():
            draft = self.files[role].with_suffix(".new")
            draft.write_text(json.dumps(those))
            draft.replace(self.files[role])


@pytest.fixture(params=[False, True], ids=["one process", "gateway apart"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, apart=request.param) as server:
        yield server
        print(server.log)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_accepted(server: Server, token: str) -> bool:
    return call(server, "GET", "/tasks/none", token).status_code == 404


def create(server: Server, team: str, command: str = "PRINT", token: str = "") -> str:
    answer = call(server, "POST", "/tasks", token or f"{team}-p", json={"command": command, "payload": team})
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["id"]
    return task_id


async def end_of(stream: Any) -> tuple[grpc.StatusCode, str]:
    """Reads a stream to its end; returns its status."""
    try:
        while await stream.read() is not grpc.aio.EOF:
            continue
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return await stream.code(), ""


def test_each_team_sees_only_its_own_tasks_over_every_front(server: Server) -> None:
    async def test() -> None:
        mine = {team: create(server, team) for team in TEAMS}
        for team, other in (TEAMS, TEAMS[::-1]):
            assert call(server, "GET", f"/tasks/{mine[team]}", f"{team}-p").json()["payload"] == team
            refused(call(server, "GET", f"/tasks/{mine[other]}", f"{team}-p"), 404, "TASK_NOT_FOUND")
        for team in TEAMS:
            async with producing(server, f"{team}-p") as producer:
                await produce(producer, [task_pb2.TaskSpec(command="PRINT", payload=b'"stream"')])
            async with working(server, "PRINT", token=f"{team}-w") as worker:
                tasks = await take(worker, 2)
                assert [task.payload for task in tasks] == [f'"{team}"'.encode(), b'"stream"']
                await worker.write(worker_service_pb2.WorkRequest(add_credits=1))
                done = [
                    task_pb2.Outcome(
                        kind=task_pb2.OUTCOME_KIND_COMPLETED,
                        task_id=task.id,
                        lease_token=task.lease_token,
                        result=b"1",
                    )
                    for task in tasks
                ]
                assert await settle(worker, done) == []
        assert call(server, "POST", "/tasks/claim", "acme-w", json={"commands": ["PRINT"]}).status_code == 204

    asyncio.run(test())


def test_token_is_replaced_under_load_without_a_restart_and_without_a_failed_call(server: Server) -> None:
    old, fresh, other = producer_of("acme"), producer_of("acme"), producer_of("umbrella")
    del fresh["token"]
    fresh["tokenSha256"] = hashlib.sha256(b"acme-p2").hexdigest()
    current, done, stop = "acme-p", [""] * 4, threading.Event()

    def load(number: int) -> None:
        while not stop.is_set():
            token = current
            create(server, "acme", token=token)
            done[number] = token

    with ThreadPoolExecutor(len(done)) as pool:
        loads = [pool.submit(load, number) for number in range(len(done))]
        try:
            eventually(lambda: set(done) == {"acme-p"})
            server.set(producer=[old, fresh, other])
            eventually(lambda: is_accepted(server, "acme-p2"))
            current = "acme-p2"
            eventually(lambda: set(done) == {"acme-p2"})
            server.set(producer=[fresh, other])
            eventually(lambda: not is_accepted(server, "acme-p"))
            done = [""] * len(done)
            eventually(lambda: set(done) == {"acme-p2"})
        finally:
            stop.set()
        assert [each.exception(WAIT_SECONDS) for each in loads] == [None] * len(loads)


def test_revoked_token_ends_its_streams_and_waiting_calls_within_five_seconds(server: Server) -> None:
    async def test() -> None:
        claim = task_service_pb2.ClaimTaskRequest(commands=["NONE"], wait_seconds=WAIT_SECONDS)
        async with (
            producing(server, "acme-p") as producer,
            working(server, token="acme-w") as worker,
            producing(server, "umbrella-p") as other_producer,
            working(server, token="umbrella-w") as other_worker,
            grpc.aio.insecure_channel(server.worker_addr) as channel,
        ):
            waiting = asyncio.ensure_future(TaskServiceStub(channel).ClaimTask(claim, metadata=auth("acme-w")))
            body = {"commands": ["NONE"], "waitSeconds": WAIT_SECONDS}
            over_rest = asyncio.create_task(asyncio.to_thread(rest_claim, server, "acme-w", body))
            metrics = "codeq_workers_waiting 2.0"
            await asyncio.to_thread(eventually, lambda: metrics in metrics_of(server))
            server.set(producer=[producer_of("umbrella")], worker=[worker_of("umbrella")])
            began = time.monotonic()
            for stream in (producer, worker):
                assert await end_of(stream) == (grpc.StatusCode.UNAUTHENTICATED, "the token is no longer accepted")
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await waiting
            assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
            refused(await over_rest, 401, "UNAUTHENTICATED")
            assert time.monotonic() - began < REVOKED_SECONDS_MAX
            ack = await produce(other_producer, [task_pb2.TaskSpec(command="PRINT", payload=b"1")])
            assert len(ack.task_ids) == 1
            assert len(await take(other_worker, 1)) == 1

    asyncio.run(test())


def rest_claim(server: Server, token: str, body: object) -> Any:
    return call(server, "POST", "/tasks/claim", token, json=body)


def metrics_of(server: Server) -> str:
    return httpx.get(f"{server.http_url}/metrics").text


def test_changed_token_changes_what_its_open_stream_may_do(server: Server) -> None:
    async def test() -> None:
        async with working(server, token="acme-w") as worker, working(server, "SHIP", token="acme-w") as shipper:
            await worker.write(worker_service_pb2.WorkRequest(add_credits=1))
            server.set(worker=[worker_of("acme", eventTypes=["PRINT"]), worker_of("umbrella")])
            code, details = await end_of(shipper)
            assert (code, "SHIP" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
            create(server, "acme", "SHIP")
            create(server, "acme", "PRINT")
            assert [task.command for task in (await worker.read()).tasks] == ["PRINT"]
            server.set(worker=[worker_of("acme", raw={"tenantId": "umbrella"}), worker_of("umbrella")])
            assert (await end_of(worker))[0] is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(test())


def test_file_that_cannot_be_used_keeps_the_tokens_and_is_reported_once(server: Server) -> None:
    path = server.files["worker"]

    def reports() -> int:
        return server.log.count("token_file_rejected")

    for number, break_it in enumerate((lambda: path.write_text('[{"token":'), path.unlink), 1):
        break_it()
        eventually(lambda number=number: reports() == number)  # type: ignore[misc]
        assert is_accepted(server, "acme-w")
    assert "acme-w" not in server.log
    server.set(worker=[worker_of("acme")])
    eventually(lambda: not is_accepted(server, "umbrella-w"))
    assert is_accepted(server, "acme-w")
    assert reports() == 2


def test_streams_of_producers_go_on_when_other_tokens_change(server: Server) -> None:
    async def test() -> None:
        async with producing(server, "acme-p") as producer:
            server.set(producer=[producer_of("acme"), producer_of("third")])
            await asyncio.to_thread(eventually, lambda: is_accepted(server, "third-p"))
            assert not is_accepted(server, "umbrella-p")
            ack = await produce(producer, [task_pb2.TaskSpec(command="PRINT", payload=b"1")])
            assert len(ack.task_ids) == 1
            await producer.write(producer_service_pb2.ProduceRequest(token="umbrella-p"))
            assert (await end_of(producer))[0] is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(test())
