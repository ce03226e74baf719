"""The settings of an identity provider by the names that other versions use, for the provider `jwks`.

They count for a role whose provider is not named, or is `jwks` without a configuration of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from codeq_server.config import foreign
from codeq_server.config.given import Given, Note
from codeq_server.config.provider import GroupProvider
from codeq_server.config.providers import PROVIDERS, AuthConfig
from codeq_server.config.sources import GivenSettings

PROVIDER: Final = "jwks"
"""The provider that they configure."""

KEYS_PATH: Final = "/v1/.well-known/jwks.json"
"""Path of the keys below `identityServiceUrl`."""

WORKER_AUDIENCE: Final = "codeq-worker"
"""Default of `workerAudience`."""

_BASE: Final = "identity_service_url"
_CLOCK_SKEW: Final = "allowed_clock_skew_seconds"
_OF_ROLE: Final[Mapping[str, Mapping[str, str]]] = {
    "producer": {"jwks_url": "identity_jwks_url", "issuer": "identity_issuer", "audience": "identity_audience"},
    "worker": {"jwks_url": "worker_jwks_url", "issuer": "worker_issuer", "audience": "worker_audience"},
}
"""The settings of each role, by the provider's field that they give."""


def configured(given: GivenSettings, role: str) -> AuthConfig | None:
    """Returns the provider that the settings of a role stand for; None: they name no identity provider.

    Raises:
        ConfigError: They are unusable.
    """
    provider, parts = PROVIDERS.get(PROVIDER), _parts(given, role)
    chosen = parts.get("jwks_url") or parts.get("issuer")
    if chosen is None or not isinstance(provider, GroupProvider):
        return None
    for field, declared in provider.group.settings.items():
        if declared.default is dataclasses.MISSING and field not in parts:
            raise given.error(_OF_ROLE[role][field], f"is required with {chosen.key}")
    return AuthConfig(PROVIDER, role, chosen.key, provider.group.build(parts, chosen))


def unused(given: GivenSettings, auths: Mapping[str, AuthConfig]) -> Iterator[Note]:
    """Yields warnings about settings that do not count; `auths`: the provider of each role."""
    for role, auth in auths.items():
        if auth.key in {each.key for each in _parts(given, role).values()}:
            continue
        keys = [each.key for name in _OF_ROLE[role].values() if (each := _given(given, name)) is not None]
        if keys:
            yield Note(", ".join(keys), f"without effect: {given.key(f'{role}_auth_config')} says who is accepted")


def _parts(given: GivenSettings, role: str) -> dict[str, Given]:
    """Returns the given values by the provider's fields."""
    names = {**_OF_ROLE[role], _CLOCK_SKEW: _CLOCK_SKEW}
    parts = {field: each for field, name in names.items() if (each := _given(given, name)) is not None}
    if role == "worker":
        parts.setdefault("audience", Given(WORKER_AUDIENCE, "WORKER_AUDIENCE"))
    elif (base := _given(given, _BASE)) is not None:
        parts.setdefault("issuer", base)
        parts.setdefault("jwks_url", replace(base, value=f"{str(base.value).rstrip('/')}{KEYS_PATH}"))
    return parts


def _given(given: GivenSettings, name: str) -> Given | None:
    """Returns a value that is given; an empty one, and one that says no, are not."""
    each = given.get(name)
    return None if each is None or (name != _CLOCK_SKEW and foreign.is_off(each.value)) else each
