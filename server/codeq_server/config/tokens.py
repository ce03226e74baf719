"""Completes the token settings: each role has a usable token that belongs to a tenant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from codeq_server.auth.claims import TENANT, WILDCARD, WORKER_SCOPES, InvalidTenantError, tenant_of
from codeq_server.auth.static import DEFAULT_SUBJECT
from codeq_server.config.declaration import variable
from codeq_server.config.settings import Settings, StaticAuthSettings
from codeq_server.config.sources import GivenSettings

DEV_TOKEN: Final = "dev-token"  # noqa: S105 - well known, and served on loopback only
DEV_TENANT: Final = "dev-tenant"

_DEV: Final = {
    "producer": StaticAuthSettings(
        token=DEV_TOKEN, subject="producer-dev", raw={"role": "ADMIN", "tenantId": DEV_TENANT}
    ),
    "worker": StaticAuthSettings(
        token=DEV_TOKEN,
        subject="worker-dev",
        scopes=WORKER_SCOPES,
        event_types=frozenset({WILDCARD}),
        raw={"tenantId": DEV_TENANT},
    ),
}
"""Tokens of --dev for roles without a configured one."""

ROLES: Final = ("producer", "worker")


def completed(given: GivenSettings, settings: Settings) -> Settings:
    """Returns the settings with a token for each role.

    Raises:
        ConfigError: A role has no token, or an unusable one.
    """
    found: dict[str, Any] = {}
    for role in ROLES:
        token = _configured(given, settings, role)
        if token is None:
            provider, config = variable(f"{role}_auth_provider"), variable(f"{role}_auth_config")
            raise given.error(
                f"{role}_auth_provider",
                f'no {role} token is configured: set {provider}=static and {config}=\'{{"token":"...",...}}\', '
                "or start with --dev",
            )
        found |= {f"{role}_auth_provider": "static", f"{role}_auth_config": token}
    return replace(settings, **found)


def producer_token(given: GivenSettings, servers: Settings) -> str:
    """Returns the producer token of a gateway's servers; empty: it is not configured.

    Raises:
        ConfigError: The token is unusable.
    """
    token = _configured(given, servers, "producer")
    return "" if token is None else token.token


def _configured(given: GivenSettings, settings: Settings, role: str) -> StaticAuthSettings | None:
    """Returns the token of a role, with --dev a well-known one by default; None: none is configured."""
    provider, config = f"{role}_auth_provider", f"{role}_auth_config"
    token: StaticAuthSettings | None = getattr(settings, config)
    if getattr(settings, provider) is None and token is None:
        return _DEV[role] if settings.dev else None
    if getattr(settings, provider) is None:
        raise given.error(config, f"needs {variable(provider)}=static")
    if token is None:
        raise given.error(provider, f"needs {variable(config)}")
    if role == "worker" and not (token.scopes and token.event_types):
        raise given.error(config, "a worker's token needs scopes and eventTypes: without them it permits nothing")
    token = replace(token, token=token.token.strip(), subject=token.subject.strip() or DEFAULT_SUBJECT)
    try:
        tenant_of(token.subject, token.raw)
    except InvalidTenantError:
        raise given.error(
            config, f"has no valid tenant, or several: set raw.tenantId to a name that matches {TENANT.pattern}"
        ) from None
    return token
