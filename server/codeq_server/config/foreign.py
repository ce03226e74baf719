"""Settings of features that this version lacks: rejected if they switch one on, accepted if they switch it off."""

from __future__ import annotations

import re
from typing import Final

from codeq_server.config.declaration import file_key

VARIABLES: Final = frozenset(
    {
        "KVROCKS_PASSWORD",
        "REDIS_ADDR",
        "REDIS_PASSWORD",
        "REQUEUE_INSPECT_LIMIT",
    }
)
"""Variables of features that this version lacks; in the file, their keys have the same names in camelCase."""

EXCLUDED_BY_RAFT: Final = ("sharding",)
"""Features that this version lacks and that cannot be combined with Raft anyway."""

_KEYS: Final = frozenset(
    {
        *EXCLUDED_BY_RAFT,
        "env",
        "timezone",
    }
)
_KEYS_OF_VARIABLES: Final = frozenset(file_key(name.lower()) for name in VARIABLES)
_OFF: Final = frozenset({"", "0", "false", "no", "off"})

# Container platforms set variables that describe every service in the network, even one named "codeq", and every
# variable of a linked container.
_SERVICE_LINK: Final = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR|START|END))*|ENV_.+)"
)
_SERVICE_PORT: Final = re.compile(r"(tcp|udp|sctp)://.*", re.IGNORECASE)
_CONTAINER_NAME: Final = re.compile(r"/[^/]+/[^/]+")


def is_variable(variable: str) -> bool:
    """Returns whether a variable belongs to a feature that this version lacks."""
    return variable in VARIABLES


def is_key(key: object) -> bool:
    """Returns whether a key of the file belongs to a feature that this version lacks."""
    return key in _KEYS or key in _KEYS_OF_VARIABLES


def is_off(value: object) -> bool:
    """Returns whether the value switches the feature off."""
    if isinstance(value, str):
        return value.strip().lower() in _OFF
    if isinstance(value, dict):
        return not value or is_off(value.get("enabled", True))
    return not value


def is_service_link(variable: str, text: str) -> bool:
    """Returns whether a container platform set a variable to describe a service or container named after codeq."""
    return bool(
        _SERVICE_LINK.fullmatch(variable)
        or _SERVICE_PORT.fullmatch(text)
        or (variable.endswith("_NAME") and _CONTAINER_NAME.fullmatch(text))
    )
