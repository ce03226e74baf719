"""Result callbacks of a real server, delivered to a real receiver."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from callback_receiver import Received, Receiver
from server_process import DEV_TOKEN, ServerProcess

SECRET = "a secret of 24 characters"
NUMBERS = itertools.count()
FAST = {"RESULT_WEBHOOK_BASE_BACKOFF_SECONDS": "1", "RESULT_WEBHOOK_MAX_ATTEMPTS": "3"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose callbacks are tried three times, a second apart."""
    env = {"WEBHOOK_HMAC_SECRET": SECRET, **FAST}
    with ServerProcess(tmp_path_factory.mktemp("callbacks"), env=env) as started:
        yield started


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A receiver that accepts everything, unless a test says otherwise for its own path."""
    with Receiver() as started:
        yield started


def rest(server: ServerProcess, method: str, path: str, body: object = None, **query: Any) -> tuple[int, Any]:
    """Makes one HTTP call; returns status and body."""
    headers = {"Authorization": f"Bearer {DEV_TOKEN}"}
    url = f"{server.http_url}/v1/codeq{path}"
    answer = httpx.request(method, url, headers=headers, json=body, params=query, timeout=30)
    return answer.status_code, answer.json() if answer.content else None


def create(server: ServerProcess, receiver: Receiver, **fields: object) -> tuple[str, str, str]:
    """Creates a task with a path of its own at the receiver; returns its id, command and path."""
    name = f"c{next(NUMBERS)}"
    body = {"command": name, "webhook": f"{receiver.url}/{name}", **fields}
    status, task = rest(server, "POST", "/tasks", body)
    assert status == 202, task
    assert task["webhook"] == body["webhook"]
    return task["id"], name, f"/{name}"


def claim(server: ServerProcess, command: str) -> str:
    status, task = rest(server, "POST", "/tasks/claim", {"commands": [command], "waitSeconds": 5})
    assert status == 200
    return str(task["id"])


def end(server: ServerProcess, command: str, **fields: object) -> str:
    task_id = claim(server, command)
    status, answer = rest(server, "POST", f"/tasks/{task_id}/result", fields)
    assert status == 200, answer
    return task_id


def test_completed_task_is_reported_with_its_result_byte_for_byte(server: ServerProcess, receiver: Receiver) -> None:
    task_id, command, path = create(server, receiver)
    claim(server, command)
    headers = {"Authorization": f"Bearer {DEV_TOKEN}", "Content-Type": "application/json"}
    raw = b'{"status": "COMPLETED", "result": {"a" : 1.50,  "b":[ ]}}'
    answer = httpx.post(f"{server.http_url}/v1/codeq/tasks/{task_id}/result", content=raw, headers=headers)
    assert answer.status_code == 200
    (got,) = receiver.wait(path)
    assert list(got.json) == [
        *("taskId", "eventType", "status", "result", "error"),
        *("artifacts", "completedAt", "deliveryId", "attempt", "tenant"),
    ]
    assert b'"result": {"a" : 1.50,  "b":[ ]}, ' in got.body
    told = got.json
    assert (told["taskId"], told["eventType"], told["status"]) == (task_id, command, "COMPLETED")
    assert (told["error"], told["artifacts"], told["attempt"], told["tenant"]) == ("", [], 1, "dev-tenant")
    assert told["completedAt"] == answer.json()["completedAt"]
    assert told["deliveryId"] == got.headers["webhook-id"]


def test_callback_is_signed_over_time_and_body(server: ServerProcess, receiver: Receiver) -> None:
    _, command, path = create(server, receiver)
    end(server, command, status="COMPLETED")
    (got,) = receiver.wait(path)
    sent_at = got.headers["x-codeq-timestamp"]
    signature = hmac.new(SECRET.encode(), f"{sent_at}.".encode() + got.body, hashlib.sha256).hexdigest()
    assert got.headers["x-codeq-signature"] == signature
    assert abs(int(sent_at) - got.at) < 5
    assert got.headers["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize("how", ["FAILED", "DLQ", "CANCELLED", "EXPIRED"])
def test_task_that_ends_otherwise_is_reported_once_with_status_and_error(
    how: str, server: ServerProcess, receiver: Receiver
) -> None:
    more = {"maxAttempts": 2} if how == "DLQ" else {"expireSeconds": 1} if how == "EXPIRED" else {}
    task_id, command, path = create(server, receiver, **more)
    if how == "FAILED":
        end(server, command, status="FAILED", error="no such bücket")
    elif how == "CANCELLED":
        assert rest(server, "POST", f"/tasks/{task_id}/cancel", {"reason": "not needed"})[0] == 200
    elif how == "DLQ":
        for _ in range(2):
            claim(server, command)
            assert not receiver.of(path)  # a nack that is not the last one reports nothing
            assert rest(server, "POST", f"/tasks/{task_id}/nack", {"delaySeconds": 0, "reason": "busy"})[0] == 200
    (got,) = receiver.wait(path)
    errors = {"FAILED": "no such bücket", "DLQ": "busy", "CANCELLED": "not needed", "EXPIRED": "EXPIRED"}
    assert got.json["status"] == ("FAILED" if how == "EXPIRED" else how)
    assert got.json["error"] == errors[how]
    assert got.json["result"] is None


def test_callback_is_repeated_with_its_id_until_the_receiver_accepts_it(
    server: ServerProcess, receiver: Receiver
) -> None:
    _, command, path = create(server, receiver)
    seen: list[Received] = []

    def answer(request: Received) -> int:
        if request.path != path:
            return 200
        seen.append(request)
        return 503 if len(seen) < 3 else 204

    receiver.answer = answer
    end(server, command, status="COMPLETED")
    got = receiver.wait(path, 3)
    assert [each.json["attempt"] for each in got] == [1, 2, 3]
    assert len({each.headers["webhook-id"] for each in got}) == 1
    assert got[1].at - got[0].at >= 1
    assert got[2].at - got[1].at >= 2


def test_url_that_leads_inside_or_is_none_is_rejected_by_name(server: ServerProcess) -> None:
    for url in ("http://10.0.0.1/hook", "ftp://example.com/", "https://", "http://user:pass@example.com/"):
        status, answer = rest(server, "POST", "/tasks", {"command": "x", "webhook": url})
        assert status == 400, answer
        assert "webhook" in answer["error"]


def test_callbacks_survive_a_kill_and_are_delivered_after_the_restart(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, env=FAST) as server, Receiver() as receiver:
        receiver.answer = lambda _: 500
        made = [create(server, receiver) for _ in range(20)]
        for _, command, _ in made:
            end(server, command, status="COMPLETED")
        server.kill()
        receiver.answer = lambda _: 200
        receiver.requests.clear()
        server.start()
        for task_id, _, path in made:
            got = receiver.wait(path)
            assert got[0].json["taskId"] == task_id
