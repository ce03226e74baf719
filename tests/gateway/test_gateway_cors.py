"""CORS: replies to web pages of allowed and of other origins."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from codeq.v1 import error_pb2
from codeq_gateway.dispatch import CallFailed
from served_gateway import Served, serving

PAGE = "https://console.example"
TASKS = "/v1/codeq/tasks"
ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


@pytest.fixture(params=["inside", "apart"])
async def named(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """A gateway that web pages of two origins may call."""
    origins = [PAGE, "http://localhost:3000"]
    async with serving(apart=request.param == "apart", cors_origins=origins) as running:
        yield running


def _told(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
async def test_preflight_from_an_allowed_origin_lists_allowed_methods_and_headers(named: Served, origin: str) -> None:
    answer = await named.http.options(TASKS, headers={"Origin": origin, **ASKED})
    assert (answer.status_code, answer.headers["vary"], answer.content) == (204, "Origin", b"")
    told = _told(answer)
    assert told["access-control-allow-origin"] == origin
    assert told["access-control-allow-methods"] == answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    allowed = told["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "idempotency-key", "traceparent", "tracestate"} < set(allowed)
    assert told["access-control-max-age"] == "600"
    assert named.double.calls == []


async def test_allowed_origin_can_read_replies_and_rejections(named: Served) -> None:
    page = {"Origin": PAGE}
    made = await named.http.post(TASKS, json={"command": "c"}, headers=page)
    refused = await named.http.post(TASKS, json={"no": 1}, headers=page)
    missing = await named.http.get("/nowhere", headers=page)
    named.double.failure = CallFailed(error_pb2.ERROR_REASON_UNAUTHENTICATED, "no token")
    unknown = await named.http.get(f"{TASKS}/t", headers=page)
    large = await named.http.post(TASKS, content=b" " * 2_000_000, headers=page)
    answers = [made, refused, missing, unknown, large]
    assert [answer.status_code for answer in answers] == [202, 400, 404, 401, 413]
    for answer in answers:
        assert _told(answer)["access-control-allow-origin"] == PAGE
        assert "X-Request-Id" in _told(answer)["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "https://console.example:8443", "http://console.example", "*", ""]
)
async def test_disallowed_origin_gets_no_cors_headers(named: Served, origin: str) -> None:
    asked = await named.http.options(TASKS, headers={"Origin": origin, **ASKED})
    got = await named.http.get("/healthz", headers={"Origin": origin})
    assert (asked.status_code, got.status_code) == (204, 200)
    assert _told(asked) == _told(got) == {}
    assert got.headers["vary"] == "Origin"


async def test_no_cors_headers_are_sent_without_configured_origins(served: Served) -> None:
    asked = await served.http.options(TASKS, headers={"Origin": PAGE, **ASKED})
    got = await served.http.get("/healthz", headers={"Origin": PAGE})
    assert (asked.status_code, _told(asked), _told(got)) == (204, {}, {})
    assert "vary" not in got.headers
