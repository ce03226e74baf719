"""Subscriptions and signals over REST, as the documents describe them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from callback_receiver import Received, Receiver
from server_process import DEV_TOKEN, ServerProcess
from test_bad_input import call

SECRET = "a secret of the tests"
SUBSCRIPTIONS = "/workers/subscriptions"
READY = "/ready"
ARRIVE_SECONDS_MAX = 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, env={"WEBHOOK_HMAC_SECRET": SECRET}) as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def signal(receiver: Receiver, number: int = 1) -> Received:
    """Returns a signal, counted from 1, once it has arrived."""
    return receiver.wait(READY, number, ARRIVE_SECONDS_MAX)[number - 1]


def rest(server: ServerProcess, method: str, path: str, body: object = None, status: int = 200) -> Any:
    answer = call(server, method, path, DEV_TOKEN, **({} if body is None else {"json": body}))
    assert answer.status_code == status, answer.text
    return answer.json()


def create(server: ServerProcess, command: str = "A", **more: object) -> Any:
    return rest(server, "POST", "/tasks", {"command": command, "payload": {}, **more}, 202)


def test_subscription_is_made_renewed_read_listed_and_ended(server: ServerProcess) -> None:
    made = rest(server, "POST", SUBSCRIPTIONS, {"callbackUrl": "https://hooks.example/"})
    assert made.keys() == {"subscriptionId", "expiresAt"}
    path = f"{SUBSCRIPTIONS}/{made['subscriptionId']}"
    shown = rest(server, "GET", path)
    assert (shown["deliveryMode"], shown["ttlSeconds"], shown["minIntervalSeconds"]) == ("fanout", 300, 5)
    assert shown["eventTypes"] == []
    later = rest(server, "POST", f"{path}/heartbeat", {"ttlSeconds": 3600})
    assert datetime.fromisoformat(later["expiresAt"]) > datetime.fromisoformat(made["expiresAt"])
    assert rest(server, "POST", f"{path}/heartbeat", {})["subscriptionId"] == made["subscriptionId"]
    listed = rest(server, "GET", SUBSCRIPTIONS)
    assert [each["subscriptionId"] for each in listed["subscriptions"]] == [made["subscriptionId"]]
    server.kill()
    server.start()
    assert rest(server, "GET", path)["ttlSeconds"] == 3600
    rest(server, "DELETE", path)
    assert rest(server, "GET", path, status=404)["reason"] == "SUBSCRIPTION_NOT_FOUND"
    assert rest(server, "POST", f"{path}/heartbeat", {}, 404)["reason"] == "SUBSCRIPTION_NOT_FOUND"


MALFORMED: list[tuple[dict[str, object], int, str]] = [
    ({}, 400, "callbackUrl"),
    ({"callbackUrl": "ftp://hooks.example/"}, 400, "callbackUrl"),
    ({"callbackUrl": "http:///path"}, 400, "callbackUrl"),
    ({"callbackUrl": "http://10.0.0.1/"}, 422, "callbackUrl"),
    ({"callbackUrl": "http://2130706433/"}, 422, "callbackUrl"),
    ({"callbackUrl": "http://[::ffff:169.254.169.254]/"}, 422, "callbackUrl"),
    ({"callbackUrl": "http://hooks.example/", "deliveryMode": "group"}, 400, "groupId"),
    ({"callbackUrl": "http://hooks.example/", "deliveryMode": "FANOUT"}, 400, "deliveryMode"),
    ({"callbackUrl": "http://hooks.example/", "deliveryMode": "some"}, 400, "deliveryMode"),
    ({"callbackUrl": "http://hooks.example/", "ttlSeconds": 9}, 400, "ttlSeconds"),
    ({"callbackUrl": "http://hooks.example/", "minIntervalSeconds": 3601}, 400, "minIntervalSeconds"),
]


def test_malformed_subscription_is_refused_by_field(server: ServerProcess) -> None:
    for body, status, field in MALFORMED:
        assert field in str(rest(server, "POST", SUBSCRIPTIONS, body, status)), body
    assert rest(server, "GET", SUBSCRIPTIONS)["subscriptions"] == []


def test_signal_is_sent_when_work_becomes_ready_and_is_signed(server: ServerProcess, receiver: Receiver) -> None:
    create(server)  # without a subscription nothing is sent
    body = {"callbackUrl": f"{receiver.url}{READY}", "eventTypes": ["A"], "minIntervalSeconds": 0}
    rest(server, "POST", SUBSCRIPTIONS, body)
    first = signal(receiver)  # of the work that was there
    create(server, "B")
    create(server)
    got = signal(receiver, 2)
    assert {"eventType": "A", "available": True, "queueDepth": 2, "tenantId": "dev-tenant"}.items() <= got.json.items()
    assert got.json["claimUrl"] == "/v1/codeq/tasks/claim"
    assert got.json["notificationId"] != first.json["notificationId"]
    stamp = got.headers["x-codeq-timestamp"]
    expected = hmac.new(SECRET.encode(), f"{stamp}.".encode() + got.body, hashlib.sha256).hexdigest()
    assert got.headers["x-codeq-signature"] == expected
    assert got.headers["webhook-id"] == got.json["notificationId"]
    claimed = rest(server, "POST", "/tasks/claim/batch", {"commands": ["A"], "count": 2})["tasks"]
    rest(server, "POST", f"/tasks/{claimed[0]['id']}/nack", {"delaySeconds": 0})
    assert signal(receiver, 3).json["queueDepth"] == 1
    rest(server, "POST", "/admin/queues/A/pause", {})
    rest(server, "POST", f"/tasks/{claimed[1]['id']}/abandon", {})
    rest(server, "POST", "/admin/queues/A/resume", {})
    assert signal(receiver, 4).json["queueDepth"] == 2
    assert len(receiver.requests) == 4


def test_signals_go_on_after_a_restart(server: ServerProcess, receiver: Receiver) -> None:
    rest(server, "POST", SUBSCRIPTIONS, {"callbackUrl": f"{receiver.url}{READY}", "minIntervalSeconds": 3600})
    create(server)
    assert signal(receiver).json["queueDepth"] == 1
    create(server)
    server.kill()
    server.start()
    assert signal(receiver, 2).json["queueDepth"] == 2


def test_receiver_that_is_gone_ends_its_subscription(server: ServerProcess, receiver: Receiver) -> None:
    receiver.answer = lambda _: 410
    made = rest(server, "POST", SUBSCRIPTIONS, {"callbackUrl": f"{receiver.url}{READY}"})
    create(server)
    signal(receiver)
    path = f"{SUBSCRIPTIONS}/{made['subscriptionId']}"
    while call(server, "GET", path, DEV_TOKEN).status_code != 404:
        pass
    metrics = httpx.get(f"{server.http_url}/metrics").text
    assert 'codeq_webhook_deliveries_total{kind="queue_ready",outcome="failed"} 1.0' in metrics
    assert "codeq_subscriptions_active 0.0" in metrics


def test_administrator_lists_and_ends_subscriptions_and_it_is_audited(server: ServerProcess) -> None:
    made = rest(server, "POST", SUBSCRIPTIONS, {"callbackUrl": "https://hooks.example/secret?token=s3cret"})
    [shown] = rest(server, "GET", "/admin/subscriptions")["subscriptions"]
    assert shown["subscriptionId"] == made["subscriptionId"]
    rest(server, "DELETE", f"/admin/subscriptions/{made['subscriptionId']}")
    assert rest(server, "GET", SUBSCRIPTIONS)["subscriptions"] == []
    [record] = rest(server, "GET", "/admin/audit")["records"]
    assert (record["call"], record["object"]) == ("RemoveTenantSubscription", made["subscriptionId"])
    assert "hooks.example" in record["before"]
    assert "s3cret" not in record["before"]
