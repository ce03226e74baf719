"""`codeq serve` for many tenants: every token is accepted with full rights and belongs to the tenant of the same name.

A static token belongs to one tenant, but measurements of fairness need several.
"""

from __future__ import annotations

import sys

from codeq_cli.main import main
from codeq_server.auth.claims import WILDCARD, WORKER_SCOPES, Token
from codeq_server.auth.static import StaticToken
from codeq_server.node import app


class _TokenOfTenant:
    def __init__(self, config: StaticToken) -> None:
        """Ignores the configuration of a static token."""

    def validate(self, token: str) -> Token:
        """Returns the content of an administrator's and worker's token for the tenant named by the token."""
        return Token(
            subject=token,
            email="",
            scopes=WORKER_SCOPES,
            event_types=frozenset({WILDCARD}),
            raw={"tenantId": token, "role": "ADMIN"},
        )


if __name__ == "__main__":
    app.StaticValidator = _TokenOfTenant  # type: ignore[assignment, attr-defined]
    sys.exit(main())
