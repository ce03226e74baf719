"""Removal of ended tasks before their retention ends, in bounded steps."""

from __future__ import annotations

import asyncio
from typing import Final

from codeq.v1 import task_service_pb2 as pb

from codeq_server.auth.claims import Claims
from codeq_server.core import keys
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.listing import Walk
from codeq_server.core.redrive import CLEANUP_SLICE, cleanup
from codeq_server.engine.runner import ShardRunner

from .auditing import Act
from .convert import unix_ms
from .listing import PAGE_ROWS_MAX
from .page_tokens import last_key, page_token

LIMIT_DEFAULT: Final = 1000
"""Maximum tasks removed by a call without a limit."""


async def clean(
    runner: ShardRunner, claims: Claims, request: pb.CleanupTasksRequest, act: Act
) -> pb.CleanupTasksResponse:
    """Removes ended tasks of a tenant, in the order in which their retention ends.

    Raises:
        Rejection: INVALID_PAGE_TOKEN, COMMAND_NOT_ALLOWED.
    """
    if claims.seen_commands is not None:
        raise Rejection(Reason.COMMAND_NOT_ALLOWED, "the call concerns every command, and the token does not allow all")
    tenant = claims.tenant_id
    limit, before_ms = request.limit or LIMIT_DEFAULT, unix_ms(request.before)
    of = ("cleanup", tenant, before_ms)
    walk = Walk(*keys.ended_after(runner.shard.sweep_mark))
    if request.page_token:
        # Starts with the token's row again, because some of its tasks may be left.
        walk.start = max(walk.start, last_key(request.page_token, keys.KEY_BYTES[keys.ENDED], *of))
    deleted = examined = 0
    key, start = b"", None
    try:
        while deleted < limit and examined < PAGE_ROWS_MAX:
            await runner.room(tenant, CLEANUP_SLICE)
            if start is None:
                rows = walk.read(runner.shard, 1)
                if not rows:
                    break
                key, start = rows[0][0], 0
            runner.now()  # raises if the runner no longer decides
            try:
                cleaned = cleanup(runner.shard, key, tenant, before_ms, start, limit - deleted)
            except Exception as problem:
                raise runner.fail(problem) from problem
            deleted, examined, start = deleted + cleaned.removed, examined + cleaned.looked, cleaned.following
            if cleaned.removed:
                act.record(runner, after={"deleted": deleted})
            runner.changed()
            await asyncio.sleep(0)
        if not deleted:
            act.record(runner, after={"deleted": 0})
        await runner.wait_durable()
    except Rejection as refusal:
        raise runner.refused(refusal, decided=deleted > 0) from None
    token = page_token(key, *of) if deleted >= limit or examined >= PAGE_ROWS_MAX else ""
    return pb.CleanupTasksResponse(deleted=deleted, before=request.before, limit=limit, next_page_token=token)
