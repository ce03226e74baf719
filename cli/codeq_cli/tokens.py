"""Random secrets, and static tokens as the server's configuration has them."""

from __future__ import annotations

import secrets
from typing import Final

SECRET_BYTES: Final = 32
"""Random bytes of a secret."""


def secret() -> str:
    """Returns a new random secret of 64 hexadecimal digits."""
    return secrets.token_hex(SECRET_BYTES)


def producer(token: str, tenant: str) -> dict[str, object]:
    """Returns the token of producers, who are administrators and operators, too."""
    return {
        "token": token,
        "subject": "producer",
        "scopes": ["codeq:operator"],
        "raw": {"tenantId": tenant, "role": "ADMIN"},
    }


def worker(token: str, tenant: str) -> dict[str, object]:
    """Returns the token of workers, with every scope and for all commands."""
    from codeq_server.auth.claims import WORKER_SCOPES

    return {
        "token": token,
        "subject": "worker",
        "scopes": sorted(WORKER_SCOPES),
        "eventTypes": ["*"],
        "raw": {"tenantId": tenant},
    }
