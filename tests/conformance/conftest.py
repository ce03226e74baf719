"""Servers, peers and drivers for the cases: each is started when a case first needs it, and shared by later cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from case_world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What the cases of this process share."""
    with World(tmp_path_factory) as started:
        yield started
