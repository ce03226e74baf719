"""Calls of the services over HTTP: requests become messages, and messages become replies."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from codeq.v1 import task_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from served_gateway import Served, serving
from task_double import CREATED, CREATED_SECONDS

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: RawNumber(str(number)))
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@dataclass(frozen=True)
class RawNumber:
    """A number that no float can represent.

    Attributes:
        digits: Its JSON text.
    """

    digits: str


def _text(value: object, pretty: str) -> str:
    """Returns a JSON value as text, with `pretty` as white space between its parts."""
    if isinstance(value, RawNumber):
        return value.digits
    if isinstance(value, list):
        return f"[{pretty}" + f"{pretty},{pretty}".join(_text(item, pretty) for item in value) + f"{pretty}]"
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key, ensure_ascii=False)}{pretty}:{_text(item, pretty)}" for key, item in value.items())
        return f"{{{pretty}" + f",{pretty}".join(pairs) + f"{pretty}}}"
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("body", [{}, {"idempotencyKey": "k 1"}])
async def test_idempotency_key_header_fills_the_body_field(served: Served, body: dict[str, str]) -> None:
    headers = {"Idempotency-Key": "k 1"}
    answer = await served.http.post("/v1/codeq/tasks", json={"command": "c", **body}, headers=headers)
    assert served.double.requests[-1].spec.idempotency_key == "k 1"
    assert (answer.status_code, answer.json()["duplicate"]) == (200, True)
    batch = {"tasks": [{"command": "c"}], "atomic": True}
    await served.http.post("/v1/codeq/tasks/batch", json=batch, headers=headers)
    assert served.double.requests[-1].idempotency_key == "k 1"


async def test_trace_headers_fill_the_fields_of_a_task_and_repeated_states_are_one(served: Served) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = [("Traceparent", parent), ("tracestate", "a=1"), ("Tracestate", "b=2")]
    await served.http.post("/v1/codeq/tasks", json={"command": "c"}, headers=headers)
    spec = served.double.requests[-1].spec
    assert (spec.traceparent, spec.tracestate) == (parent, "a=1, b=2")
    repeated = [("traceparent", parent), ("traceparent", parent)]
    assert (await served.http.post("/v1/codeq/tasks", json={"command": "c"}, headers=repeated)).status_code == 202
    assert not served.double.requests[-1].spec.HasField("traceparent")


async def test_task_goes_from_creation_to_completion_over_http(served: Served) -> None:
    created = await served.http.post(
        "/v1/codeq/tasks", json={"command": "PROCESS_ORDER", "payload": {"orderId": "42"}, "priority": 5}
    )
    assert created.status_code == 202
    assert created.headers["content-type"] == "application/json"
    assert created.json() == {
        "id": "t1",
        "command": "PROCESS_ORDER",
        "payload": {"orderId": "42"},
        "priority": 5,
        "status": "PENDING",
        "tenantId": "tenant",
        "attempts": 0,
        "maxAttempts": 5,
        "createdAt": CREATED,
        "updatedAt": CREATED,
    }
    claimed = await served.http.post("/v1/codeq/tasks/claim", json={"commands": ["PROCESS_ORDER"], "leaseSeconds": 60})
    assert claimed.status_code == 200
    assert claimed.json()["status"] == "CLAIMED"
    assert claimed.json()["leaseToken"] == "18446744073709551615"
    ended = await served.http.post("/v1/codeq/tasks/t1/result", json={"status": "COMPLETED", "result": {"ok": True}})
    assert ended.status_code == 200
    assert ended.json() == {
        "taskId": "t1",
        "status": "COMPLETED",
        "result": {"ok": True},
        "completedAt": "2023-11-14T22:13:20.007Z",
        "artifacts": [],
    }


def test_every_json_value_is_returned_byte_for_byte() -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        served = runner.run(stack.enter_async_context(serving()))

        @settings(max_examples=100, deadline=None)
        @given(value=JSON_VALUES, pretty=st.sampled_from(["", " ", "\n\t", " \r\n"]))
        def round_trip(value: object, pretty: str) -> None:
            payload = _text(value, pretty).encode()
            body = b'{"command":"c","payload":' + pretty.encode() + payload + pretty.encode() + b"}"
            answer = runner.run(served.http.post("/v1/codeq/tasks", content=body))
            assert answer.status_code == 202, answer.text
            assert b'"payload":' + payload + b',"priority"' in answer.content
            assert served.double.requests[-1].spec.payload == payload

        try:
            round_trip()
        finally:
            runner.run(stack.aclose())


@pytest.mark.parametrize(
    "value",
    [
        b"null",
        b"1.0",
        b"1e400",
        b"-0",
        b"123456789012345678901234567890.10",
        b'"\\u00e9\\/"',
        '"é😀"'.encode(),
        b'{"a":1,"a":2}',
        b"[ 1 , [ ] ]",
    ],
)
async def test_payload_and_result_keep_their_exact_json_text(served: Served, value: bytes) -> None:
    created = await served.http.post("/v1/codeq/tasks", content=b'{"command":"c","payload":%b}' % value)
    assert b'"payload":%b,' % value in created.content
    ended = await served.http.post("/v1/codeq/tasks/t1/result", content=b'{"status":"COMPLETED","result":%b}' % value)
    assert b'"result":%b,' % value in ended.content


async def test_absent_payload_is_null_and_absent_result_is_omitted(served: Served) -> None:
    created = await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    assert served.double.requests[0].spec.payload == b""
    assert created.json()["payload"] is None
    ended = await served.http.post("/v1/codeq/tasks/t1/result", json={"status": "FAILED", "error": "broken"})
    assert "result" not in ended.json()
    assert not served.double.requests[1].HasField("result")


async def test_null_means_absent_except_in_the_payload(served: Served) -> None:
    body = {"command": "c", "payload": None, "maxAttempts": None, "priority": None, "runAt": None}
    await served.http.post("/v1/codeq/tasks", json=body)
    spec = served.double.requests[0].spec
    assert spec == task_pb2.TaskSpec(command="c", payload=b"null")


async def test_times_with_an_offset_are_converted_to_utc(served: Served) -> None:
    await served.http.post("/v1/codeq/tasks", json={"command": "c", "runAt": "2023-11-14T23:13:20.25+01:00"})
    run_at = served.double.requests[0].spec.run_at
    assert (run_at.seconds, run_at.nanos) == (CREATED_SECONDS, 250_000_000)


@pytest.mark.parametrize("token", [b'"18446744073709551615"', b"18446744073709551615"])
async def test_lease_token_is_accepted_as_string_and_as_number(served: Served, token: bytes) -> None:
    await served.http.post("/v1/codeq/tasks", json={"command": "c"})
    body = b'{"leaseToken":%b,"extendSeconds":90}' % token
    answer = await served.http.post("/v1/codeq/tasks/t1/heartbeat", content=body)
    assert answer.json() == {"leaseToken": "0", "leaseUntil": "2023-11-14T22:14:50.000Z"}
    request = served.double.requests[1]
    assert (request.task_id, request.lease_token, request.extend_seconds) == ("t1", 2**64 - 1, 90)


async def test_worker_id_of_any_type_is_ignored(served: Served) -> None:
    for worker_id in (b'"w1"', b"7", b'{"a":[null]}', b"null"):
        body = b'{"status":"COMPLETED","workerId":%b}' % worker_id
        assert (await served.http.post("/v1/codeq/tasks/t1/result", content=body)).status_code == 200
        assert served.double.requests[-1].worker_id == ""


async def test_claim_on_an_empty_queue_returns_no_content(served: Served) -> None:
    for path, body in (("claim", {}), ("claim/batch", {"count": 3})):
        answer = await served.http.post(f"/v1/codeq/tasks/{path}", json=body)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "content-type" not in answer.headers


async def test_empty_body_is_read_as_an_empty_object(served: Served) -> None:
    answer = await served.http.post("/v1/codeq/tasks/claim")
    assert answer.status_code == 204
    assert served.double.requests[0].commands == []


async def test_batch_reply_lists_items_in_request_order(served: Served) -> None:
    tasks = [{"command": "a", "payload": [1]}, {"payload": 2}, {"command": "b", "maxAttempts": 2}]
    created = (await served.http.post("/v1/codeq/tasks/batch", json={"tasks": tasks})).json()["results"]
    assert [answer.get("task", {}).get("id") for answer in created] == ["t1", None, "t2"]
    assert created[1] == {"error": {"index": 1, "reason": "INVALID_FIELD", "message": "no command"}}
    claimed = (await served.http.post("/v1/codeq/tasks/claim/batch", json={"count": 5})).json()["tasks"]
    assert [task["id"] for task in claimed] == ["t1", "t2"]
    results = [{"taskId": "t1", "status": "COMPLETED", "result": 1.0}, {"taskId": "t2", "status": "FAILED"}]
    ended = (await served.http.post("/v1/codeq/tasks/batch/results", json={"results": results})).json()["results"]
    assert [(answer["taskId"], answer["result"]["status"]) for answer in ended] == [
        ("t1", "COMPLETED"),
        ("t2", "FAILED"),
    ]


async def test_empty_lists_and_zero_numbers_are_included_in_replies(served: Served) -> None:
    listed = await served.http.get("/v1/codeq/admin/queues")
    assert listed.json() == {"queues": [], "nextPageToken": ""}
    one = await served.http.get("/v1/codeq/admin/queues/A.b")
    assert one.content == (
        b'{"command":"A.b","ready":9007199254740993,"scheduled":0,"claimed":0,"dlq":0,"oldestAgeSeconds":1.5,'
        b'"paused":false,"createdRate":0.0,"completedRate":0.0,"purging":false,"failedTotal":0}\n'
    )
    server = await served.http.get("/v1/codeq/server")
    assert server.json()["fsync"] is True
    assert server.json()["numShards"] == 0


async def test_query_and_path_parameters_fill_the_request(served: Served) -> None:
    await served.http.get("/v1/codeq/admin/queues?pageSize=7&pageToken=a%2Bb+c")
    request = served.double.requests[0]
    assert (request.page_size, request.page_token) == (7, "a+b c")
    await served.http.get("/v1/codeq/admin/queues/a%2Fb%20%C3%A9")
    assert served.double.requests[1].command == "a/b é"


async def test_task_id_may_equal_a_path_keyword(served: Served) -> None:
    answer = await served.http.get("/v1/codeq/tasks/claim")
    assert answer.json()["reason"] == "TASK_NOT_FOUND"
    assert served.double.requests[0].task_id == "claim"


async def test_call_carries_token_request_id_and_timeout(served_inside: Served) -> None:
    headers = {"Authorization": "Bearer secret", "X-Request-Id": "abc:1.2_3-4"}
    answer = await served_inside.http.post("/v1/codeq/tasks/claim", json={"waitSeconds": 20}, headers=headers)
    call = served_inside.double.calls[0]
    assert (call.method, call.authorization) == ("/codeq.v1.TaskService/ClaimTask", "Bearer secret")
    assert (call.request_id, call.timeout_seconds) == ("abc:1.2_3-4", 50)
    assert answer.headers["x-request-id"] == "abc:1.2_3-4"
    await served_inside.http.get("/v1/codeq/tasks/t1")
    assert (served_inside.double.calls[1].authorization, served_inside.double.calls[1].timeout_seconds) == ("", 30)


@pytest.mark.parametrize("sent", [None, "", "a b", "x" * 129, "é"])
async def test_missing_or_malformed_request_id_is_replaced(served: Served, sent: str | None) -> None:
    headers = {} if sent is None else {b"X-Request-Id": sent.encode()}
    seen = [(await served.http.get("/v1/codeq/tasks/t1", headers=headers)).headers["x-request-id"] for _ in range(2)]
    assert all(len(made) == 32 and int(made, 16) >= 0 for made in seen)
    assert seen[0] != seen[1]
