"""Replies to HTTP clients while another server is the leader, and stale reads."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from codeq.v1 import error_pb2
from codeq_gateway.dispatch import CallFailed
from served_gateway import Served

TASKS = "/v1/codeq/tasks"
LEADER = {"leader": "node-2", "leaderHttp": "http://node-2:8080", "leaderGrpc": "node-2:9092"}


@pytest.fixture
async def following(served_inside: Served) -> AsyncIterator[Served]:
    """A gateway with a server that does not lead."""
    served_inside.double.failure = CallFailed(error_pb2.ERROR_REASON_NOT_LEADER, "node-2 leads", (), 1, LEADER)
    return served_inside


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", TASKS),
        ("POST", f"{TASKS}/claim"),
        ("GET", f"{TASKS}/a%2Fb%20%C3%A9?consistency=stale"),
        ("GET", f"{TASKS}?pageSize=2&command=A%26B"),
    ],
)
async def test_redirect_to_the_leader_keeps_path_and_query(following: Served, method: str, target: str) -> None:
    answer = await following.http.request(method, target, **({"json": {"command": "A"}} if target == TASKS else {}))
    assert (answer.status_code, answer.headers["location"]) == (307, f"http://node-2:8080{target}")
    assert answer.json() == {
        "error": "node-2 leads",
        "code": "UNAVAILABLE",
        "reason": "NOT_LEADER",
        "details": [],
        "leader": {"name": "node-2", "http": "http://node-2:8080", "grpc": "node-2:9092"},
    }


async def test_path_with_control_characters_cannot_inject_a_header(following: Served) -> None:
    head = await following.exchange(
        b"GET /v1/codeq/tasks/a\xff%0d%0aX-Evil:1?status=\xffA HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert b"x-evil" not in head.lower().replace(b"%0d%0ax-evil", b"")


async def test_retry_is_advised_while_the_leaders_address_is_unknown(served_inside: Served) -> None:
    served_inside.double.failure = CallFailed(error_pb2.ERROR_REASON_NOT_LEADER, "no leader", (), 1, {"leader": "n"})
    answer = await served_inside.http.post(TASKS, json={"command": "A"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "location" not in answer.headers
    assert answer.json()["leader"] == {"name": "n"}


@pytest.mark.parametrize(("sent", "forward"), [(None, False), ("0", False), ("1", True)])
async def test_forward_header_reaches_the_call(served_inside: Served, sent: str | None, *, forward: bool) -> None:
    headers = {} if sent is None else {"X-CodeQ-Forward": sent}
    await served_inside.http.post(TASKS, json={"command": "A"}, headers=headers)
    assert served_inside.double.calls[0].forward is forward


@pytest.mark.parametrize("sent", ["", "yes", "2"])
async def test_malformed_forward_header_is_rejected(served: Served, sent: str) -> None:
    answer = await served.http.post(TASKS, json={"command": "A"}, headers={"X-CodeQ-Forward": sent})
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "X-CodeQ-Forward")
    assert served.double.calls == []


@pytest.mark.parametrize(
    "target", [f"{TASKS}/t1", f"{TASKS}/t1/result", TASKS, "/v1/codeq/admin/queues", "/v1/codeq/admin/queues/A"]
)
async def test_stale_read_is_marked_in_its_reply(served: Served, target: str) -> None:
    await served.http.post(TASKS, json={"command": "A"})
    served.double.calls.clear()
    stale = await served.http.get(target, params={"consistency": "stale"})
    plain = await served.http.get(target)
    assert [call.consistency for call in served.double.calls] == ["stale", ""]
    assert (stale.status_code, stale.content) == (plain.status_code, plain.content)
    if stale.status_code == 200:
        assert stale.headers["x-codeq-consistency"] == "stale"
    assert "x-codeq-consistency" not in plain.headers


@pytest.mark.parametrize(
    "query", ["consistency=", "consistency=strong", "consistency=stale&consistency=stale", "%63onsistency=x"]
)
async def test_unknown_consistency_is_rejected_with_its_field(served: Served, query: str) -> None:
    answer = await served.http.get(f"{TASKS}/t1?{query}")
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "consistency")
    assert served.double.calls == []


async def test_consistency_parameter_of_a_write_is_rejected(served: Served) -> None:
    answer = await served.http.post(f"{TASKS}/claim?consistency=stale", json={})
    assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "consistency")


@pytest.mark.parametrize(
    ("method", "target", "body", "headers", "repeatable"),
    [
        ("GET", f"{TASKS}/t1", None, {}, True),
        ("POST", TASKS, {"command": "A"}, {}, False),
        ("POST", TASKS, {"command": "A", "idempotencyKey": "k"}, {}, True),
        ("POST", TASKS, {"command": "A"}, {"Idempotency-Key": "k"}, True),
        ("POST", f"{TASKS}/batch", {"tasks": [{"command": "A"}], "atomic": True, "idempotencyKey": "k"}, {}, True),
        ("POST", f"{TASKS}/batch", {"tasks": [{"command": "A", "idempotencyKey": "k"}]}, {}, False),
        ("POST", f"{TASKS}/claim", {}, {}, False),
        ("POST", f"{TASKS}/t1/result", {"status": "COMPLETED"}, {}, False),
    ],
)
async def test_idempotent_calls_are_marked_repeatable(
    served_inside: Served, method: str, target: str, body: object, headers: dict[str, str], *, repeatable: bool
) -> None:
    await served_inside.http.request(method, target, json=body, headers=headers)
    assert served_inside.double.calls[0].repeatable is repeatable
