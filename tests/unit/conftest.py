"""Properties are tried without a deadline for each example: machines that run tests are busy at times."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None)
settings.load_profile("unit")
