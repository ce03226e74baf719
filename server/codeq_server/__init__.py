"""Server of codeq."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec


def is_compiled() -> bool:
    """Returns whether the hot modules of this installation are compiled extensions; imports none of them."""
    found = find_spec("codeq_server.core.shard")
    return found is not None and str(found.origin).endswith(tuple(EXTENSION_SUFFIXES))
