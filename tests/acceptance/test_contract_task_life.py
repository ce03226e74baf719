"""Contract rows about the life of a task, from status names to delays, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from codeq.v1 import worker_service_pb2
from codeq.v1.worker_service_pb2_grpc import WorkerServiceStub
from server_process import ServerProcess
from test_bad_input import call, refused
from two_workers import FIRST, SECOND, claimed, created, environment, said, shown, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with two workers of one tenant; nacks without a delay back off by 4 s and then 8 s."""
    env = environment(BACKOFF_POLICY="exponential", BACKOFF_BASE_SECONDS="2")
    with ServerProcess(tmp_path_factory.mktemp("life"), env=env, dev=False) as started:
        yield started


def time_of(text: str) -> datetime:
    """Parses a time of the API."""
    return datetime.fromisoformat(text)


# -- status names, attempts, maxAttempts -------------------------------------------------------------------------------


def test_all_seven_statuses_are_reached(server: ServerProcess) -> None:
    seen = [created(server, "names", delaySeconds=3600)["status"], created(server, "names", maxAttempts=1)["status"]]
    seen.append(claimed(server, "names")["status"])
    ends: list[tuple[str, dict[str, Any]]] = [
        ("nack", {"delaySeconds": 0}),
        ("result", {"status": "COMPLETED"}),
        ("result", {"status": "FAILED", "error": "no"}),
    ]
    for what, body in ends:
        task = created(server, f"names.{what}", maxAttempts=1)
        claimed(server, f"names.{what}")
        assert said(server, task, what, **body).status_code == 200
        seen.append(shown(server, task)["status"])
    task = created(server, "names.cancel")
    seen.append(call(server, "POST", f"/tasks/{task['id']}/cancel", SECOND, json={}).json()["status"])
    assert seen == ["SCHEDULED", "PENDING", "CLAIMED", "DLQ", "COMPLETED", "FAILED", "CANCELLED"]


def test_attempts_count_deliveries_except_abandoned_ones(server: ServerProcess) -> None:
    task = created(server, "attempts")
    assert task["attempts"] == 0
    assert claimed(server, "attempts")["attempts"] == 1
    assert said(server, task, "abandon").json()["status"] == "PENDING"
    assert shown(server, task)["attempts"] == 0
    claimed(server, "attempts")
    assert said(server, task, "nack", delaySeconds=0).status_code == 200
    assert shown(server, task)["attempts"] == 1
    assert claimed(server, "attempts", leaseSeconds=1)["attempts"] == 2
    assert claimed(server, "attempts")["attempts"] == 3  # after the lease ran out
    assert said(server, task, "heartbeat").status_code == 200
    assert said(server, task, "result", status="COMPLETED").status_code == 200
    assert shown(server, task)["attempts"] == 3


def test_nack_or_expiry_of_the_last_attempt_sends_the_task_to_the_dlq(server: ServerProcess) -> None:
    task = created(server, "most")
    assert task["maxAttempts"] == 5
    for delivery in range(1, 6):
        assert claimed(server, "most")["attempts"] == delivery
        answer = said(server, task, "nack", delaySeconds=0, reason=f"reason {delivery}")
    assert (answer.json()["status"], shown(server, task)["error"]) == ("DLQ", "reason 5")
    task = created(server, "most", maxAttempts=1)
    claimed(server, "most", leaseSeconds=1)
    until(lambda: shown(server, task)["status"] == "DLQ")
    assert shown(server, task)["error"] == "LEASE_EXPIRED"
    assert {name: queue_of_acme(server, "most")[name] for name in ("ready", "claimed", "dlq")} == {
        "ready": 0,
        "claimed": 0,
        "dlq": 2,
    }


def queue_of_acme(server: ServerProcess, command: str) -> dict[str, Any]:
    """Returns the counters of a queue."""
    counters: dict[str, Any] = call(server, "GET", f"/admin/queues/{command}", SECOND).json()
    return counters


# -- order -------------------------------------------------------------------------------------------------------------


def test_tasks_are_delivered_by_priority_and_then_in_order_of_acceptance(server: ServerProcess) -> None:
    ids = {priority: [created(server, "order", priority=priority)["id"] for _ in range(2)] for priority in (0, 9, 5)}
    taken = call(server, "POST", "/tasks/claim/batch", FIRST, json={"commands": ["order"], "count": 100}).json()
    assert [task["id"] for task in taken["tasks"]] == [*ids[9], *ids[5], *ids[0]]


