"""Malformed requests: the error names the field and says which values are accepted; no service is called."""

from __future__ import annotations

import pytest
from codeq import reasons
from codeq.v1 import error_pb2
from codeq_gateway.dispatch import CallFailed
from served_gateway import Served, serving

JSON = {"content-type": "application/json"}
TASKS = "/v1/codeq/tasks"
RESULT = "/v1/codeq/tasks/t1/result"
BATCH = "/v1/codeq/tasks/batch"
QUEUES = "/v1/codeq/admin/queues"
CLAIM = "/v1/codeq/tasks/claim"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (TASKS, b'{"command":"c","payload":1,"colour":"red"}', "colour"),
        (TASKS, b'{"max_attempts":1}', "max_attempts"),
        (TASKS, b'{"spec":{}}', "spec"),
        (TASKS, b'{"idempotencyKey":5}', "idempotencyKey"),
        (TASKS, b'{"command":5}', "command"),
        (TASKS, b'{"priority":"5"}', "priority"),
        (TASKS, b'{"priority":5.5}', "priority"),
        (TASKS, b'{"priority":true}', "priority"),
        (TASKS, b'{"priority":2147483648}', "priority"),
        (TASKS, b'{"priority":-2147483649}', "priority"),
        (TASKS, b'{"delaySeconds":[]}', "delaySeconds"),
        (TASKS, b'{"runAt":"tomorrow"}', "runAt"),
        (TASKS, b'{"runAt":"2024-01-01T00:00:00"}', "runAt"),
        (TASKS, b'{"runAt":1700000000}', "runAt"),
        (TASKS, b'{"runAt":"0001-01-01T00:00:00+01:00"}', "runAt"),
        (TASKS, b'{"runAt":"9999-12-31T23:59:59-01:00"}', "runAt"),
        (TASKS, b'{"payload":"\xff"}', "payload"),
        (TASKS, b'{"payload":{"\xc3":1}}', "payload"),
        (BATCH, b'{"tasks":[{"command":"c"}],"tasks":[{"command":"c"}]}', "tasks"),
        (BATCH, b'{"tasks":[{"command":"c"}],"task\\u0073":[{"command":"c"}]}', "tasks"),
        (CLAIM, b'{"commands":["a"],"command\\u0073":["b"]}', "commands"),
        (CLAIM, b'{"commands":[' + b",".join([b'"a"'] * 257) + b"]}", "commands"),
        (CLAIM, b'{"commands":[' + b",".join([b'"a"'] * 5000) + b"]}", "commands"),
        (RESULT, b'{"status":"DONE"}', "status"),
        (RESULT, b'{"status":"UNSPECIFIED"}', "status"),
        (RESULT, b'{"status":"TASK_STATUS_COMPLETED"}', "status"),
        (RESULT, b'{"status":4}', "status"),
        (RESULT, b'{"leaseToken":"x"}', "leaseToken"),
        (RESULT, b'{"leaseToken":-1}', "leaseToken"),
        (RESULT, b'{"leaseToken":1.5}', "leaseToken"),
        (RESULT, b'{"leaseToken":"18446744073709551616"}', "leaseToken"),
        (RESULT, b'{"leaseToken":18446744073709551616}', "leaseToken"),
        (RESULT, b'{"taskId":"t2"}', "taskId"),
        (CLAIM, b'{"commands":"c"}', "commands"),
        (CLAIM, b'{"commands":["a",null]}', "commands[1]"),
        (BATCH, b'{"tasks":{}}', "tasks"),
        (BATCH, b'{"atomic":true,"tasks":[{},{"colour":1}]}', "tasks[1].colour"),
        (BATCH, b'{"atomic":true,"tasks":[{"priority":"x"}]}', "tasks[0].priority"),
        (BATCH, b'{"atomic":true,"tasks":[{"max_attempts":1}]}', "tasks[0].max_attempts"),
        (BATCH, b'{"atomic":true,"tasks":[{},{},{"payload":"\xff"}]}', "tasks[2].payload"),
    ],
)
async def test_error_names_the_malformed_field(served: Served, path: str, body: bytes, field: str) -> None:
    answer = await served.http.post(path, content=body, headers=JSON)
    refused = answer.json()
    assert (answer.status_code, refused["code"], refused["reason"]) == (400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert field in refused["error"]
    assert [detail["field"] for detail in refused["details"]] == [field]
    assert refused["details"][0]["description"]
    assert served.double.calls == []


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        (TASKS, '{"command":5}', "command: must be text"),
        (TASKS, '{"priority":"x"}', "priority: must be a whole number from 0 to 9"),
        (TASKS, '{"priority":0.5}', "priority: must be a whole number from 0 to 9"),
        (TASKS, '{"runAt":"soon"}', "runAt: must be a time with a time zone, such as 2030-01-31T12:00:00Z"),
        (BATCH, '{"tasks":{}}', "tasks: must be a list"),
        (BATCH, '{"atomic":true,"tasks":[5]}', "tasks[0]: must be an object"),
        (BATCH, '{"atomic":"yes"}', "atomic: must be true or false"),
        (f"{CLAIM}/batch", '{"commands":["a",5]}', "commands[1]: must be text"),
        ("/v1/codeq/tasks/t1/nack", '{"delaySeconds":"x"}', "delaySeconds: must be a whole number, 0 or more"),
        (RESULT, '{"status":"DONE"}', "status: must be COMPLETED or FAILED"),
        (RESULT, '{"leaseToken":"x"}', "leaseToken: must be a whole number from 0 to 18446744073709551615"),
        (RESULT, '{"artifacts":[{"name":"a","contentBase64":"*"}]}', "artifacts[0].contentBase64: must be base64"),
        (f"{QUEUES}/c/dlq/redrive", '{"status":"x"}', "status: must be FAILED, DLQ or CANCELLED"),
        (TASKS, "[]", "the body must be one JSON object"),
        (TASKS, "{,}", "the body is not valid JSON: object keys must be strings (byte 1)"),
    ],
)
async def test_error_says_which_values_the_field_accepts(
    served_inside: Served, path: str, body: str, error: str
) -> None:
    answer = await served_inside.http.post(path, content=body, headers=JSON)
    assert answer.json()["error"] == error


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("pageSize=x", "pageSize: must be a whole number from 0 to 500"),
        ("pageSize=1&pageSize=2", "pageSize: must not be given more than once"),
        ("status=x", "status: must be PENDING, SCHEDULED, CLAIMED, COMPLETED, FAILED, DLQ or CANCELLED"),
    ],
)
async def test_error_says_which_values_the_parameter_accepts(served_inside: Served, query: str, error: str) -> None:
    answer = await served_inside.http.get(f"{TASKS}?{query}")
    assert answer.json()["error"] == error


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"command":"c"',
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"{} {}",
        b"{'command':1}",
        b'{"command":"c",}',
        b'{"payload":01}',
        b'{"payload":[1,]}',
        b'{"payload":NaN}',
        b'{"payload":"\\x"}',
        b'{"payload":"a\nb"}',
        b'{"command":"\xff"}',
        b'\xef\xbb\xbf{"command":"c"}',
        b'{"payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_malformed_json_is_rejected(served: Served, body: bytes) -> None:
    answer = await served.http.post(TASKS, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_BODY")
    assert answer.json()["details"] == []
    assert served.double.calls == []


async def test_malformed_json_in_an_ignored_field_is_rejected(served: Served) -> None:
    answer = await served.http.post(RESULT, content=b'{"workerId":nope}')
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_BODY")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json2", "x"])
async def test_content_type_other_than_json_is_rejected(served: Served, content_type: str) -> None:
    answer = await served.http.post(TASKS, content=b"{}", headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_BODY")


async def test_json_in_another_charset_is_rejected(served: Served) -> None:
    answer = await served.http.post(TASKS, content=b"{}", headers={"content-type": "application/json; charset=latin-1"})
    assert answer.json()["reason"] == "INVALID_BODY"


@pytest.mark.parametrize("value", ["gzip", ""])
async def test_compressed_body_is_rejected(served: Served, value: str) -> None:
    head = f"POST {TASKS} HTTP/1.1\r\nhost: h\r\ncontent-encoding: {value}\r\nconnection: close\r\n\r\n".encode()
    answer = await served.exchange(head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"reason":"INVALID_BODY"' in answer
    assert b"content-encoding" in answer
    assert served.double.calls == []


@pytest.mark.parametrize("header", ["Authorization", "Content-Type", "Host", "Idempotency-Key"])
async def test_repeated_header_is_rejected(served: Served, header: str) -> None:
    head = f"POST {TASKS} HTTP/1.1\r\n{header}: application/json\r\n{header.upper()}: other\r\n\r\n"
    answer = await served.exchange(head.encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert f"the header {header.lower()} is given more than once".encode() in answer
    assert served.double.calls == []


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "Application/JSON",
        "application/json; charset=UTF-8",
        'application/json;charset="utf-8"',
    ],
)
async def test_json_content_types_are_accepted(served: Served, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    assert (await served.http.post(TASKS, content=b'{"command":"c"}', headers=headers)).status_code == 202


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("pageSize=many", "pageSize"),
        ("pageSize=", "pageSize"),
        ("pageSize=1.5", "pageSize"),
        ("pageSize=99999999999", "pageSize"),
        ("pageSize=1&pageSize=2", "pageSize"),
        ("page_size=1", "page_size"),
        ("colour=red", "colour"),
        ("colour", "colour"),
        ("pageToken=%FF", "pageToken"),
        ("%FF=1", "query"),
    ],
)
async def test_error_names_the_malformed_query_parameter(served: Served, query: str, field: str) -> None:
    answer = await served.http.get(f"{QUEUES}?{query}")
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_FIELD")
    assert answer.json()["details"][0]["field"] == field
    assert served.double.calls == []


