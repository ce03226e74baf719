"""WebhookService: callbacks of a tenant's tasks, and what is set for their receivers."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from functools import partial
from typing import Final

from codeq.v1 import webhook_service_pb2 as pb
from codeq_internal.v1 import rows_pb2

from codeq_server.auth.claims import Claims
from codeq_server.core import callbacks, keys, lookup, receivers
from codeq_server.core.errors import Reason, Rejection, invalid_field
from codeq_server.core.model import Lane, Queue, id_of
from codeq_server.core.parsing import parsed
from codeq_server.core.status import Status
from codeq_server.engine.admission import CALL_COST
from codeq_server.engine.runner import ShardRunner
from codeq_server.webhooks.bodies import test_body
from codeq_server.webhooks.guard import host_of
from codeq_server.webhooks.outgoing import Outgoing
from codeq_server.webhooks.signing import ENCODED_PREFIX, headers, is_decodable

from .auditing import Act, State
from .convert import status_number, timestamp, unix_ms
from .deciding import decide
from .page_tokens import last_key, page_token
from .receiver_urls import check_receiver

PAGE_DEFAULT: Final = 100
PAGE_ROWS_MAX = 10_000
"""Rows examined per page."""
SLICE = 256
"""Rows examined in one turn."""
HASTENED_ROWS_MAX: Final = 10_000
"""Callbacks that wait, of a tenant, that a resume looks at; the others are looked at within a minute anyway."""
TESTS_MAX: Final = 8
"""Maximum number of test requests at a time."""
FINGERPRINT_CHARS: Final = 16

_STATES: Final = {
    rows_pb2.CALLBACK_STATE_UNSPECIFIED: pb.CALLBACK_STATE_PENDING,
    rows_pb2.CALLBACK_STATE_WAITING: pb.CALLBACK_STATE_PENDING,
    rows_pb2.CALLBACK_STATE_DELIVERED: pb.CALLBACK_STATE_DELIVERED,
    rows_pb2.CALLBACK_STATE_GAVE_UP: pb.CALLBACK_STATE_GAVE_UP,
}

_Row = tuple[int, rows_pb2.OutboxRow]
"""Position and row of a callback."""


class WebhookService:
    """Shows and controls callbacks. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner, outgoing: Outgoing | None) -> None:
        self._runner = runner
        self._outgoing = outgoing
        self._tests = 0

    # -- callbacks -----------------------------------------------------------------------------------------------

    async def ListTaskCallbacks(  # noqa: N802
        self, claims: Claims, request: pb.ListTaskCallbacksRequest
    ) -> pb.ListTaskCallbacksResponse:
        """Returns the callbacks of a task."""
        home, position = self._home(claims, request.task_id)
        rows = callbacks.callbacks_at(self._runner.shard, home, position)
        response = pb.ListTaskCallbacksResponse(callbacks=[self._message(home.queue, each) for each in rows])
        await self._runner.wait_durable()
        return response

    async def ListCallbacks(  # noqa: N802
        self, claims: Claims, request: pb.ListCallbacksRequest
    ) -> pb.ListCallbacksResponse:
        """Returns a page of the callbacks of a command that are not delivered."""
        queue = self._queue(claims, request.command)
        count = request.page_size or PAGE_DEFAULT
        response = pb.ListCallbacksResponse()

        def look(row: _Row) -> bool:
            state = _STATES[row[1].state]
            if state == request.state or (not request.state and state != pb.CALLBACK_STATE_DELIVERED):
                response.callbacks.append(self._message(queue, row))
            return len(response.callbacks) < count

        of = (request.command, request.state)
        response.next_page_token = await self._walk(queue, request.page_token, of, look, self._runner.changed)
        response.paused_hosts.extend(self._paused(claims.tenant_id))
        response.held_hosts.extend(self._held(claims.tenant_id, {host_of(each.url) for each in response.callbacks}))
        await self._runner.wait_durable()
        return response

    async def RetryTaskCallbacks(  # noqa: N802
        self, claims: Claims, request: pb.RetryTaskCallbacksRequest, act: Act
    ) -> pb.RetryTaskCallbacksResponse:
        """Attempts callbacks of a task at once."""
        home, position = self._home(claims, request.task_id)
        shard, now = self._runner.shard, self._runner.now()
        rows = callbacks.callbacks_at(shard, home, position)
        retried = decide(self._runner, lambda: sum([callbacks.replay(shard, home.queue, *each, now) for each in rows]))
        if retried:
            self._probe_now(host_of(callbacks.webhook_at(shard, home, position)[0]))
        act.record(self._runner, after={"retried": retried})
        await self._runner.wait_durable()
        return pb.RetryTaskCallbacksResponse(retried=retried)

    async def RetryCallbacks(  # noqa: N802
        self, claims: Claims, request: pb.RetryCallbacksRequest, act: Act
    ) -> pb.RetryCallbacksResponse:
        """Attempts callbacks of a command at once."""
        queue, runner = self._queue(claims, request.command), self._runner
        response = pb.RetryCallbacksResponse()
        first = unix_ms(getattr(request, "from")) if request.HasField("from") else 0
        last = unix_ms(request.to) if request.HasField("to") else 1 << 62

        def look(row: _Row) -> bool:
            if row[1].state == rows_pb2.CALLBACK_STATE_GAVE_UP and first <= row[1].ended_ms < last:
                response.retried += decide(runner, lambda: callbacks.replay(runner.shard, queue, *row, runner.now()))
                self._probe_now(host_of(self._url(queue, row[1])))
            return True

        def record() -> None:
            act.record(runner, after={"retried": response.retried})

        of = ("retry", request.command, first, last)
        try:
            response.next_page_token = await self._walk(queue, request.page_token, of, look, record)
        except Rejection as refusal:
            raise runner.refused(refusal, decided=bool(response.retried)) from None
        await runner.wait_durable()
        return response

    async def _walk(
        self,
        queue: Queue,
        token: str,
        of: tuple[object, ...],
        look: Callable[[_Row], bool],
        end_slice: Callable[[], None],
    ) -> str:
        """Passes callbacks of a queue to `look` until that returns False; returns the token of the next page.

        Other calls may decide between two slices, and each slice ends with `end_slice`.

        Raises:
            Rejection: INVALID_PAGE_TOKEN, CORRUPT_DATA.
        """
        runner, of = self._runner, ("callbacks", queue.tenant, *of)
        start, end = keys.queue_rows(keys.OUTBOX, queue.number)
        last = last_key(token, keys.KEY_BYTES[keys.OUTBOX], *of) if token else b""
        for _ in range(0, PAGE_ROWS_MAX, SLICE):
            await runner.room(queue.tenant, CALL_COST + SLICE)
            runner.now()  # raises if the runner no longer decides
            stored = runner.shard.stored.scan(max(start, last + b"\0"), end, SLICE)
            try:
                for key, value in runner.shard.current(stored):
                    last = key
                    if not look((keys.split_outbox_key(key)[1], parsed(rows_pb2.OutboxRow, key, value))):
                        return page_token(last, *of)
            finally:
                end_slice()
            await asyncio.sleep(0)
            if len(stored) < SLICE:
                return ""
            last = stored[-1][0]
        return page_token(last, *of)

    # -- receivers -----------------------------------------------------------------------------------------------

    async def PutWebhookSecrets(  # noqa: N802
        self, claims: Claims, request: pb.PutWebhookSecretsRequest, act: Act
    ) -> pb.PutWebhookSecretsResponse:
        """Sets the secrets for an endpoint."""
        _check_all_commands(claims)
        if "?" in request.endpoint or "#" in request.endpoint:
            raise invalid_field("endpoint", "must have no query and no fragment")
        for index, secret in enumerate(request.secrets):
            if not is_decodable(secret):
                raise invalid_field(f"secrets[{index}]", f"must be base64 with padding after {ENCODED_PREFIX}")
        tenant, before = claims.tenant_id, self._secrets_state(claims.tenant_id, request.endpoint)
        receivers.set_secrets(self._runner.shard, tenant, request.endpoint, list(request.secrets), self._runner.now())
        act.record(self._runner, before=before, after=self._secrets_state(tenant, request.endpoint))
        response = pb.PutWebhookSecretsResponse(secrets=self._secrets(tenant, request.endpoint))
        await self._runner.wait_durable()
        return response

    async def GetWebhookSecrets(  # noqa: N802
        self,
        claims: Claims,
        request: pb.GetWebhookSecretsRequest,  # noqa: ARG002
    ) -> pb.GetWebhookSecretsResponse:
        """Returns the endpoints that have secrets."""
        _check_all_commands(claims)
        self._runner.now()  # raises if the runner no longer decides
        there = self._runner.shard.endpoints.of(claims.tenant_id)
        names = sorted(name for name, row in there.items() if row.secrets)
        response = pb.GetWebhookSecretsResponse(endpoints=[self._secrets(claims.tenant_id, name) for name in names])
        await self._runner.wait_durable()
        return response

    async def DeleteWebhookSecrets(  # noqa: N802
        self, claims: Claims, request: pb.DeleteWebhookSecretsRequest, act: Act
    ) -> pb.DeleteWebhookSecretsResponse:
        """Removes the secrets for an endpoint."""
        _check_all_commands(claims)
        before = self._secrets_state(claims.tenant_id, request.endpoint)
        receivers.set_secrets(self._runner.shard, claims.tenant_id, request.endpoint, (), self._runner.now())
        act.record(self._runner, before=before, after=self._secrets_state(claims.tenant_id, request.endpoint))
        await self._runner.wait_durable()
        return pb.DeleteWebhookSecretsResponse()

    async def PauseWebhooks(  # noqa: N802
        self, claims: Claims, request: pb.PauseWebhooksRequest, act: Act
    ) -> pb.PauseWebhooksResponse:
        """Makes callbacks to a host wait."""
        await self._pause(claims, request.host, act, paused=True)
        return pb.PauseWebhooksResponse(paused_hosts=self._paused(claims.tenant_id))

    async def ResumeWebhooks(  # noqa: N802
        self, claims: Claims, request: pb.ResumeWebhooksRequest, act: Act
    ) -> pb.ResumeWebhooksResponse:
        """Delivers callbacks to a host again."""
        await self._pause(claims, request.host, act, paused=False)
        self._probe_now(request.host)
        try:
            await self._hasten(claims.tenant_id, request.host)
        except Rejection as refusal:
            raise self._runner.refused(refusal, decided=True) from None
        return pb.ResumeWebhooksResponse(paused_hosts=self._paused(claims.tenant_id))

    async def TestWebhook(  # noqa: N802
        self, claims: Claims, request: pb.TestWebhookRequest, act: Act
    ) -> pb.TestWebhookResponse:
        """Sends a callback of a task that does not exist."""
        _check_all_commands(claims)
        runner, outgoing = self._runner, self._outgoing
        now = runner.now()
        if outgoing is None:
            raise invalid_field("url", "cannot be tested: this server makes no requests")
        check_receiver(runner.shard, "url", request.url)
        if self._tests >= TESTS_MAX:
            raise Rejection(Reason.LIMIT_REACHED, f"{TESTS_MAX} tests are running, the limit")
        self._probe_now(host_of(request.url))
        if outgoing.sender.busy(request.url):
            raise Rejection(Reason.LIMIT_REACHED, "the host has as many requests as it may have")
        act.record(runner)
        delivery_id = str(uuid.uuid4())
        body = test_body(claims.tenant_id, delivery_id, now.wall_ms)
        secrets = outgoing.secrets_for(runner.shard.endpoints, claims.tenant_id, request.url)
        self._tests += 1
        try:
            answer = await outgoing.sender.post(
                request.url, body, headers(secrets, delivery_id, int(runner.unix_seconds()), body)
            )
        finally:
            self._tests -= 1
        await runner.wait_durable()
        return pb.TestWebhookResponse(
            status=answer.status, error=answer.error, duration_ms=answer.duration_ms, excerpt=answer.excerpt
        )

    async def _pause(self, claims: Claims, host: str, act: Act, *, paused: bool) -> None:
        _check_all_commands(claims)
        shard = self._runner.shard
        before: State = {"paused": shard.endpoints.is_paused(claims.tenant_id, host)}
        receivers.pause_host(shard, claims.tenant_id, host, self._runner.now(), paused=paused)
        act.record(self._runner, before=before, after={"paused": paused})
        await self._runner.wait_durable()

    async def _hasten(self, tenant: str, host: str) -> None:
        """Has callbacks to a host that wait attempted at once, except those in rows beyond HASTENED_ROWS_MAX.

        Raises:
            Rejection: The runner no longer decides.
        """
        runner, shard, left = self._runner, self._runner.shard, HASTENED_ROWS_MAX
        for number in list(shard.used_by(tenant).numbers):
            queue = shard.queues.get(number)
            if queue is None or queue.outbox is None:
                continue
            start, end = keys.queue_rows(keys.RETRIES, number)
            start = keys.time_bound(start, runner.now().wall_ms + 2)  # the others are due
            while left > 0:
                await runner.room(tenant, CALL_COST + SLICE)
                runner.now()  # raises if the runner no longer decides
                stored = shard.stored.scan(start, end, SLICE)
                for key, _ in shard.current(stored):
                    decide(runner, partial(self._hasten_one, queue, key, host))
                runner.changed()
                left -= len(stored)
                await asyncio.sleep(0)
                if len(stored) < SLICE:
                    break
                start = stored[-1][0] + b"\0"
        await runner.wait_durable()

    def _hasten_one(self, queue: Queue, key: bytes, host: str) -> None:
        shard, position = self._runner.shard, keys.split_time_key(key)[3]
        row = callbacks.row_at(shard, queue, position)
        if row is not None and host_of(self._url(queue, row)) == host:
            callbacks.hasten(shard, queue, position, row, self._runner.now())

    def _probe_now(self, host: str) -> None:
        """Has a host that is left alone because it keeps failing tried with the next request."""
        if self._outgoing is not None:
            self._outgoing.sender.probe_now(host)

    def _held(self, tenant: str, hosts: set[str]) -> list[pb.HeldHost]:
        """Returns the hosts that get no callbacks: all that are paused, and those of `hosts` that keep failing."""
        found = {
            name: pb.HeldHost(
                host=name,
                reason=pb.HOST_HOLD_DISABLED if row.disabled else pb.HOST_HOLD_PAUSED,
                since=timestamp(row.changed_ms),
            )
            for name, row in self._runner.shard.endpoints.of(tenant).items()
            if row.paused
        }
        now_ms = self._runner.now().wall_ms
        for host in hosts - found.keys():
            wait_ms = 0 if self._outgoing is None else self._outgoing.sender.left_alone_ms(host)
            if wait_ms:
                found[host] = pb.HeldHost(host=host, reason=pb.HOST_HOLD_FAILING, until=timestamp(now_ms + wait_ms))
        return [found[host] for host in sorted(found)]

    def _paused(self, tenant: str) -> list[str]:
        return sorted(name for name, row in self._runner.shard.endpoints.of(tenant).items() if row.paused)

    def _secrets(self, tenant: str, endpoint: str) -> pb.WebhookSecrets:
        row = self._runner.shard.endpoints.get(tenant, endpoint)
        message = pb.WebhookSecrets(endpoint=endpoint)
        if row is not None:
            message.fingerprints.extend(_fingerprint(secret) for secret in row.secrets)
            message.changed_at.CopyFrom(timestamp(row.changed_ms))
        return message

    def _secrets_state(self, tenant: str, endpoint: str) -> State:
        return {"fingerprints": list(self._secrets(tenant, endpoint).fingerprints)}

    # -- tasks ---------------------------------------------------------------------------------------------------

    def _home(self, claims: Claims, task_id: str) -> tuple[Lane, int]:
        """Returns lane and position of the home of a task that the caller sees.

        Raises:
            Rejection: TASK_NOT_FOUND.
        """
        self._runner.now()  # raises if the runner no longer decides
        home, position = lookup.find_home(self._runner.shard, claims.tenant_id, task_id)
        if not (claims.seen_commands is None or claims.sees(home.queue.command)):
            raise lookup.not_found(task_id)  # as for another tenant's task
        return home, position

    def _queue(self, claims: Claims, command: str) -> Queue:
        claims.check_command(command)
        self._runner.now()  # raises if the runner no longer decides
        queue = self._runner.shard.by_name.get((claims.tenant_id, command))
        if queue is None:
            raise Rejection(Reason.QUEUE_NOT_FOUND, f"no queue has the command {command!r}")
        return queue

    def _url(self, queue: Queue, row: rows_pb2.OutboxRow) -> str:
        """Returns the URL of a callback."""
        lane, position = keys.unpack_home(row.home)
        return callbacks.webhook_at(self._runner.shard, queue.lane(lane), position)[0]

    def _message(self, queue: Queue, callback: _Row) -> pb.Callback:
        position, row = callback
        lane = queue.lane(keys.unpack_home(row.home)[0])
        home_position = keys.unpack_home(row.home)[1]
        url, value = callbacks.webhook_at(self._runner.shard, lane, home_position)
        return pb.Callback(
            delivery_id=callbacks.delivery_id(queue, position, row),
            task_id=id_of(lane.key_of(home_position, value)),
            status=status_number(Status(row.status)),
            url=url,
            state=_STATES[row.state],
            attempts_total=row.attempts_total,
            attempts=[_attempt(each) for each in row.attempts],
            completed_at=timestamp(row.ended_ms),
            next_attempt_at=timestamp(row.due_ms) if row.due_ms else None,
        )


def _check_all_commands(claims: Claims) -> None:
    """Checks that the caller may act on what concerns every command.

    Raises:
        Rejection: COMMAND_NOT_ALLOWED.
    """
    if claims.seen_commands is not None:
        raise Rejection(Reason.COMMAND_NOT_ALLOWED, "the call concerns every command, and the token does not allow all")


def _attempt(row: rows_pb2.CallRow) -> pb.CallbackAttempt:
    return pb.CallbackAttempt(at=timestamp(row.at_ms), status=row.status, duration_ms=row.duration_ms, error=row.error)


def _fingerprint(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:FINGERPRINT_CHARS]
