"""`codeq serve` for many tenants: every token is accepted and is the name of its tenant, for all that it may call.

Static tokens know one tenant each, and measurements of fairness need several.
"""

from __future__ import annotations

import sys

from codeq_cli.main import main
from codeq_server.auth.claims import WILDCARD, WORKER_SCOPES, Token
from codeq_server.auth.static import StaticToken
from codeq_server.node import app


class _TokenOfTenant:
    def __init__(self, config: StaticToken) -> None:
        """Takes the configuration of a static token, which has no part in it."""

    def validate(self, token: str) -> Token:
        """Returns the token of an administrator and worker of the tenant with the token's name."""
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