def test_nacked_and_lease_expired_tasks_move_to_the_tail_but_abandoned_ones_stay(server: ServerProcess) -> None:
    nacked, expired, abandoned, last = (created(server, "tail") for _ in range(4))
    for _ in range(3):
        claimed(server, "tail", leaseSeconds=1)
    assert said(server, nacked, "nack", delaySeconds=0).status_code == 200
    assert said(server, abandoned, "abandon").status_code == 200
    until(lambda: shown(server, expired)["status"] == "PENDING")
    assert [claimed(server, "tail")["id"] for _ in range(4)] == [
        task["id"] for task in (abandoned, last, nacked, expired)
    ]


def test_claims_for_several_commands_prefer_priority_and_starve_none(server: ServerProcess) -> None:
    for _ in range(4):
        created(server, "turn.a")
    others = [created(server, "turn.b", priority=priority)["id"] for priority in (0, 7)]
    taken = [claimed(server, "turn.a", "turn.b") for _ in range(4)]
    assert taken[0]["id"] == others[1]
    assert others[0] in {task["id"] for task in taken[1:3]}


# -- lease -------------------------------------------------------------------------------------------------------------


def test_lease_lasts_60_seconds_by_default_and_1_second_to_12_hours_on_request(server: ServerProcess) -> None:
    for seconds in (None, 1, 43_200):
        task = created(server, "lease")
        begin = datetime.now(UTC)
        lease = claimed(server, "lease", **({} if seconds is None else {"leaseSeconds": seconds}))
        length = (time_of(lease["leaseUntil"]) - begin).total_seconds()
        assert (seconds or 60) - 0.01 <= length < (seconds or 60) + 10
        said(server, task, "result", status="COMPLETED")
    for seconds in (0, 43_201):
        answer = call(server, "POST", "/tasks/claim", FIRST, json={"leaseSeconds": seconds})
        assert "leaseSeconds" in refused(answer, 400, "INVALID_FIELD")["error"]


def test_heartbeat_extends_a_lease_and_never_shortens_it(server: ServerProcess) -> None:
    task = created(server, "beat")
    before = claimed(server, "beat", leaseSeconds=600)["leaseUntil"]
    begin = datetime.now(UTC)
    longer = said(server, task, "heartbeat", extendSeconds=1200).json()["leaseUntil"]
    assert time_of(longer) - begin >= timedelta(seconds=1199.9)
    shorter = said(server, task, "heartbeat", extendSeconds=1).json()["leaseUntil"]
    assert time_of(before) < time_of(longer)
    assert abs(time_of(shorter) - time_of(longer)) < timedelta(seconds=1)
    refused(said(server, task, "heartbeat", extendSeconds=43_201), 400, "INVALID_FIELD")


def test_task_with_an_expired_lease_is_delivered_to_a_waiting_caller(server: ServerProcess) -> None:
    task = created(server, "out")
    first = claimed(server, "out", leaseSeconds=1)
    second = claimed(server, "out", token=SECOND)
    assert (second["id"], second["workerId"], second["error"]) == (task["id"], "of-producer", "LEASE_EXPIRED")
    refused(said(server, task, "result", leaseToken=first["leaseToken"], status="COMPLETED"), 409, "STALE_LEASE_TOKEN")


def test_lease_is_rearmed_at_its_longest_extension_after_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, env=environment(), dev=False) as server:
        plain, extended = created(server, "armed"), created(server, "armed")
        lengths = {plain["id"]: 600, extended["id"]: 1200}
        tokens = [claimed(server, "armed", leaseSeconds=600)["leaseToken"] for _ in lengths]
        assert said(server, extended, "heartbeat", extendSeconds=1200).status_code == 200
        server.kill()
        begin = datetime.now(UTC)
        server.start()
        for task_id, seconds in lengths.items():
            task = shown(server, {"id": task_id})
            assert task["status"] == "CLAIMED"
            assert time_of(task["leaseUntil"]) - begin >= timedelta(seconds=seconds - 0.01)
        # Tokens keep growing, and the old tokens are still valid.
        created(server, "armed")
        assert int(claimed(server, "armed")["leaseToken"]) > max(map(int, tokens))
        answer = said(server, plain, "result", leaseToken=tokens[0], status="COMPLETED")
        assert answer.status_code == 200


