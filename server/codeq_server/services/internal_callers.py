"""Who may use the internal services: processes of the same installation, which show a secret."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any

from codeq_gateway.links import SECRET_KEY

from codeq_server.core.errors import Reason, Rejection

Denied = Callable[[str, Rejection, str], None]
"""Records that a caller was refused: the service, the rejection and the caller's gRPC peer."""


class InternalCallers:
    """Checks the secrets of callers.

    Args:
        secrets: Secrets of which a caller must show one; empty ones admit nobody.
        denied: Called when a caller is refused.
        on_known: Called with the gRPC peer of a connection that presented a secret.
    """

    def __init__(self, secrets: Sequence[str], denied: Denied, on_known: Callable[[str], None]) -> None:
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._denied = denied
        self._on_known = on_known

    def check(self, service: str, context: Any) -> str:
        """Checks that the caller belongs to this installation; call it before anything is read.

        Returns:
            The secret that it has shown.

        Raises:
            Rejection: UNAUTHENTICATED.
        """
        shown = dict(context.invocation_metadata()).get(SECRET_KEY, "")
        given = shown.encode() if isinstance(shown, str) else shown
        known = [secret for secret in self._secrets if hmac.compare_digest(given, secret)]
        if not known:
            refusal = Rejection(Reason.UNAUTHENTICATED, "the gateway secret is missing or wrong: see gatewaySecret")
            self._denied(service, refusal, context.peer())
            raise refusal
        self._on_known(context.peer())
        return known[0].decode()