async def test_query_on_an_operation_without_parameters_is_rejected(served: Served) -> None:
    answer = await served.http.post(f"{TASKS}?priority=5", json={"command": "c"})
    assert answer.json()["details"][0]["field"] == "priority"


@pytest.mark.parametrize("sent", [b"other", b"k\xff"])
async def test_idempotency_key_header_that_differs_from_the_body_is_rejected(served: Served, sent: bytes) -> None:
    body = {"command": "c", "idempotencyKey": "k"}
    answer = await served.http.post(TASKS, json=body, headers={b"Idempotency-Key": sent})
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_FIELD")
    assert answer.json()["details"][0]["field"] == "Idempotency-Key"
    assert served.double.calls == []


@pytest.mark.parametrize("path", [RESULT, f"{TASKS}/claim"])
async def test_idempotency_key_header_on_an_operation_without_keys_is_rejected(served: Served, path: str) -> None:
    answer = await served.http.post(path, json={}, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_FIELD")
    assert answer.json()["details"][0]["field"] == "Idempotency-Key"
    assert served.double.calls == []


async def test_body_on_an_operation_without_a_body_is_rejected(served: Served) -> None:
    answer = await served.http.request("GET", f"{TASKS}/t1", content=b"{}")
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_BODY")


async def test_path_that_is_not_utf8_is_rejected(served: Served) -> None:
    answer = await served.http.get(f"{TASKS}/%FF")
    assert (answer.status_code, answer.json()["reason"]) == (400, "INVALID_FIELD")


@pytest.mark.parametrize(
    "path", ["/", "/v1/codeq", "/v1/codeq/tasks/", "/v1/codeq/tasks/t1/none", "/v1/codeq/Tasks", "//healthz"]
)
async def test_unknown_path_is_not_found(served: Served, path: str) -> None:
    answer = await served.http.get(f"http://127.0.0.1:{served.port}{path}")
    assert (answer.status_code, answer.json()["code"], answer.json()["reason"]) == (
        404,
        "UNIMPLEMENTED",
        "ROUTE_NOT_FOUND",
    )


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", TASKS, "GET, HEAD, OPTIONS, POST"),
        ("DELETE", f"{TASKS}/t1", "GET, HEAD, OPTIONS"),
        ("DELETE", RESULT, "GET, HEAD, OPTIONS, POST"),
        ("PUT", f"{TASKS}/claim", "GET, HEAD, OPTIONS, POST"),
        ("HEAD", f"{TASKS}/t1/nack", "OPTIONS, POST"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_wrong_method_is_rejected_with_the_allowed_methods(
    served: Served, method: str, path: str, allowed: str
) -> None:
    answer = await served.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        assert answer.json()["reason"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize("reason", list(reasons.BY_NUMBER.values()), ids=lambda reason: reason.name)
async def test_failed_call_has_the_http_status_of_its_reason(served: Served, reason: reasons.Reason) -> None:
    served.double.failure = CallFailed(reason.number, "why", retry_after_seconds=1)
    answer = await served.http.get(f"{TASKS}/t1", headers={"X-Request-Id": "r1"})
    assert answer.status_code == reason.http_status
    assert answer.json() == {"error": "why", "code": reason.grpc_name, "reason": reason.name, "details": []}
    assert answer.headers.get("retry-after") == ("1" if reason.retryable and reason.http_status in (429, 503) else None)
    assert answer.headers.get("www-authenticate") == ("Bearer" if reason.http_status == 401 else None)
    assert answer.headers["x-request-id"] == "r1"


async def test_refusal_by_a_rate_limit_says_which_one_and_when_to_retry(served: Served) -> None:
    limit = {"scope": "producer", "operation": "create_task", "subject": "tenant"}
    served.double.failure = CallFailed(
        error_pb2.ERROR_REASON_RATE_LIMITED,
        "rate limit exceeded",
        retry_after_seconds=7,
        metadata={**limit, "retryAfterSeconds": "7"},
    )
    answer = await served.http.post(TASKS, json={"command": "A"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json() == {
        "error": "rate limit exceeded",
        "code": "RESOURCE_EXHAUSTED",
        "reason": "RATE_LIMITED",
        "details": [],
        **limit,
        "retryAfterSeconds": 7,
    }


@pytest.mark.parametrize("reason", [error_pb2.ERROR_REASON_QUOTA_EXCEEDED, error_pb2.ERROR_REASON_TOO_MANY_QUEUES])
async def test_refusal_by_a_quota_says_which_one_and_its_limit(served: Served, reason: int) -> None:
    served.double.failure = CallFailed(reason, "no room", metadata={"quota": "queuesMax", "limit": "5"})
    answer = await served.http.post(TASKS, json={"command": "A"})
    assert answer.status_code == 429
    assert "retry-after" not in answer.headers
    assert answer.json() == {
        "error": "no room",
        "code": "RESOURCE_EXHAUSTED",
        "reason": reasons.BY_NUMBER[reason].name,
        "details": [],
        "quota": "queuesMax",
        "limit": 5,
    }


async def test_retry_after_is_rounded_to_whole_seconds(served_inside: Served) -> None:
    served_inside.double.failure = CallFailed(error_pb2.ERROR_REASON_DRAINING, "stopping", retry_after_seconds=1.2)
    assert (await served_inside.http.get(f"{TASKS}/t1")).headers["retry-after"] == "2"


async def test_retry_after_defaults_to_one_second(served: Served) -> None:
    served.double.failure = CallFailed(error_pb2.ERROR_REASON_DRAINING, "stopping")
    assert (await served.http.get(f"{TASKS}/t1")).headers["retry-after"] == "1"


async def test_violations_use_json_field_names(served: Served) -> None:
    violations = [("spec.max_attempts", "too many"), ("spec", "missing"), ("tenant", "unknown")]
    served.double.failure = CallFailed(error_pb2.ERROR_REASON_INVALID_FIELD, "bad", violations)
    answer = await served.http.post(TASKS, json={})
    assert [detail["field"] for detail in answer.json()["details"]] == ["maxAttempts", "", "tenant"]
    assert answer.json()["error"] == "maxAttempts: too many; missing; tenant: unknown"
    served.double.failure = CallFailed(error_pb2.ERROR_REASON_INVALID_FIELD, "bad", [("tasks[3].run_at", "early")])
    answer = await served.http.post(BATCH, json={})
    assert answer.json()["details"] == [{"field": "tasks[3].runAt", "description": "early"}]


async def test_defect_is_reported_as_an_internal_error_without_details(served: Served) -> None:
    served.double.failure = RuntimeError("the secret cause")
    answer = await served.http.get(f"{TASKS}/t1")
    assert (answer.status_code, answer.json()["reason"], answer.json()["code"]) == (500, "INTERNAL", "INTERNAL")
    assert "secret" not in answer.text
    served.double.failure = None
    assert (await served.http.post(TASKS, json={"command": "c"})).status_code == 202


async def test_long_field_names_are_truncated_in_errors(served: Served) -> None:
    answer = await served.http.post(TASKS, json={"x" * 100_000: 1})
    assert answer.json()["details"][0]["field"].startswith("xxx")
    assert len(answer.content) < 1_000


async def test_host_names_outside_the_configured_list_are_rejected() -> None:
    async with serving(allowed_hosts=frozenset({"localhost", "127.0.0.1", "[::1]"})) as served:
        for host in ("localhost", f"localhost:{served.port}", "LOCALHOST", "127.0.0.1:1", "[::1]", "[::1]:8080"):
            assert (await served.http.get("/healthz", headers={"Host": host})).status_code == 200
        for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "[::2]", ""):
            answer = await served.http.get("/healthz", headers={"Host": host})
            assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, "Host")


@pytest.mark.parametrize("padding", [0, 5000])
async def test_only_the_batch_item_with_too_many_entries_is_rejected(served: Served, padding: int) -> None:
    created = [(await served.http.post("/v1/codeq/tasks", json={"command": "c"})).json()["id"] for _ in range(2)]
    good = {"taskId": created[0], "status": "COMPLETED", "result": "," * padding}
    bad = {"taskId": created[1], "status": "COMPLETED", "artifacts": [{"name": f"a{n}"} for n in range(17)]}
    answer = await served.http.post("/v1/codeq/tasks/batch/results", json={"results": [good, bad]})
    first, second = answer.json()["results"]
    assert (answer.status_code, first["result"]["status"]) == (200, "COMPLETED")
    assert (second["taskId"], second["error"]["reason"]) == (created[1], "INVALID_FIELD")
    assert second["error"]["message"] == "artifacts: must have at most 16 items"
