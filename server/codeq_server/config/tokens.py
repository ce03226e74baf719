"""Completes the settings of tokens: each role has a provider, named or implied by its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from codeq_server.auth.claims import OPERATOR_SCOPE, WILDCARD, WORKER_SCOPES
from codeq_server.config import identity
from codeq_server.config.declaration import variable
from codeq_server.config.given import ConfigError, Given
from codeq_server.config.providers import PROVIDERS, AuthConfig, read_config
from codeq_server.config.settings import Settings
from codeq_server.config.sources import GivenSettings
from codeq_server.config.static_settings import StaticAuth, StaticAuthSettings

DEV_TOKEN: Final = "dev-token"  # noqa: S105 - well known, and served on loopback only
DEV_TENANT: Final = "dev-tenant"

_DEV: Final = {
    "producer": StaticAuthSettings(
        token=DEV_TOKEN,
        subject="producer-dev",
        scopes=frozenset({OPERATOR_SCOPE}),
        raw={"role": "ADMIN", "tenantId": DEV_TENANT},
    ),
    "worker": StaticAuthSettings(
        token=DEV_TOKEN,
        subject="worker-dev",
        scopes=WORKER_SCOPES,
        event_types=frozenset({WILDCARD}),
        raw={"tenantId": DEV_TENANT},
    ),
}
"""Tokens of --dev for roles without a configured provider."""

ROLES: Final = ("producer", "worker")


class NoProviderError(ConfigError):
    """No tokens are configured for a role.

    Attributes:
        role: The role.
    """

    def __init__(self, role: str, error: ConfigError) -> None:
        super().__init__(error.key, error.message)
        self.role = role


def completed(given: GivenSettings, settings: Settings) -> Settings:
    """Returns the settings with a provider for each role.

    Raises:
        ConfigError: A role has none, or an unusable one.
    """
    found: dict[str, Any] = {}
    for role in ROLES:
        auth = _configured(given, settings, role, files=True)
        if auth is None:
            provider, config = variable(f"{role}_auth_provider"), variable(f"{role}_auth_config")
            *names, last = PROVIDERS
            error = given.error(
                f"{role}_auth_provider",
                f"no provider of {role} tokens is configured: set {provider} to {', '.join(names)} or {last}, and "
                f'{config} to its configuration, such as \'{{"token":"...",...}}\' for static; or start with --dev',
            )
            raise NoProviderError(role, error)
        found |= {f"{role}_auth_provider": auth.name, f"{role}_auth_config": auth}
    return replace(settings, **found)


def producer_secret(given: GivenSettings, servers: Settings) -> str:
    """Returns the secret of the only producer token of a gateway's servers; empty: it is not known, or there are more.

    Raises:
        ConfigError: The configuration of the producers' provider is unusable.
    """
    producer, worker = (_configured(given, servers, role, files=False) for role in ROLES)
    if producer is None or producer.takes_certificates or (worker is not None and worker.takes_certificates):
        return ""
    return producer.sole_secret


def _configured(given: GivenSettings, settings: Settings, role: str, *, files: bool) -> AuthConfig | None:
    """Returns the provider of a role, with --dev a well-known token by default; None: none is configured."""
    provider, config = f"{role}_auth_provider", f"{role}_auth_config"
    name: str | None = getattr(settings, provider)
    content: Given | None = getattr(settings, config)
    if name is not None and content is not None:
        return read_config(name, content, role, files=files)
    if content is not None:
        raise given.error(config, f"needs {variable(provider)}: {', '.join(PROVIDERS)}")
    if name in (None, identity.PROVIDER) and (found := identity.configured(given, role)) is not None:
        return found
    if name is not None:
        raise given.error(provider, f"needs {variable(config)}")
    if not settings.dev:
        return None
    return AuthConfig("static", role, variable(config), StaticAuth((_DEV[role],), is_one=True))
