"""What the `jwks` provider has to know of its identity provider."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signature algorithms that may be allowed. All use a pair of keys: with a shared secret, as of HMAC, the public key
would do to sign tokens."""

KEYS_FETCHED: Final = "keys_fetched"
"""Event: the keys were fetched again after `keys_not_fetched`. All other events of the provider tell of trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksConfig:
    """Configuration of the provider.

    Attributes:
        issuer: Issuer of accepted tokens, compared whole to their `iss`.
        audience: Audiences of accepted tokens; their `aud` must name at least one.
        jwks_url: URL of the issuer's keys; empty: the issuer is a URL, and its OpenID configuration names it.
        algorithms: Allowed signature algorithms.
        clock_skew: How far the issuer's clock may be off, in seconds.
        http_timeout: Longest time to fetch the keys, in seconds.
        refresh_seconds: How long fetched keys count as fresh.
        stale_seconds: How long they are used if they cannot be fetched again.
        tenant_claim: Claim with the tenant, or path of names with dots; empty: one of the usual claims.
        ca_file: PEM file with the CAs that may sign the issuer's certificate; None: those that the system trusts.
    """

    issuer: str
    audience: tuple[str, ...]
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ALGORITHMS
    clock_skew: float = 60.0
    http_timeout: float = 5.0
    refresh_seconds: float = 300.0
    stale_seconds: float = 86400.0
    tenant_claim: str = ""
    ca_file: Path | None = None
