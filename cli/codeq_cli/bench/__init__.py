"""The load of `codeq bench`: producers and workers of the Python SDK, and what they measure."""

from __future__ import annotations

from codeq_cli.bench.load import Load, Scenario, UndeliveredError, run

__all__ = ["Load", "Scenario", "UndeliveredError", "run"]
