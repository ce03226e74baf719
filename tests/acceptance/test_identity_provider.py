"""Producers and workers with tokens of an identity provider, over every front of a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_streams import produce, producing, settle, take, working
from codeq.v1 import task_pb2
from codeq_server.auth.jwks.store import REFETCH_SECONDS
from jwks_issuer import AUDIENCE, Issuer, Signer
from server_process import ServerProcess
from test_bad_input import WORKER_SCOPES, call, refused

SIGNER = Signer("k1", "ES256")
ROTATION_SECONDS_MAX = 10
"""How much later than allowed a fetch may begin on a busy machine."""


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(SIGNER) as started:
        yield started


@pytest.fixture(params=[False, True], ids=["one process", "gateway apart"])
def server(request: pytest.FixtureRequest, tmp_path: Path, issuer: Issuer) -> Iterator[ServerProcess]:
    env = {"GATEWAY_SECRET": "0123456789abcdef"}
    for role in ("PRODUCER", "WORKER"):
        config = {"issuer": issuer.url, "jwksUrl": f"{issuer.url}/keys", "audience": f"{AUDIENCE}-{role.lower()}"}
        env |= {f"{role}_AUTH_PROVIDER": "jwks", f"{role}_AUTH_CONFIG": json.dumps(config)}
    with ServerProcess(tmp_path / "server", env=env, dev=False, apart=request.param) as started:
        yield started
        print(started.log)


def token(issuer: Issuer, role: str, signer: Signer = SIGNER, **claims: Any) -> str:
    now = int(time.time())
    rights = {"scope": " ".join(WORKER_SCOPES), "eventTypes": ["PRINT"]} if role == "worker" else {}
    good = {"iss": issuer.url, "aud": f"{AUDIENCE}-{role}", "sub": f"{role}-7", "exp": now + 600, "tenantId": "acme"}
    return signer.sign(good | rights | claims)


def create(server: ServerProcess, bearer: str) -> Any:
    return call(server, "POST", "/tasks", bearer, json={"command": "PRINT", "payload": "hello"})


def completed(task: Any) -> task_pb2.Outcome:
    kind = task_pb2.OUTCOME_KIND_COMPLETED
    return task_pb2.Outcome(kind=kind, task_id=task.id, lease_token=task.lease_token, result=b"1")


def test_tokens_of_the_issuer_produce_and_work_over_every_front(server: ServerProcess, issuer: Issuer) -> None:
    async def test() -> None:
        task_id = create(server, token(issuer, "producer")).json()["id"]
        async with producing(server, token(issuer, "producer", jti="stream")) as producer:
            await produce(producer, [task_pb2.TaskSpec(command="PRINT", payload=b'"stream"')])
        async with working(server, token=token(issuer, "worker")) as worker:
            tasks = await take(worker, 2)
            assert [task.payload for task in tasks] == [b'"hello"', b'"stream"']
            assert await settle(worker, [completed(task) for task in tasks]) == []
        assert call(server, "GET", f"/tasks/{task_id}", token(issuer, "producer")).json()["status"] == "COMPLETED"

    asyncio.run(test())
    assert len(issuer.asked) == 2  # once for each role


def test_tokens_for_others_forged_or_expired_are_unauthenticated(server: ServerProcess, issuer: Issuer) -> None:
    now = int(time.time())
    assert create(server, token(issuer, "producer")).status_code == 202
    refused(create(server, token(issuer, "worker")), 403, "WRONG_TOKEN_KIND")
    bad = [
        token(issuer, "producer", aud="others"),
        token(issuer, "producer", Signer("k1", "ES256", name="forger")),
        token(issuer, "producer", exp=now - 100),
        token(issuer, "producer", nbf=now + 100),
        token(issuer, "producer", iss="https://evil.example"),
        token(issuer, "producer", exp=None),
    ]
    for each in bad:
        refused(create(server, each), 401, "UNAUTHENTICATED")
    assert not any(each in server.log for each in bad)
    assert '"event":"token_rejected"' in server.log.replace(" ", "")


def test_keys_rotate_and_the_issuer_stops_while_calls_go_on(server: ServerProcess, issuer: Issuer) -> None:
    assert create(server, token(issuer, "producer")).status_code == 202
    issuer.publish(SIGNER, Signer("k2", "ES256"))
    began_at = time.monotonic()
    while (answer := create(server, token(issuer, "producer", Signer("k2", "ES256")))).status_code != 202:
        refused(answer, 503, "SERVER_UNREACHABLE")
        assert time.monotonic() - began_at < REFETCH_SECONDS + ROTATION_SECONDS_MAX
        time.sleep(0.2)
    issuer.fail()
    for number in range(20):
        assert create(server, token(issuer, "producer", jti=number)).status_code == 202
