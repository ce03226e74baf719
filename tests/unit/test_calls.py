"""Unary calls: the parts that gRPC and the gateway share."""

from __future__ import annotations

import asyncio

import pytest
from codeq.v1 import task_pb2, task_service_pb2
from codeq_gateway.dispatch import Call, CallFailed
from codeq_server.auth.authenticator import Authenticator
from codeq_server.auth.static import StaticToken, StaticValidator
from codeq_server.core.claims import claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller
from codeq_server.services.calls import Calls
from codeq_server.services.local_dispatch import LocalDispatcher
from codeq_server.services.serving import Serving
from codeq_server.services.shard_table import ShardTable
from google.protobuf.message import Message
from held_log import HeldRunner, turns, until
from scripted_validator import ScriptedValidator, token_of

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
    made = Calls(Authenticator(validator, validator), ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere")))
    made.shards.present(Serving(runner, None, lease_seconds=60, artifact_bytes_max=0))
    return made


async def test_rejection_based_on_a_change_waits_until_it_is_durable(calls: Calls, runner: HeldRunner) -> None:
    """The second result is rejected only once the first one can no longer be undone."""
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
    unknown = task_service_pb2.SubmitResultRequest(task_id="none", status=task_pb2.TASK_STATUS_COMPLETED)
    missed = asyncio.ensure_future(calls.call(SUBMIT, unknown, f"Bearer {TOKEN}"))
    await until(lambda: len(runner.log.batches) == 2)
    await turns()
    assert not ended.done()
    assert not refused.done()
    assert not missed.done()
    runner.log.release()
    await ended
    with pytest.raises(Rejection) as refusal:
        await refused
    assert refusal.value.reason is Reason.TASK_NOT_CLAIMED
    with pytest.raises(Rejection) as refusal:
        await missed
    assert refusal.value.reason is Reason.TASK_NOT_FOUND


LEADER = {"leader": "node-2", "leaderGrpc": "node-2:9092"}


@pytest.mark.parametrize(
    ("metadata", "wished", "forwarded"),
    [(LEADER, True, ["node-2:9092"]), (LEADER, False, []), ({"leader": "node-2"}, True, [])],
    ids=["forwarded", "not requested", "address unknown"],
)
async def test_call_is_forwarded_to_a_known_leader_on_request(
    calls: Calls, metadata: dict[str, str], *, wished: bool, forwarded: list[str]
) -> None:
    calls = Calls(calls.authenticator, ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere", (), metadata)))
    asked = []
    answer = task_service_pb2.SubmitResultResponse()

    async def forward(address: str, call: Call) -> Message:
        asked.append((address, call))
        return answer

    call = Call(SUBMIT, task_service_pb2.SubmitResultRequest(), f"Bearer {TOKEN}", "r", 30, forward=wished)
    dispatcher = LocalDispatcher(calls, forward)
    if forwarded:
        assert await dispatcher.call(call) is answer
    else:
        with pytest.raises(CallFailed) as refused:
            await dispatcher.call(call)
        assert (refused.value.reason, refused.value.metadata) == (Reason.NOT_LEADER.value, metadata)
    assert asked == [(address, call) for address in forwarded]


async def test_call_from_a_call_stream_is_not_forwarded(calls: Calls) -> None:
    """Call streams are served by `Calls` itself, which rejects calls and cannot reach another server."""
    calls = Calls(calls.authenticator, ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere", (), LEADER)))
    with pytest.raises(Rejection) as refusal:
        await calls.call(SUBMIT, task_service_pb2.SubmitResultRequest(), f"Bearer {TOKEN}", stale=False)
    assert refusal.value.reason is Reason.NOT_LEADER


async def no_forward(address: str, _: Call) -> Message:
    raise AssertionError(f"forwarded to {address}")


async def test_body_is_read_only_after_the_callers_token_is_validated() -> None:
    """If the token is not cached, the gateway gets a validation that it awaits before it reads the body."""
    validator = ScriptedValidator(good=token_of())
    calls = Calls(Authenticator(validator, validator), ShardTable(lambda: Rejection(Reason.NOT_LEADER, "elsewhere")))
    dispatcher = LocalDispatcher(calls, no_forward)
    validator.waits = True
    good, bad = (dispatcher.admit(SUBMIT, f"Bearer {name}", "") for name in ("good", "bad"))
    assert good is not None
    assert bad is not None
    validator.release()
    await good()
    with pytest.raises(CallFailed) as refused:
        await bad()
    assert refused.value.reason == Reason.UNAUTHENTICATED.value
    assert dispatcher.admit(SUBMIT, "Bearer good", "") is None
    await turns()
