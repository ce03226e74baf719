"""A call that is routed, and calls that are made at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import Message

from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.services.methods import TENANT_FIELD, Method
from codeq_server.services.shards import Caller, Shards

Outcome = Message | Rejection
"""What came of a call on one shard."""


class Routed(NamedTuple):
    """A call over several shards.

    Attributes:
        method: Its method.
        request: Its request, which is never changed.
        caller: Who makes it.
    """

    method: Method
    request: Any
    caller: Caller

    @property
    def tenant(self) -> str:
        """Tenant on which the call acts."""
        return acting_tenant(self.caller.claims, self.request)

    def copy(self) -> Any:
        """Returns a copy of the request, to be changed for one shard."""
        made = type(self.request)()
        made.CopyFrom(self.request)
        return made


def acting_tenant(claims: Claims, request: Any) -> str:
    """Returns the tenant on which a call acts, if its caller may name it."""
    return getattr(request, TENANT_FIELD, "") or claims.tenant_id


async def attempt(
    shards: Shards, shard: int, routed: Routed, request: Message | None = None, *, part: bool = True
) -> Outcome:
    """Executes a call on one shard; returns a rejection instead of raising it.

    Args:
        shards: The shards.
        shard: The shard.
        routed: The call.
        request: Request for the shard; None: that of the call.
        part: Whether the call is charged and recorded elsewhere.
    """
    try:
        return await shards.call(
            shard, routed.method.name, routed.request if request is None else request, routed.caller, part=part
        )
    except Rejection as rejection:
        return rejection


async def at_once(calls: Iterable[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """Makes several calls at once and returns their outcomes in order; cancelling it cancels all."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    outcomes: list[Outcome] = []
    try:
        for task in tasks:
            outcomes.append(await task)  # noqa: PERF401 - mypyc cannot compile asynchronous comprehensions
    finally:
        for task in tasks:
            task.cancel()
    return outcomes


def answers_of(outcomes: Sequence[Outcome], absent: Reason | None = None) -> list[Any]:
    """Returns the replies among the outcomes.

    Args:
        outcomes: What came of the calls.
        absent: Reason of a rejection that says that a shard has nothing of what the call is about; None: there is none.

    Raises:
        Rejection: The first one that has another reason, or if there is no reply.
    """
    refused = [outcome for outcome in outcomes if isinstance(outcome, Rejection)]
    for rejection in refused:
        if rejection.reason is not absent:
            raise rejection
    answers = [outcome for outcome in outcomes if not isinstance(outcome, Rejection)]
    if refused and not answers:
        raise refused[0]
    return answers
