"""ShardService: calls by which the processes of other shards find work here, and give back what they cannot use.

A hint claims nothing. Its waiter leaves the waiting room when it is woken, and the queue still has its work, so the
next waiter is woken at once: a hint that nobody uses strands no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from codeq_internal.v1 import shard_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core.claims import claimable_priority
from codeq_server.core.deliveries import Claim
from codeq_server.core.errors import Rejection
from codeq_server.core.lookup import find_live
from codeq_server.core.model import TaskKey
from codeq_server.engine.runner import ShardRunner

from .claiming import allowed_commands, return_unused

SHARD: Final = "codeq_internal.v1.ShardService"
"""Full name of the service. Clients cannot call it: it is served on call streams alone."""

AWAIT_WORK: Final = f"/{SHARD}/AwaitWork"
RETURN_TASKS: Final = f"/{SHARD}/ReturnTasks"

WAIT_MS_MAX: Final = 60_000
"""Maximum wait of one call, in milliseconds."""


class ShardService:
    """Hints at work, and takes back tasks. Methods have the names and contracts of the proto's RPCs."""

    def __init__(self, runner: ShardRunner) -> None:
        self._runner = runner

    async def AwaitWork(self, claims: Claims, request: pb.AwaitWorkRequest) -> pb.AwaitWorkResponse:  # noqa: N802
        """Waits until a task of the commands can be claimed."""
        runner = self._runner
        commands = allowed_commands(claims, request.commands)
        runner.now()  # raises if the runner no longer decides
        priority = claimable_priority(runner.shard, claims.tenant_id, commands)
        if priority is None and request.wait_ms > 0:
            wait = claims.patience(min(request.wait_ms, WAIT_MS_MAX) / 1000, runner.unix_seconds())
            priority = await _hint(runner, claims.tenant_id, commands, wait)
        return pb.AwaitWorkResponse(priority=priority)

    async def ReturnTasks(self, claims: Claims, request: pb.ReturnTasksRequest) -> pb.ReturnTasksResponse:  # noqa: N802
        """Gives back the tasks of a claim that are still leased by it."""
        runner = self._runner
        runner.now()  # raises if the runner no longer decides
        found: Claim | None = None
        unused: list[TaskKey] = []
        for task_id in request.task_ids:
            key, delivery = find_live(runner.shard, claims.tenant_id, task_id)
            # A token is given once in a shard, so the others are of the same claim, and of the same tenant.
            if delivery is None or delivery.claim.token != request.lease_token:
                continue
            if delivery.home.queue.tenant == claims.tenant_id and delivery.claim.worker == claims.subject:
                found = delivery.claim
                unused.append(key)
        if found is not None:
            return_unused(runner, found, unused)
        await runner.wait_durable()
        return pb.ReturnTasksResponse()


async def _hint(runner: ShardRunner, tenant: str, commands: Sequence[str] | None, wait_seconds: float) -> int | None:
    """Waits for work, and returns its priority; None on timeout."""
    waiter = _HintWaiter(runner, tenant, commands)
    runner.waiting.wait(waiter, tenant, commands)
    try:
        async with asyncio.timeout(wait_seconds):
            return await waiter.future
    except TimeoutError:
        return None
    finally:
        runner.waiting.leave(waiter)


class _HintWaiter:
    """Waits for work and only reports it."""

    def __init__(self, runner: ShardRunner, tenant: str, commands: Sequence[str] | None) -> None:
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._runner = runner
        self._tenant = tenant
        self._commands = commands

    def wake(self) -> None:
        """Reports the work; keeps waiting if another worker took it."""
        if self.future.done():
            return
        priority = claimable_priority(self._runner.shard, self._tenant, self._commands)
        if priority is None:
            self._runner.waiting.wait(self, self._tenant, self._commands)
        else:
            self.future.set_result(priority)

    def drain(self, refusal: Rejection) -> None:
        """Ends the wait with the rejection."""
        if not self.future.done():
            self.future.set_exception(refusal.again())
