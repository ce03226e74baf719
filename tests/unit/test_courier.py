"""The courier with a real runner, a real sender and receivers on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from accepted_tasks import create
from aiohttp import web
from codeq.v1.task_pb2 import Task
from codeq_internal.v1 import rows_pb2
from codeq_server.config import load
from codeq_server.core import keys, names, receivers
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.new_task import NewTask
from codeq_server.core.withdrawal import cancel
from codeq_server.engine.runner import system_clock
from codeq_server.webhooks import courier as module
from codeq_server.webhooks.circuits import PER_HOST_MAX
from codeq_server.webhooks.courier import Courier
from codeq_server.webhooks.guard import guard_of
from codeq_server.webhooks.outgoing import DELAYS_SECONDS, Outgoing, callback_delays, outgoing_of
from codeq_server.webhooks.sender import Sender, SenderOptions
from held_log import HeldRunner, turns, until

DEV = guard_of(load(None, {}, {}, dev=True))
Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Hook:
    """A receiver that records what it gets.

    Attributes:
        got: Bodies so far.
        headers: Headers of the requests with these bodies.
        gate: Requests are answered while it is set.
    """

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.status = 200
        self.url = ""
        self.most = self.running = 0

    async def handle(self, request: web.BaseRequest) -> web.Response:
        self.running += 1
        self.most = max(self.most, self.running)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.got.append(json.loads(await request.read()))
        await self.gate.wait()
        self.running -= 1
        return web.Response(status=self.status)


@asynccontextmanager
async def receiving() -> AsyncIterator[Hook]:
    hook = Hook()
    runner = web.ServerRunner(web.Server(hook.handle), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/hook"  # type: ignore[union-attr]
    try:
        yield hook
    finally:
        hook.gate.set()
        await runner.cleanup()


@asynccontextmanager
async def delivering(*, free: bool = True, disable_after_ms: int = 0) -> AsyncIterator[tuple[HeldRunner, Courier]]:
    runner = HeldRunner()
    runner._clock = system_clock  # type: ignore[assignment]
    runner.log.free = free
    sender = Sender(SenderOptions(DEV, timeout_s=5.0))
    courier = Courier(runner, Outgoing(sender, DEV, "", (1_000,), 0, disable_after_ms))
    try:
        yield runner, courier
    finally:
        courier.stop()
        await sender.close()


def end_tasks(runner: HeldRunner, url: str, count: int = 1, tenant: str = "acme") -> list[str]:
    """Creates tasks with a webhook and cancels them."""
    now = runner.now()
    made = [create(runner.shard, tenant, "a", b"1", 0, 1, 0, now, 0, url)[0] for _ in range(count)]
    for task_id in made:
        cancel(runner.shard, tenant, task_id, "", now)
    runner.changed()
    return made


async def test_no_request_is_made_before_the_end_is_durable() -> None:
    async with receiving() as hook, delivering(free=False) as (runner, _):
        (task_id,) = end_tasks(runner, hook.url)
        await until(lambda: runner.log.batches)
        await turns(200)
        assert hook.got == []
        runner.log.free = True
        runner.log.release()
        await until(lambda: hook.got)
        assert hook.got[0]["taskId"] == task_id


async def test_many_callbacks_are_delivered_with_bounded_requests_and_few_batches() -> None:
    async with receiving() as hook, delivering() as (runner, courier):
        made = end_tasks(runner, hook.url, 500)
        await until(lambda: courier.outcomes["delivered"] == 500)
        assert sorted(each["taskId"] for each in hook.got) == sorted(made)
        assert hook.most <= PER_HOST_MAX
        await until(lambda: not runner.shard.batch and not runner.shard.in_flight)
        outbox = runner.shard.by_name["acme", "a"].outbox
        assert outbox is not None
        assert (outbox.mark, outbox.pending, courier.under_way) == (500, 0, 0)
        assert len(runner.log.batches) < 500


async def test_host_that_does_not_answer_holds_up_neither_other_hosts_nor_other_tenants() -> None:
    async with receiving() as slow, receiving() as other, receiving() as third, delivering() as (runner, courier):
        slow.gate.clear()
        end_tasks(runner, slow.url, 200)
        end_tasks(runner, other.url, 20)
        end_tasks(runner, third.url, 20, "globex")
        await until(lambda: len(third.got) == 20)
        await until(lambda: len(other.got) == 20)
        assert slow.most <= PER_HOST_MAX
        assert courier.under_way <= module.UNDER_WAY_MAX


async def test_failed_callback_is_attempted_again_in_time() -> None:
    async with receiving() as hook, delivering() as (runner, courier):
        hook.status = 500
        end_tasks(runner, hook.url)
        await until(lambda: courier.outcomes["retried"])
        hook.status = 200
        await until(lambda: courier.outcomes["delivered"])
        assert [each["attempt"] for each in hook.got] == [1, 2]


async def test_paused_host_gets_nothing_and_that_is_no_attempt() -> None:
    async with receiving() as hook, delivering() as (runner, courier):
        receivers.pause_host(runner.shard, "acme", hook.url.split("/")[2], runner.now(), paused=True)
        end_tasks(runner, hook.url)
        await until(lambda: courier.outcomes["put_off"])
        assert hook.got == []
        assert courier.outcomes.total() == 1


async def test_host_whose_callbacks_all_fail_for_too_long_is_paused_and_that_is_recorded() -> None:
    async with receiving() as hook, delivering(disable_after_ms=1) as (runner, courier):
        hook.status = 404
        host = hook.url.split("/")[2]
        end_tasks(runner, hook.url)
        await until(lambda: courier.outcomes["gave_up"])
        assert not runner.shard.endpoints.is_paused("acme", host)
        await asyncio.sleep(0.002)
        end_tasks(runner, hook.url)
        await until(lambda: courier.disabled)
        assert runner.shard.endpoints.is_paused("acme", host)
        assert not runner.shard.endpoints.is_paused("globex", host)
        await until(lambda: not runner.shard.batch and not runner.shard.in_flight)
        (row,) = [
            rows_pb2.AuditRow.FromString(value) for _, value in runner.log.store.scan(*keys.table_rows(keys.AUDIT), 10)
        ]
        assert (row.call, row.subject, row.tenant, row.object) == ("PauseWebhooks", "codeq", "acme", host)
        hook.status = 200
        end_tasks(runner, hook.url)
        await until(lambda: courier.outcomes["put_off"])
        assert len(hook.got) == 2


async def test_success_ends_the_failures_of_a_host_even_if_none_is_paused_any_more() -> None:
    async with receiving() as hook, delivering() as (runner, courier):
        host = hook.url.split("/")[2]
        receivers.note_attempt(runner.shard, "acme", host, runner.now(), delivered=False, disable_after_ms=60_000)
        end_tasks(runner, hook.url)
        await until(lambda: courier.outcomes["delivered"])
        assert runner.shard.endpoints.get("acme", host) is None


async def test_courier_stops_with_its_leadership_and_its_successor_repeats_what_was_under_way() -> None:
    async with receiving() as hook, delivering() as (runner, courier):
        hook.gate.clear()
        end_tasks(runner, hook.url)
        await until(lambda: hook.got)
        courier.stop()
        runner.end(Rejection(Reason.NOT_LEADER, "elsewhere"))
        hook.gate.set()
        successor = HeldRunner(store=runner.log.store, epoch=8)
        successor._clock = system_clock  # type: ignore[assignment]
        successor.log.free = True
        sender = Sender(SenderOptions(DEV))
        after = Courier(successor, Outgoing(sender, DEV, "", (1_000,), 0))
        await until(lambda: after.outcomes["delivered"])
        assert hook.got[0]["deliveryId"] == hook.got[1]["deliveryId"]
        after.stop()
        await sender.close()


def test_settings_replace_the_schedule_by_delays_that_double() -> None:
    default = load(None, {}, {}, dev=True)
    assert callback_delays(default) == tuple(seconds * 1000 for seconds in DELAYS_SECONDS)
    documented = {"RESULT_WEBHOOK_BASE_BACKOFF_SECONDS": "2", "RESULT_WEBHOOK_MAX_BACKOFF_SECONDS": "10"}
    settings = load(None, {**documented, "RESULT_WEBHOOK_MAX_ATTEMPTS": "6"}, {}, dev=True)
    assert callback_delays(settings) == (2_000, 4_000, 8_000, 10_000, 10_000)
    longest = {"RESULT_WEBHOOK_BASE_BACKOFF_SECONDS": "3600", "RESULT_WEBHOOK_MAX_ATTEMPTS": "30"}
    delays = callback_delays(load(None, longest, {}, dev=True))
    assert sum(delays) <= 3 * 86_400_000
    assert len(delays) < 29
    assert outgoing_of(settings).callback_delays_ms == callback_delays(settings)


async def test_request_carries_the_trace_context_of_the_task() -> None:
    parent, state = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1"
    async with receiving() as hook, delivering() as (runner, _):
        now = runner.now()
        kept = Task(webhook=hook.url, traceparent=parent, tracestate=state).SerializeToString()
        made = names.create(runner.shard, "acme", NewTask("a", b"1", kept=kept, hooked=True), now)
        cancel(runner.shard, "acme", made.task_id, "", now)
        end_tasks(runner, hook.url)
        await until(lambda: len(hook.got) == 2)
    told = {body["taskId"]: headers for body, headers in zip(hook.got, hook.headers, strict=True)}
    traced = told.pop(made.task_id)
    assert (traced["traceparent"], traced["tracestate"]) == (parent, state)
    assert [headers.keys() & {"traceparent", "tracestate"} for headers in told.values()] == [set()]
