"""Property tests have no deadline per example, because machines that run tests are sometimes busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None)
settings.load_profile("unit")
