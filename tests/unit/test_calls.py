"""Unary calls: what both fronts share."""

from __future__ import annotations

import asyncio

import pytest
from codeq.v1 import task_pb2, task_service_pb2
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.static import StaticToken, StaticValidator
from codeq_server.core.claims import claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller
from codeq_server.services.calls import Calls
from codeq_server.services.serving import Serving
from held_log import HeldRunner, turns, until

TOKEN = "secret"
SUBMIT = "/codeq.v1.TaskService/SubmitResult"


@pytest.fixture
async def runner() -> HeldRunner:
    return HeldRunner()


@pytest.fixture
def calls(runner: HeldRunner) -> Calls:
    token = StaticToken(
        token=TOKEN,
        subject="w",
        email="",
        scopes=frozenset({"codeq:result"}),
        event_types=frozenset({"*"}),
        raw={"tenantId": "acme"},
    )
    validator = StaticValidator(token)
    made = Calls(Authenticator(validator, validator), lambda: Rejection(Reason.NOT_LEADER, "elsewhere"))
    made.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    return made


async def test_refusal_that_saw_what_is_not_durable_waits_for_it(calls: Calls, runner: HeldRunner) -> None:
    """A second worker is told that the task is not its own: only when the first one's end cannot be undone any more."""
    task_id = runner.create()
    assert claim(runner.shard, Caller("acme", "w", "w"), None, 1, 1000, 60_000, runner.now())
    runner.changed()
    await until(lambda: runner.log.batches)
    runner.log.release()
    await until(lambda: runner.durable() is None)
    ending = task_service_pb2.SubmitResultRequest(task_id=task_id, status=task_pb2.TASK_STATUS_COMPLETED)
    failing = task_service_pb2.SubmitResultRequest(task_id=task_id, status=task_pb2.TASK_STATUS_FAILED, error="e")
    ended = asyncio.ensure_future(calls.call(SUBMIT, ending, f"Bearer {TOKEN}"))
    await turns()
    refused = asyncio.ensure_future(calls.call(SUBMIT, failing, f"Bearer {TOKEN}"))
    await until(lambda: len(runner.log.batches) == 2)
    await turns()
    assert not ended.done()
    assert not refused.done()
    runner.log.release()
    await ended
    with pytest.raises(Rejection) as refusal:
        await refused
    assert refusal.value.reason is Reason.TASK_NOT_CLAIMED
