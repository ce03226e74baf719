"""Command line of codeq."""

from __future__ import annotations

__version__ = "0.1.0"
"""Version of the distribution codeq-server, which is read from here."""
