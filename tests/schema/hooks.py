"""Limits of the search: no long polls, which would take time and reveal nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import schemathesis

WAIT = "waitSeconds"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Replaces valid waits by 0; invalid waits, which must be rejected, stay."""
    longest = 60 if case.path.endswith("/result") else 30
    for part in (case.body, case.query):
        value = part.get(WAIT) if hasattr(part, "get") else None
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                if 0 < float(value) <= longest:
                    part[WAIT] = type(value)(0)
