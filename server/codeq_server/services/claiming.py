"""Claims of unary calls: immediate, or long-polling for work."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from codeq_server.auth.claims import Claims
from codeq_server.core.claims import Delivered, claim
from codeq_server.core.deliveries import Claim
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.model import Caller, TaskKey
from codeq_server.core.outcomes import give_back
from codeq_server.core.status import Outcome
from codeq_server.engine.runner import ShardRunner

Claimed = tuple[Claim, list[Delivered]]


class Lease(NamedTuple):
    """How long the leases of a claim are.

    Attributes:
        ms: Their length.
        is_default: Whether the caller named none, so that the policy of a queue may name another one.
    """

    ms: int
    is_default: bool


def claim_now(
    runner: ShardRunner, caller: Caller, commands: Sequence[str] | None, count: int, bytes_max: int, lease: Lease
) -> Claimed | None:
    """Claims tasks that are available now; returns None if there are none. The claim is not durable yet.

    Raises:
        Rejection: OUTCOME_UNKNOWN.
    """
    now = runner.now()
    try:
        claimed = claim(runner.shard, caller, commands, count, bytes_max, lease.ms, now, by_policy=lease.is_default)
    except Exception as problem:
        raise runner.fail(problem) from problem
    runner.changed()
    return claimed


def return_unused(runner: ShardRunner, claim: Claim, task_ids: Iterable[TaskKey]) -> None:
    """Gives back the unused deliveries of a claim that are still live; each task returns to its place."""
    shard = runner.shard
    try:
        now = runner.now()
        for task_id in task_ids:
            delivery = shard.deliveries.get(task_id)
            if delivery is not None and delivery.claim is claim:
                del shard.deliveries[task_id]
                give_back(shard, delivery, task_id, Outcome.BY_SERVER, now)
    except Rejection:
        return  # the runner no longer decides: the leases will expire
    except Exception as problem:  # noqa: BLE001 - memory may hold half a decision
        runner.fail(problem)
        return
    runner.changed()


def return_claims(runner: ShardRunner, claims: Iterable[Claimed]) -> None:
    """Gives back the deliveries of claims whose worker did not get them."""
    for held, delivered in claims:
        return_unused(runner, held, [d.task_id for d in delivered])


async def claim_or_wait(
    runner: ShardRunner,
    caller: Caller,
    commands: Sequence[str] | None,
    count: int,
    bytes_max: int,
    lease: Lease,
    wait_seconds: float,
) -> Claimed | None:
    """Waits for work and claims it; returns None on timeout. A cancelled wait claims nothing.

    Raises:
        Rejection: OUTCOME_UNKNOWN.
    """
    waiter = _PollWaiter(runner, caller, commands, count, bytes_max, lease)
    runner.waiting.wait(waiter, caller.tenant, commands)
    try:
        async with asyncio.timeout(wait_seconds):
            return await waiter.future
    except TimeoutError:
        return waiter.claimed
    except asyncio.CancelledError:
        if waiter.claimed is not None:
            return_unused(runner, waiter.claimed[0], [d.task_id for d in waiter.claimed[1]])
        raise
    finally:
        runner.waiting.leave(waiter)


def allowed_commands(claims: Claims, commands: Sequence[str]) -> list[str] | None:
    """Returns the commands to claim from; None: all commands of the tenant.

    Raises:
        Rejection: COMMAND_NOT_ALLOWED.
    """
    if not commands:
        return None if claims.allows_every_command else sorted(claims.event_types)
    for command in commands:
        if not claims.allows_command(command):
            raise Rejection(Reason.COMMAND_NOT_ALLOWED, f"the token does not allow the command {command}")
    return list(dict.fromkeys(commands))


class _PollWaiter:
    """A long poll waiting for work."""

    def __init__(
        self,
        runner: ShardRunner,
        caller: Caller,
        commands: Sequence[str] | None,
        count: int,
        bytes_max: int,
        lease: Lease,
    ) -> None:
        self.future: asyncio.Future[Claimed] = asyncio.get_running_loop().create_future()
        self.claimed: Claimed | None = None
        self._runner = runner
        self._claim = (caller, commands, count, bytes_max, lease)

    def wake(self) -> None:
        """Claims for the caller; keeps waiting if another caller took the work."""
        if self.future.done():
            return
        try:
            self.claimed = claim_now(self._runner, *self._claim)
        except Rejection as rejection:
            self.future.set_exception(rejection.again())
            return
        if self.claimed is None:
            self._runner.waiting.wait(self, self._claim[0].tenant, self._claim[1])
        else:
            self.future.set_result(self.claimed)

    def drain(self, refusal: Rejection) -> None:
        """Ends the poll with the rejection."""
        if not self.future.done():
            self.future.set_exception(refusal.again())
