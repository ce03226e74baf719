"""The limits on open streams."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from codeq.v1 import producer_service_pb2 as pb
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.limits import Limits
from codeq_server.core.tenants import Tenants
from codeq_server.services import streams
from codeq_server.services.stream_token import StreamToken

CLAIMS = Claims("w", "acme", frozenset(), frozenset(), "USER", is_admin=False)


async def no_renewal(_: str) -> Claims:
    raise Rejection(Reason.UNAUTHENTICATED, "invalid token")


def lasting_token() -> StreamToken:
    return StreamToken(CLAIMS, no_renewal, time.time)


async def ignore(_: pb.StreamNotice) -> None:
    """Ignores a notice."""


async def also_ignore(_: pb.StreamNotice) -> None:
    """Ignores a notice of another stream."""


async def test_stream_beyond_the_limit_is_rejected_until_another_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS_MAX", 1)
    registry = streams.StreamRegistry(Tenants())
    async with asyncio.TaskGroup() as group:
        async with registry.member(ignore, group, lasting_token()):
            with pytest.raises(Rejection) as refused:
                async with registry.member(also_ignore, group, lasting_token()):
                    pass
        assert refused.value.reason is Reason.LIMIT_REACHED
        async with registry.member(also_ignore, group, lasting_token()):
            assert len(registry) == 1


async def test_stream_beyond_the_tenants_quota_is_rejected_until_another_of_the_tenant_ends() -> None:
    tenants = Tenants(Limits(streams_max=1))
    registry = streams.StreamRegistry(tenants)
    other = StreamToken(replace(CLAIMS, tenant_id="globex"), no_renewal, time.time)
    async with asyncio.TaskGroup() as group:
        async with registry.member(ignore, group, lasting_token()):
            with pytest.raises(Rejection) as refused:
                async with registry.member(also_ignore, group, lasting_token()):
                    pass
            async with registry.member(also_ignore, group, other):
                assert (registry.count("acme"), registry.count("globex"), len(registry)) == (1, 1, 2)
        assert refused.value.reason is Reason.QUOTA_EXCEEDED
        assert refused.value.metadata == {"quota": "streamsMax", "limit": "1"}
        assert (registry.count("acme"), tenants.refused("acme").by_quota) == (0, 1)
        async with registry.member(also_ignore, group, lasting_token()):
            assert registry.count("acme") == 1
