"""Parses the configured origins of web pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from codeq_server.config import keys
from codeq_server.config.settings import ConfigError

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


def parse(key: str, given: Sequence[str] | str) -> tuple[str, ...]:
    """Returns the origins of a list or comma-separated text, without duplicates and as browsers write them.

    Raises:
        ConfigError: An origin is malformed, or there are too many.
    """
    texts = given.split(",") if isinstance(given, str) else given
    origins = tuple(dict.fromkeys(text.strip().lower() for text in texts if text.strip()))
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(key, f"expected origins such as https://console.example, without a path; got {origin!r}")
        if origin.endswith(_DEFAULT_PORTS.get(origin.partition(":")[0], "/")):
            raise ConfigError(key, f"browsers omit the default port: {origin!r} would never match")
    if len(origins) > keys.ORIGINS_MAX:
        raise ConfigError(key, f"more than {keys.ORIGINS_MAX} origins")
    return origins