# -- fence and identity ------------------------------------------------------------------------------------------------


def test_lease_tokens_are_strings_that_grow_with_each_delivery(server: ServerProcess) -> None:
    task = created(server, "grow")
    tokens = []
    for _ in range(3):
        tokens.append(claimed(server, "grow")["leaseToken"])
        said(server, task, "nack", delaySeconds=0)
    assert all(isinstance(token, str) for token in tokens)
    assert sorted(tokens, key=int) == tokens
    assert len(set(tokens)) == 3


def test_rest_outcome_without_a_token_applies_only_to_the_callers_live_lease(server: ServerProcess) -> None:
    task = created(server, "bare")
    refused(said(server, task, "result", status="COMPLETED"), 409, "TASK_NOT_CLAIMED")
    claimed(server, "bare")
    for what, body in {"heartbeat": {}, "result": {"status": "COMPLETED"}, "nack": {}, "abandon": {}}.items():
        refused(said(server, task, what, SECOND, **body), 409, "NOT_LEASE_OWNER")
    assert said(server, task, "result", status="COMPLETED").status_code == 200


@pytest.mark.parametrize("what", ["heartbeat", "result", "nack", "abandon", "progress"])
def test_stale_token_gets_409_and_changes_nothing(server: ServerProcess, what: str) -> None:
    task = created(server, f"stale.{what}")
    stale = claimed(server, f"stale.{what}")["leaseToken"]
    said(server, task, "abandon" if what == "nack" else "nack", **({} if what == "nack" else {"delaySeconds": 0}))
    claimed(server, f"stale.{what}")
    before = shown(server, task)
    body = {"result": {"status": "COMPLETED"}, "progress": {"progress": 1}}.get(what, {})
    refused(said(server, task, what, leaseToken=stale, **body), 409, "STALE_LEASE_TOKEN")
    # The end of a lease comes from two clocks, which may differ by a millisecond.
    assert {**shown(server, task), "leaseUntil": ""} == {**before, "leaseUntil": ""}


def test_repeated_outcome_succeeds_and_returns_the_stored_result(server: ServerProcess) -> None:
    task = created(server, "again")
    token = claimed(server, "again")["leaseToken"]
    first = said(server, task, "result", leaseToken=token, status="COMPLETED", result=[1])
    again = said(server, task, "result", leaseToken=token, status="COMPLETED", result=[1])
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    other = said(server, task, "result", leaseToken=token, status="COMPLETED", result=[2])
    refused(other, 409, "TASK_NOT_CLAIMED")
    assert call(server, "GET", f"/tasks/{task['id']}/result", FIRST).json()["result"]["result"] == [1]


def test_caller_cannot_act_for_another_subject_even_with_its_lease_token(server: ServerProcess) -> None:
    task = created(server, "mine")
    lease = claimed(server, "mine")
    assert lease["workerId"] == "of-worker"
    stolen = {"leaseToken": lease["leaseToken"]}
    bodies: dict[str, dict[str, Any]] = {
        "heartbeat": {},
        "result": {"status": "COMPLETED", "workerId": "of-worker"},
        "nack": {},
        "abandon": {},
        "progress": {"progress": 1},
    }
    for what, body in bodies.items():
        refused(said(server, task, what, SECOND, **stolen, **body), 409, "NOT_LEASE_OWNER")
    assert shown(server, task)["status"] == "CLAIMED"


async def test_named_stream_is_identified_by_subject_and_name(server: ServerProcess) -> None:
    task = created(server, "named")
    async with grpc.aio.insecure_channel(server.worker_addr) as channel:
        stream = WorkerServiceStub(channel).Work(metadata=[("authorization", f"Bearer {FIRST}")])
        hello = worker_service_pb2.WorkerHello(name="seven", commands=["named"])
        await stream.write(worker_service_pb2.WorkRequest(hello=hello, add_credits=1))
        while not (await stream.read()).tasks:
            pass
        assert (await asyncio.to_thread(shown, server, task))["workerId"] == "of-worker/seven"
        stream.cancel()


