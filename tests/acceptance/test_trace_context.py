"""Trace context of tasks: stored, delivered and shown, on every interface; never part of a request's identity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import codeq
import pytest
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import call, refused

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
OTHER = f"00-{TRACE}-b7ad6b7169203331-00"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the well-known token for everything."""
    with ServerProcess(tmp_path_factory.mktemp("trace")) as started:
        yield started


def created(server: ServerProcess, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Creates a task over REST and returns it."""
    answer = call(server, "POST", "/tasks", json=body, headers=headers)
    assert answer.status_code in {200, 202}, answer.text
    task: dict[str, Any] = answer.json()
    return task


def context_of(task: dict[str, Any]) -> tuple[str | None, str | None]:
    """Returns the trace context of a task in JSON."""
    return task.get("traceparent"), task.get("tracestate")


def test_trace_context_in_a_body_is_shown_claimed_and_listed(server: ServerProcess) -> None:
    made = created(server, {"command": "body", "traceparent": PARENT, "tracestate": STATE})
    plain = created(server, {"command": "body"})
    assert (context_of(made), context_of(plain)) == ((PARENT, STATE), (None, None))
    shown = call(server, "GET", f"/tasks/{made['id']}").json()
    listed = call(server, "GET", "/tasks?command=body").json()["tasks"]
    claimed = call(server, "POST", "/tasks/claim", json={"commands": ["body"]}).json()
    assert context_of(shown) == context_of(claimed) == (PARENT, STATE)
    assert [context_of(task) for task in listed] == [(PARENT, STATE), (None, None)]
    batch = call(server, "POST", "/tasks/batch", json={"tasks": [{"command": "body", "traceparent": OTHER}]})
    assert context_of(batch.json()["results"][0]["task"]) == (OTHER, None)


def test_trace_context_survives_a_restart_a_nack_and_a_redrive(server: ServerProcess) -> None:
    made = created(
        server, {"command": "life", "maxAttempts": 1, "delaySeconds": 1, "traceparent": PARENT, "tracestate": STATE}
    )
    server.kill()
    server.start()
    claim = {"commands": ["life"], "waitSeconds": 20}
    assert context_of(call(server, "POST", "/tasks/claim", json=claim).json()) == (PARENT, STATE)
    call(server, "POST", f"/tasks/{made['id']}/nack", json={"delaySeconds": 0})
    [dead] = call(server, "GET", "/admin/queues/life/dlq").json()["tasks"]
    assert context_of(dead) == (PARENT, STATE)
    assert context_of(call(server, "POST", f"/tasks/{made['id']}/redrive", json={}).json()) == (PARENT, STATE)
    assert context_of(call(server, "POST", "/tasks/claim", json=claim).json()) == (PARENT, STATE)


def test_headers_fill_in_for_a_body_without_trace_context(server: ServerProcess) -> None:
    headers = {"traceparent": PARENT, "tracestate": STATE}
    assert context_of(created(server, {"command": "head"}, **headers)) == (PARENT, STATE)
    assert context_of(created(server, {"command": "head"}, traceparent=PARENT)) == (PARENT, None)
    assert context_of(created(server, {"command": "head", "traceparent": OTHER}, **headers)) == (OTHER, None)
    assert context_of(created(server, {"command": "head", "tracestate": "a=1"}, **headers)) == (None, "a=1")


INVALID = [
    "",
    "x",
    PARENT.upper(),
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"{PARENT}-more",
    f"{PARENT}, {OTHER}",
    f"01-{TRACE}-{SPAN}-01-" + "x" * 200,
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}0-{SPAN}-01",
    f"00-{TRACE}-{SPAN}",
    f"ff-{TRACE}-{SPAN}-01-more",
    f"01-{'0' * 32}-{SPAN}-01",
    f"01-{TRACE}-{SPAN}-01more",
]
"""Not in the form of W3C Trace Context."""


@pytest.mark.parametrize("parent", INVALID)
def test_invalid_traceparent_header_is_ignored_with_its_tracestate(server: ServerProcess, parent: str) -> None:
    assert context_of(created(server, {"command": "bad"}, traceparent=parent, tracestate=STATE)) == (None, None)


@pytest.mark.parametrize("state", ["", "x" * 513])
def test_invalid_tracestate_header_is_ignored_without_its_traceparent(server: ServerProcess, state: str) -> None:
    assert context_of(created(server, {"command": "bad"}, traceparent=PARENT, tracestate=state)) == (PARENT, None)


def test_headers_of_later_versions_and_on_other_calls_are_accepted(server: ServerProcess) -> None:
    later = f"01-{TRACE}-{SPAN}-01-what-the-future-is"
    assert context_of(created(server, {"command": "new"}, traceparent=later)) == (later, None)
    assert context_of(created(server, {"command": "new", "traceparent": later})) == (later, None)
    for method, path in (("GET", "/tasks"), ("POST", "/tasks/claim")):
        body = None if method == "GET" else {"commands": ["new"]}
        answer = call(server, method, path, json=body, headers={"traceparent": OTHER, "tracestate": "broken"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [*(("traceparent", parent) for parent in INVALID), ("tracestate", "ü"), ("tracestate", "x" * 513)],
)
def test_invalid_trace_context_in_a_body_is_rejected_by_its_field(
    server: ServerProcess, field: str, value: str
) -> None:
    answer = call(server, "POST", "/tasks", json={"command": "bad", field: value})
    assert refused(answer, 400, "INVALID_FIELD")["details"][0]["field"] == field
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer, pytest.raises(codeq.InvalidField) as wrong:
        producer.create("bad", 1, **{field: value})  # type: ignore[arg-type]
    assert field in str(wrong.value)
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client, pytest.raises(codeq.InvalidField) as wrong:
        client.create("bad", 1, **{field: value})  # type: ignore[arg-type]
    assert field in str(wrong.value)


def test_request_repeated_in_another_trace_is_the_same_request(server: ServerProcess) -> None:
    body = {"command": "same", "idempotencyKey": "same-key", "traceparent": PARENT, "tracestate": STATE}
    first = created(server, body)
    for again in ({"traceparent": OTHER}, {"traceparent": OTHER, "tracestate": "a=1"}, {}):
        repeated = created(server, {"command": "same", "idempotencyKey": "same-key", **again})
        assert (repeated["id"], repeated["duplicate"]) == (first["id"], True)
        assert context_of(repeated) == (PARENT, STATE)
    batch = {"atomic": True, "idempotencyKey": "same-batch", "tasks": [{"command": "same", "traceparent": PARENT}]}
    other = {**batch, "tasks": [{"command": "same", "traceparent": OTHER}]}
    [one] = call(server, "POST", "/tasks/batch", json=batch).json()["results"]
    [two] = call(server, "POST", "/tasks/batch", json=other).json()["results"]
    assert (two["task"]["id"], two["task"]["duplicate"]) == (one["task"]["id"], True)


def test_python_sdk_sends_and_delivers_trace_context(server: ServerProcess) -> None:
    with codeq.Producer(server.producer_addr, token=DEV_TOKEN) as producer:
        producer.create("sdk", 1, traceparent=PARENT, tracestate=STATE)
        producer.create_batch([codeq.NewTask("sdk", 2, traceparent=OTHER), codeq.NewTask("sdk", 3)])
    with codeq.Client(server.producer_addr, token=DEV_TOKEN) as client:
        made = client.create("sdk", 4, traceparent=PARENT, tracestate=STATE)
        assert (made.traceparent, made.tracestate) == (PARENT, STATE)
    seen: dict[int, tuple[str | None, str | None]] = {}
    worker = codeq.Worker(server.worker_addr, token=DEV_TOKEN, concurrency=1)

    def handle(task: codeq.Task) -> None:
        seen[task.payload] = (task.traceparent, task.tracestate)
        if len(seen) == 4:
            worker.stop()

    worker.run(handle, commands=["sdk"], handle_signals=False)
    assert seen == {1: (PARENT, STATE), 2: (OTHER, None), 3: (None, None), 4: (PARENT, STATE)}
