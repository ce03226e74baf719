"""Result callbacks of a real server, delivered to a real receiver."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from callback_receiver import Received, Receiver
from codeq_server.webhooks.circuits import FAILURES_MAX
from server_process import DEV_TOKEN, ServerProcess

SECRET = "a secret of 24 characters"
NUMBERS = itertools.count()
TRIES = 3
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


def test_tasks_that_name_no_webhook_are_reported_to_that_of_their_policy(
    server: ServerProcess, receiver: Receiver
) -> None:
    command = f"c{next(NUMBERS)}"
    default = f"/default-{command}"
    rest(server, "PUT", f"/admin/topics/{command}", {"webhook": f"{receiver.url}{default}"})
    assert rest(server, "PUT", f"/admin/schedules/{command}", {"every": "1h", "command": command})[0] == 200
    assert rest(server, "POST", f"/admin/schedules/{command}/trigger")[0] == 200
    made = [end(server, command, status="COMPLETED")]
    task = rest(server, "POST", "/tasks", {"command": command})[1]
    assert task["webhook"] == f"{receiver.url}{default}"
    own = rest(server, "POST", "/tasks", {"command": command, "webhook": f"{receiver.url}/own-{command}"})[1]
    rest(server, "PUT", f"/admin/topics/{command}", {})
    made.append(end(server, command, status="FAILED", error="no"))
    assert end(server, command, status="COMPLETED") == own["id"]
    assert [each.json["taskId"] for each in receiver.wait(default, 2)] == made
    assert receiver.wait(f"/own-{command}")[0].json["taskId"] == own["id"]


@pytest.mark.parametrize("url", ["ftp://example.com/", "https://", "http://user:pass@example.com/"])
def test_task_with_a_malformed_webhook_is_rejected_and_the_field_named(server: ServerProcess, url: str) -> None:
    status, answer = rest(server, "POST", "/tasks", {"command": "x", "webhook": url})
    assert (status, answer["reason"], answer["details"][0]["field"]) == (400, "INVALID_FIELD", "webhook")


def test_webhook_that_leads_inside_is_rejected_as_unprocessable_alone_and_in_batches(server: ServerProcess) -> None:
    task = {"command": "x", "webhook": "http://10.0.0.1/hook"}
    status, answer = rest(server, "POST", "/tasks", task)
    assert (status, answer["reason"], answer["field"]) == (422, "URL_NOT_ALLOWED", "webhook")
    status, answer = rest(server, "POST", "/tasks/batch", {"tasks": [{"command": "x"}, task], "atomic": True})
    assert (status, answer["reason"], answer["field"]) == (422, "URL_NOT_ALLOWED", "tasks[1].webhook")
    status, answer = rest(server, "POST", "/tasks/batch", {"tasks": [{"command": "x"}, task]})
    assert status == 200
    assert "task" in answer["results"][0]
    assert answer["results"][1]["error"]["reason"] == "URL_NOT_ALLOWED"
    status, answer = rest(server, "POST", "/admin/webhooks/test", {"url": task["webhook"]})
    assert (status, answer["reason"], answer["field"]) == (422, "URL_NOT_ALLOWED", "url")


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


def tried(server: ServerProcess, url: str) -> int:
    """Returns the status that a URL gives to a test; waits for callbacks on their way to its host."""
    while (reply := rest(server, "POST", "/admin/webhooks/test", {"url": url}))[0] == 429:
        pass
    assert reply[0] == 200, reply
    status = reply[1]["status"]
    assert isinstance(status, int)
    return status


def test_host_that_is_left_alone_is_shown_and_a_retry_a_test_and_a_resume_try_it_at_once(server: ServerProcess) -> None:
    with Receiver() as failing:
        host = failing.url.removeprefix("http://")
        made = create(server, failing)
        _, command, path = made
        failed: list[str] = []
        """Tasks whose callbacks have failed since the host was last left alone."""

        def leave_alone() -> float:
            """Fails until the host is left alone; returns the Unix time of the next attempt."""
            failing.answer = lambda _: 500
            failed[:] = [create_and_end() for _ in range(FAILURES_MAX)]
            while not (held := held_hosts(server, command)):
                rest(server, "POST", "/admin/webhooks/test", {"url": f"{failing.url}/other"})
            assert [(each["host"], each["reason"]) for each in held] == [(host, "FAILING")]
            failing.answer = lambda _: 200
            return datetime.fromisoformat(held[0]["until"]).timestamp()

        def create_and_end() -> str:
            body = {"command": command, "webhook": f"{failing.url}{path}"}
            assert rest(server, "POST", "/tasks", body)[0] == 202
            return end(server, command, status="COMPLETED")

        def comes_at_once(act: Callable[[], object], to: str) -> bool:
            """Whether a request comes before the host would be tried again; a busy machine may need a second try."""
            for _ in range(TRIES):
                until = leave_alone()
                failing.requests.clear()
                act()
                if failing.wait(to)[0].at < until:
                    return True
            return False

        def retry() -> None:
            assert rest(server, "POST", f"/tasks/{failed[0]}/webhooks/retry", {})[1] == {"retried": 1}

        def test() -> None:
            assert tried(server, f"{failing.url}/test") == 200

        def resume() -> None:
            assert rest(server, "POST", "/admin/webhooks/resume", {"host": host})[0] == 200

        end(server, command, status="COMPLETED")
        assert comes_at_once(retry, path)
        assert comes_at_once(test, "/test")
        assert comes_at_once(resume, path)


def test_resume_delivers_callbacks_that_waited_at_once(server: ServerProcess) -> None:
    with Receiver() as paused:
        host = paused.url.removeprefix("http://")
        _, command, path = create(server, paused)
        assert rest(server, "POST", "/admin/webhooks/pause", {"host": host})[0] == 200
        task_id = end(server, command, status="COMPLETED")
        while "nextAttemptAt" not in (waiting := rest(server, "GET", f"/tasks/{task_id}/webhooks")[1]["callbacks"][0]):
            pass
        (held,) = held_hosts(server, command)
        assert (held["host"], held["reason"]) == (host, "PAUSED")
        assert paused.requests == []
        assert rest(server, "POST", "/admin/webhooks/resume", {"host": host})[0] == 200
        assert paused.wait(path)[0].at < datetime.fromisoformat(waiting["nextAttemptAt"]).timestamp()
        assert held_hosts(server, command) == []


def held_hosts(server: ServerProcess, command: str) -> list[dict[str, Any]]:
    """Returns the hosts that get no callbacks at the moment."""
    answer = rest(server, "GET", "/admin/webhooks", command=command)[1]
    found = answer.get("heldHosts", [])
    assert isinstance(found, list)
    return found
