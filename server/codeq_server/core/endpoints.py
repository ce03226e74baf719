"""What tenants have set for the receivers of their webhooks: secrets, and hosts whose callbacks wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from codeq_internal.v1 import rows_pb2

ENDPOINTS_MAX = 1_000
"""Maximum number of endpoints and hosts for which a tenant sets something."""
FAILING_MAX = 500
"""Maximum number of endpoints and hosts of a tenant with which a host that fails is recorded."""
EVERY: Final = ""
"""Name that stands for all endpoints of a tenant."""


class Endpoints:
    """The stored settings of all tenants, in memory.

    Attributes:
        check_url: Returns what is wrong with a URL to which requests are to be made; empty: nothing. The caller of the
            core sets it.
    """

    __slots__ = ("_rows", "check_url")

    def __init__(self) -> None:
        self.check_url: Callable[[str], str] = _is_fine
        self._rows: dict[str, dict[str, rows_pb2.EndpointRow]] = {}

    def put(self, tenant: str, endpoint: str, row: rows_pb2.EndpointRow | None) -> None:
        """Sets a tenant's settings for an endpoint; None: there are none."""
        of_tenant = self._rows.setdefault(tenant, {})
        if row is not None:
            of_tenant[endpoint] = row
        else:
            of_tenant.pop(endpoint, None)
            if not of_tenant:
                del self._rows[tenant]

    def of(self, tenant: str) -> dict[str, rows_pb2.EndpointRow]:
        """Returns the settings of a tenant by endpoint; the caller does not change them."""
        return self._rows.get(tenant, {})

    def get(self, tenant: str, endpoint: str) -> rows_pb2.EndpointRow | None:
        """Returns a tenant's settings for exactly this endpoint."""
        return self.of(tenant).get(endpoint)

    def secrets(self, tenant: str, endpoint: str) -> list[str]:
        """Returns the secrets for an endpoint, newest first: its own or, without any, those for all endpoints."""
        of_tenant = self.of(tenant)
        for name in (endpoint, EVERY):
            row = of_tenant.get(name)
            if row is not None and row.secrets:
                return list(row.secrets)
        return []

    def is_paused(self, tenant: str, host: str) -> bool:
        """Returns whether a tenant's callbacks to a host wait."""
        row = self.of(tenant).get(host)
        return row is not None and row.paused


def _is_fine(url: str) -> str:  # noqa: ARG001 - without a check, every URL is
    return ""
