"""The courier of a Serving: attempts the callbacks that are in the rows, and records how each attempt ended.

One task does all of it, in turns. A turn records the attempts that have ended, takes callbacks until as many are under
way as may be, waits until all that is durable, and begins their requests. Whatever ends meanwhile belongs to the next
turn, so attempts share decisions by themselves. The courier knows nothing that the rows do not: if it dies, its
successor on this node or another takes the same callbacks again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog
from codeq_internal.v1 import rows_pb2

from codeq_server.core import callbacks, receivers
from codeq_server.core.callbacks import Call, Callback
from codeq_server.core.clock import Now
from codeq_server.core.errors import Rejection
from codeq_server.core.model import Queue
from codeq_server.core.shard import Shard
from codeq_server.engine.runner import ShardRunner

from .bodies import body_of
from .circuits import FULL_WAIT_MS
from .guard import host_of
from .outgoing import Outgoing
from .sender import Answer
from .signing import headers

if TYPE_CHECKING:
    from opentelemetry.trace import Span

UNDER_WAY_MAX: Final = 256
"""Callbacks that are taken at a time."""
PER_TENANT_MAX: Final = 64
"""Callbacks of one tenant among them."""
BYTES_MAX: Final = 16 << 20
"""Bytes of results among them at which no further ones are taken."""
SLOW_MS: Final = 500
"""Time without an answer after which callbacks no longer wait in line for a host, but in the index of retries."""
SLOW_WAIT_MS: Final = 2_000
"""Time for which they wait there."""
PAUSE_MS: Final = 60_000
"""Time for which a callback waits there before it is looked at again, while its tenant has paused the host."""
LOOK_MS: Final = 1_000
"""Longest time between two turns while a callback waits for another attempt."""
SUBJECT: Final = "codeq"
"""Subject of the audit records of hosts that the courier has paused."""
LINE: Final = "\0callbacks"
"""Name under which the courier stands in line to decide, as if it were a tenant."""


_log = structlog.get_logger()


class _Host:
    """Callbacks to a host.

    Attributes:
        running: Number of requests under way.
        line: Callbacks that wait for one of them to end.
        progress_ms: Time of the last answer, or of the first request, on the monotonic clock.
    """

    __slots__ = ("line", "progress_ms", "running")

    def __init__(self, now_ms: int) -> None:
        self.running = 0
        self.line: deque[Callback] = deque()
        self.progress_ms = now_ms


class _Ended(NamedTuple):
    """A callback that is no longer under way: an attempt has ended, or it has to wait."""

    callback: Callback
    call: Call | None
    wait_ms: int


class _Take(Protocol):
    """Takes callbacks: `take_first` or `take_again`."""

    def __call__(
        self,
        shard: Shard,
        room: Callable[[str], int],
        now: Now,
    ) -> tuple[Queue, list[Callback]] | None: ...


class Courier:
    """Attempts the callbacks of a shard.

    Attributes:
        outcomes: Number of callbacks by outcome: "delivered", "retried", "gave_up" (see `callbacks.settle`), and
            "put_off".
        disabled: Number of hosts paused because every attempt has failed for too long.

    Args:
        runner: Runner of the shard.
        outgoing: Makes the requests.
    """

    def __init__(self, runner: ShardRunner, outgoing: Outgoing) -> None:
        self.outcomes: Counter[str] = Counter()
        self.disabled = 0
        self._runner = runner
        self._outgoing = outgoing
        self._hosts: dict[str, _Host] = {}
        self._tenants: Counter[str] = Counter()
        """Callbacks under way by tenant."""
        self._bytes = 0
        self._full: dict[str, dict[Queue, None]] = {}
        """Queues of tenants that had no room, by tenant."""
        self._ended: list[_Ended] = []
        self._requests: dict[asyncio.Task[Answer], None] = {}
        self._woken = asyncio.Event()
        self._stopped = False
        runner.on_calls = self._woken.set
        self._task = asyncio.get_running_loop().create_task(self._run(), name="courier")

    @property
    def under_way(self) -> int:
        """Number of callbacks that are taken."""
        return self._tenants.total()

    @property
    def open_circuits(self) -> int:
        """Number of hosts that are left alone because they keep failing."""
        return self._outgoing.sender.open_circuits

    def stop(self) -> None:
        """Stops: requests under way are cancelled, and their callbacks stay in the rows."""
        self._runner.on_calls = None
        self._stopped = True
        self._task.cancel()
        for request in list(self._requests):
            request.cancel()

    # -- turns ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                self._woken.clear()
                taken = await self._turn()
                for callback in taken:
                    self._begin(callback)
                if not taken and not self._ended:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._next_turn()):
                            await self._woken.wait()
        except Rejection:
            return  # the runner decides nothing more
        except Exception as problem:  # noqa: BLE001 - without its courier, the shard must not be served
            self._runner.fail(problem)

    def _next_turn(self) -> float | None:
        """Returns the seconds until something may be due; None: until something happens."""
        if any(host.line for host in self._hosts.values()):
            return SLOW_MS / 1000
        if not self._has_room():
            return None
        due_ms = self._runner.shard.retries.alarms.first_ms - self._runner.now().wall_ms
        return None if due_ms > LOOK_MS << 40 else min(max(due_ms, 0), LOOK_MS) / 1000 + 0.001

    async def _turn(self) -> list[Callback]:
        """Records what has ended, and takes what may begin; returns it once it is durable."""
        runner = self._runner
        self._leave_slow_lines()
        if not self._ended and not self._may_take():
            return []
        await runner.room(LINE, min(UNDER_WAY_MAX, max(1, len(self._ended))))
        now = runner.now()
        ended, self._ended = self._ended, []
        taken: list[Callback] = []
        try:
            for each in ended:
                self._record(each, now)
            self._give_turns()
            for take in (callbacks.take_first, callbacks.take_again):
                self._take(take, taken, now)
        except Exception as problem:
            raise runner.fail(problem) from problem
        runner.changed()
        if taken:
            await runner.wait_durable()
        return taken

    def _may_take(self) -> bool:
        shard = self._runner.shard
        waits = shard.outboxes.first_ms == 0 or shard.retries.alarms.first_ms <= self._runner.now().wall_ms
        return (waits or bool(self._full)) and self._has_room()

    def _has_room(self) -> bool:
        return self._tenants.total() < UNDER_WAY_MAX and self._bytes < BYTES_MAX

    def _room(self, tenant: str) -> int:
        return min(PER_TENANT_MAX - self._tenants[tenant], UNDER_WAY_MAX - self._tenants.total())

    def _take(self, take: _Take, taken: list[Callback], now: Now) -> None:
        while self._has_room():
            turn = take(self._runner.shard, self._room, now)
            if turn is None:
                return
            queue, found = turn
            if not found and self._room(queue.tenant) <= 0:
                self._full.setdefault(queue.tenant, {})[queue] = None
            for callback in found:
                self._tenants[queue.tenant] += 1
                self._bytes += len(callback.result or b"")
            taken += found

    def _give_turns(self) -> None:
        """Gives turns to queues whose tenants have room again."""
        for tenant in [each for each in self._full if self._tenants[each] < PER_TENANT_MAX]:
            for queue in self._full.pop(tenant):
                callbacks.give_turns(self._runner.shard, queue)

    def _record(self, ended: _Ended, now: Now) -> None:
        callback, call, wait_ms = ended
        tenant = callback.queue.tenant
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]
        self._bytes -= len(callback.result or b"")
        shard, random = self._runner.shard, self._runner.random()
        if call is None:
            callbacks.put_off(shard, callback, wait_ms + int(wait_ms * random / 10), now)
            self.outcomes["put_off"] += 1
            return
        outcome = callbacks.settle(shard, callback, call, self._outgoing.callback_delays_ms, random, now)
        if outcome:
            self.outcomes[outcome] += 1
        delivered = 200 <= call.status < 300
        if delivered or self._outgoing.disable_after_ms:
            self._note_attempt(tenant, host_of(callback.url), now, delivered=delivered)

    def _note_attempt(self, tenant: str, host: str, now: Now, *, delivered: bool) -> None:
        """Pauses a host to which every attempt has failed for too long, as an administrator would."""
        shard, after_ms = self._runner.shard, self._outgoing.disable_after_ms
        if not receivers.note_attempt(shard, tenant, host, now, delivered=delivered, disable_after_ms=after_ms):
            return
        self.disabled += 1
        row = rows_pb2.AuditRow(
            subject=SUBJECT, tenant=tenant, call="PauseWebhooks", object=host, outcome="OK", after='{"paused":true}'
        )
        shard.audit.record(row, now)
        _log.warning(
            "webhook_host_paused",
            tenant=tenant,
            host=host,
            failing_seconds=after_ms // 1000,
            hint="mend the receiver, then run `codeq webhook resume`",
        )

    # -- requests ------------------------------------------------------------------------------------------------

    def _begin(self, callback: Callback) -> None:
        """Begins the request of a callback; or the callback waits, in its host's line or in the index of retries."""
        name, now_ms = host_of(callback.url), self._runner.mono_ms()
        if self._runner.shard.endpoints.is_paused(callback.queue.tenant, name):
            self._put_off(callback, PAUSE_MS)
            return
        host = self._hosts.get(name)
        wait_ms = self._outgoing.sender.busy(callback.url)
        if not wait_ms and (host is None or not host.line):
            if host is None:
                host = self._hosts[name] = _Host(now_ms)
            self._request(callback, name, host)
        elif wait_ms <= FULL_WAIT_MS and host is not None and now_ms - host.progress_ms < SLOW_MS:
            host.line.append(callback)
        else:
            self._put_off(callback, wait_ms if wait_ms > FULL_WAIT_MS else SLOW_WAIT_MS)

    def _put_off(self, callback: Callback, wait_ms: int) -> None:
        self._ended.append(_Ended(callback, None, wait_ms))
        self._woken.set()

    def _request(self, callback: Callback, name: str, host: _Host) -> None:
        seconds = self._runner.unix_seconds()
        body = body_of(callback)
        secrets = self._outgoing.secrets_for(self._runner.shard.endpoints, callback.queue.tenant, callback.url)
        told = headers(secrets, callback.delivery_id, int(seconds), body) | _trace_context(callback)
        span = None if self._outgoing.spans is None else self._outgoing.spans.begin(callback, told)
        host.running += 1
        request = self._outgoing.sender.post(callback.url, body, told)
        self._requests[request] = None
        request.add_done_callback(partial(self._answered, callback, name, int(seconds * 1000), span))

    def _answered(
        self, callback: Callback, name: str, at_ms: int, span: Span | None, request: asyncio.Task[Answer]
    ) -> None:
        self._requests.pop(request, None)
        if request.cancelled() or self._stopped:
            return  # the courier, or the sender, has stopped
        answer, host = request.result(), self._hosts[name]
        call = Call(at_ms, answer.status, answer.duration_ms, answer.error, answer.retry_after_s * 1000)
        if span is not None and self._outgoing.spans is not None:
            self._outgoing.spans.end(span, call)
        self._ended.append(_Ended(callback, call, 0))
        self._woken.set()
        host.running -= 1
        host.progress_ms = self._runner.mono_ms()
        while host.line:
            wait_ms = self._outgoing.sender.busy(host.line[0].url)
            if wait_ms and wait_ms <= FULL_WAIT_MS and host.running:
                break
            following = host.line.popleft()
            if wait_ms:
                self._put_off(following, max(wait_ms, SLOW_WAIT_MS))
            else:
                self._request(following, name, host)
        if not host.running:
            del self._hosts[name]

    def _leave_slow_lines(self) -> None:
        """Puts off callbacks in line for hosts that do not answer."""
        now_ms = self._runner.mono_ms()
        for host in self._hosts.values():
            if host.line and now_ms - host.progress_ms >= SLOW_MS:
                for callback in host.line:
                    self._put_off(callback, SLOW_WAIT_MS)
                host.line.clear()


def _trace_context(callback: Callback) -> dict[str, str]:
    """Returns the headers with the trace context of the task, so that its receiver belongs to the same trace."""
    named = {"traceparent": callback.traceparent, "tracestate": callback.tracestate}
    return {name: value for name, value in named.items() if value} if callback.traceparent else {}
