"""What the search must not do: wait for work, which would take its time and show nothing."""

from __future__ import annotations

from typing import Any

import schemathesis

WAIT = "waitSeconds"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Asks for no wait where a valid one would be asked for."""
    for part in (case.body, case.query):
        if isinstance(part, dict) and isinstance(part.get(WAIT), int | float):
            part[WAIT] = min(part[WAIT], 0)
