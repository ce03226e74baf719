"""Callbacks over the Python SDK, against a real server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import codeq
import pytest
from callback_receiver import Receiver
from codeq import callback_calls, rpcs
from codeq.callback_records import CallbackState
from codeq.calls import Call
from codeq.v1 import webhook_service_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from server_process import DEV_TOKEN, ServerProcess
from waiting import eventually_blocking

NOWHERE = "http://127.0.0.1:1/hook"
SECRETS = ["a newer secret of some length", "an older secret of some length"]


def connected(server: ServerProcess) -> codeq.Client:
    """A client of the server."""
    return codeq.Client(server.producer_addr, token=DEV_TOKEN)


def test_callbacks_are_read_and_retried(shared_server: ServerProcess) -> None:
    with connected(shared_server) as client:
        task = client.create("sdk-callbacks", webhook=NOWHERE)
        assert client.task_callbacks(task.id) == []
        client.cancel(task)
        [callback] = client.task_callbacks(task.id)
        assert (callback.task_id, callback.status, callback.url) == (task.id, codeq.TaskStatus.CANCELLED, NOWHERE)
        assert callback.state is codeq.CallbackState.PENDING
        page = client.callbacks("sdk-callbacks")
        assert ([each.delivery_id for each in page.callbacks], page.paused_hosts) == ([callback.delivery_id], [])
        assert client.callbacks("sdk-callbacks", CallbackState.GAVE_UP).callbacks == []
        assert client.retry_task_callbacks(task.id) == 1
        ended = datetime.now(UTC)
        hour = timedelta(hours=1)
        assert client.retry_callbacks("sdk-callbacks", ended_from=ended - hour, ended_to=ended + hour) == (0, "")
        with pytest.raises(codeq.TaskNotFound):
            client.task_callbacks("nowhere")
        with pytest.raises(codeq.QueueNotFound):
            client.callbacks("nowhere")
        with pytest.raises(codeq.InvalidField, match="from"):
            client.retry_callbacks("sdk-callbacks", ended_from=datetime(2026, 1, 1))  # noqa: DTZ001 - the point


async def test_callbacks_are_read_page_by_page(shared_server: ServerProcess) -> None:
    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        tasks = [await client.create("sdk-pages", webhook=NOWHERE) for _ in range(3)]
        for task in tasks:
            await client.cancel(task)
        found = [callback.task_id async for callback in client.iter_callbacks("sdk-pages", page_size=1)]
        assert found == [task.id for task in tasks]
        with connected(shared_server) as blocking:
            assert [each.task_id for each in blocking.iter_callbacks("sdk-pages", "PENDING", page_size=2)] == found


def test_paused_host_is_held(shared_server: ServerProcess) -> None:
    with connected(shared_server) as client:
        task = client.create("sdk-held", webhook=NOWHERE)
        client.pause_webhooks("sdk-held.example:443")
        client.cancel(task)
        [held] = [each for each in client.callbacks("sdk-held").held_hosts if each.host == "sdk-held.example:443"]
        assert (held.reason, held.until) == (codeq.HostHold.PAUSED, None)
        assert held.since is not None
        assert abs(held.since - datetime.now(UTC)) < timedelta(minutes=1)
        client.resume_webhooks("sdk-held.example:443")


def test_host_that_keeps_failing_has_the_time_of_the_next_attempt() -> None:
    message = webhook_service_pb2.HeldHost(host="h:443", reason="HOST_HOLD_FAILING", until=Timestamp(seconds=7))
    held = codeq.HeldHost.from_message(message)
    assert (held.reason, held.since, held.until) == (codeq.HostHold.FAILING, None, datetime.fromtimestamp(7, UTC))


@pytest.mark.parametrize("kind", [codeq.HostHold, codeq.CallbackState])
def test_number_that_only_a_newer_server_knows_is_unspecified(
    kind: type[codeq.HostHold | codeq.CallbackState],
) -> None:
    assert kind.from_number(99) == "UNSPECIFIED"


def test_attempts_of_a_delivered_callback_are_shown(shared_server: ServerProcess) -> None:
    with Receiver() as receiver, connected(shared_server) as client:
        task = client.create("sdk-attempts", webhook=f"{receiver.url}/sdk")
        client.cancel(task)
        receiver.wait("/sdk")
        eventually_blocking(lambda: client.task_callbacks(task.id)[0].state is CallbackState.DELIVERED)
        [callback] = client.task_callbacks(task.id)
        [attempt] = callback.attempts
        assert (attempt.status, attempt.error, callback.attempts_total) == (200, "", 1)
        assert attempt.duration_ms >= 0
        assert callback.next_attempt_at is None


async def test_secrets_are_set_shown_and_removed(shared_server: ServerProcess) -> None:
    async with codeq.AsyncClient(shared_server.producer_addr, token=DEV_TOKEN) as client:
        made = await client.put_webhook_secrets(SECRETS, "https://h.invalid/a")
        assert (made.endpoint, len(made.fingerprints)) == ("https://h.invalid/a", 2)
        assert await client.webhook_secrets() == [made]
        await client.delete_webhook_secrets("https://h.invalid/a")
        assert await client.webhook_secrets() == []
        with pytest.raises(TypeError, match="secrets"):
            await client.put_webhook_secrets("one secret of some length")
        with pytest.raises(codeq.InvalidField):
            await client.put_webhook_secrets(["short"])


def test_hosts_are_paused_and_endpoints_tested(shared_server: ServerProcess) -> None:
    with Receiver() as receiver, connected(shared_server) as client:
        assert client.pause_webhooks("h.invalid:443") == ["h.invalid:443"]
        assert client.resume_webhooks("h.invalid:443") == []
        answer = client.test_webhook(f"{receiver.url}/tested")
        assert (answer.status, answer.error) == (200, "")
        assert client.test_webhook("http://127.0.0.1:2/hook").status == 0
        with pytest.raises(codeq.InvalidRequest) as caught:
            client.test_webhook("http://10.0.0.1/")
        assert caught.value.reason == "URL_NOT_ALLOWED"


@pytest.mark.parametrize(
    "call",
    [
        callback_calls.task_callbacks("t"),
        callback_calls.callbacks("A", "PENDING", 0, "", ""),
        callback_calls.retry_task_callbacks("t", ""),
        callback_calls.retry_callbacks("A", None, None, "", ""),
        callback_calls.put_webhook_secrets(SECRETS, "", ""),
        callback_calls.webhook_secrets(""),
        callback_calls.delete_webhook_secrets("", ""),
        callback_calls.pause_webhooks("h:443", ""),
        callback_calls.resume_webhooks("h:443", ""),
        callback_calls.test_webhook(NOWHERE, ""),
    ],
    ids=lambda call: call.method.rpartition("/")[2],
)
def test_method_of_the_client_repeats_its_call_if_the_rpc_is_repeated(call: Call[Any]) -> None:
    assert call.repeatable is rpcs.call_of(call.request).repeatable
