"""The limit on open streams."""

from __future__ import annotations

import asyncio
import time

import pytest
from codeq.v1 import producer_service_pb2 as pb
from codeq_server.auth.claims import Claims
from codeq_server.core.errors import Reason, Rejection
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
    registry = streams.StreamRegistry()
    async with asyncio.TaskGroup() as group:
        async with registry.member(ignore, group, lasting_token()):
            with pytest.raises(Rejection) as refused:
                async with registry.member(also_ignore, group, lasting_token()):
                    pass
        assert refused.value.reason is Reason.LIMIT_REACHED
        async with registry.member(also_ignore, group, lasting_token()):
            assert len(registry) == 1