# -- nack, backoff, delay ----------------------------------------------------------------------------------------------


def test_nack_without_delay_makes_the_task_pending_at_once_and_keeps_the_reason(server: ServerProcess) -> None:
    task = created(server, "nack")
    claimed(server, "nack")
    assert said(server, task, "nack", delaySeconds=0, reason="busy").json() == {"status": "PENDING", "delaySeconds": 0}
    assert shown(server, task)["error"] == "busy"
    assert claimed(server, "nack")["error"] == "busy"


@pytest.mark.parametrize(("asked", "given"), [(7_200, 7_200), (43_200, 43_200), (43_201, 43_200), (1 << 30, 43_200)])
def test_nack_with_a_delay_schedules_the_task_at_most_12_hours_ahead(
    server: ServerProcess, asked: int, given: int
) -> None:
    task = created(server, f"nack.{asked}")
    claimed(server, f"nack.{asked}")
    begin = datetime.now(UTC)
    answer = said(server, task, "nack", delaySeconds=asked).json()
    assert answer == {"status": "SCHEDULED", "delaySeconds": given}
    waits = time_of(shown(server, task)["runAt"]) - begin
    assert timedelta(seconds=given - 0.01) <= waits < timedelta(seconds=given + 20)
    assert queue_of_acme(server, f"nack.{asked}")["scheduled"] == 1


def test_nack_delay_defaults_to_the_backoff_policy(server: ServerProcess) -> None:
    task = created(server, "backoff")
    claimed(server, "backoff")
    said(server, task, "nack", delaySeconds=0)
    claimed(server, "backoff")
    assert said(server, task, "nack").json() == {"status": "SCHEDULED", "delaySeconds": 8}  # 2 s, doubled twice
    task = created(server, "backoff")
    claimed(server, "backoff")
    assert said(server, task, "nack").json() == {"status": "SCHEDULED", "delaySeconds": 4}


def test_delayed_task_wakes_waiting_callers_and_is_never_early(server: ServerProcess) -> None:
    for kind in ("delaySeconds", "runAt"):
        at = (datetime.now(UTC) + timedelta(milliseconds=2345)).isoformat(timespec="milliseconds")
        task = created(server, "delay", **{kind: 1 if kind == "delaySeconds" else at})
        assert task["status"] == "SCHEDULED"
        due = time_of(task["runAt"])
        if kind == "runAt":
            assert due == time_of(at)
        assert claimed(server, "delay")["id"] == task["id"]
        assert timedelta(0) <= datetime.now(UTC) - due < timedelta(seconds=10)


def test_delay_has_no_upper_bound_and_a_past_time_means_immediate_delivery(server: ServerProcess) -> None:
    assert created(server, "horizon", runAt="9999-12-31T23:59:59Z")["runAt"] == "9999-12-31T23:59:59.000Z"
    assert created(server, "horizon", runAt="1999-01-01T00:00:00Z")["status"] == "PENDING"
    assert created(server, "horizon", delaySeconds=0)["status"] == "PENDING"
    both = {"command": "horizon", "runAt": "2100-01-01T00:00:00Z", "delaySeconds": 1}
    refused(call(server, "POST", "/tasks", SECOND, json=both), 400, "INVALID_FIELD")


def test_task_ids_and_command_names_are_case_sensitive_and_bounded(server: ServerProcess) -> None:
    created(server, "Case")
    assert call(server, "POST", "/tasks/claim", FIRST, json={"commands": ["case"]}).status_code == 204
    created(server, "c" * 128)
    for command in ("c" * 129, ".begin", "sp ace", ""):
        answer = call(server, "POST", "/tasks", SECOND, json={"command": command, "payload": 1})
        assert "command" in refused(answer, 400, "INVALID_FIELD")["error"]


def test_queue_counters_follow_each_task(server: ServerProcess) -> None:
    task = created(server, "counted", delaySeconds=1)
    counters = [queue_of_acme(server, "counted")]
    claimed(server, "counted")
    counters.append(queue_of_acme(server, "counted"))
    said(server, task, "abandon")
    counters.append(queue_of_acme(server, "counted"))
    names = ("scheduled", "claimed", "ready", "dlq")
    assert [[each[name] for name in names] for each in counters] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
