"""Fixtures of the gateway's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from served_gateway import Served, serving


@pytest.fixture(params=["inside", "apart"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """A running gateway, once with its dispatcher in the process and once behind a call stream."""
    async with serving(apart=request.param == "apart") as running:
        yield running


@pytest.fixture
async def served_inside() -> AsyncIterator[Served]:
    """A running gateway with its dispatcher in the process."""
    async with serving() as running:
        yield running
