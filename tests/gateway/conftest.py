"""Resources of the gateway's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from served_gateway import Served, serving


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A running gateway."""
    async with serving() as running:
        yield running
