"""Reads JSON Web Tokens (RFC 7519) strictly, and checks all but their signature."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from codeq_server.auth.claims import NO_TENANT_CLAIM, Token
from codeq_server.auth.jwks.config import JwksConfig
from codeq_server.auth.jwks.keys import KID_CHARS_MAX

TIME_MAX: Final = 253_402_300_799
"""Latest accepted time in a token: the end of the year 9999, in seconds of Unix time."""

TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""Accepted values of the header's `typ`, in lower case. Others mark tokens that are not for access, such as logouts."""

_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_SCOPES: Final = ("scope", "scp", "scopes")
_EVENT_TYPES: Final = ("eventTypes", "event_types")
_TENANT: Final = "tenantId"
_OTHER_TENANTS: Final = ("tid", "tenant_id", "organizationId", "organization_id")
_JSON_OBJECT: Final = msgspec.json.Decoder(dict[str, object])


class RefusedError(Exception):
    """A token is not accepted. The text says why, without anything of the token."""


class ForOthersError(RefusedError):
    """A token is of another issuer or for others, so another validator may accept it."""


class Jwt(NamedTuple):
    """A token whose signature is not verified yet.

    Attributes:
        header: Parameters of the header.
        claims: The claims.
        signed: The bytes that are signed.
        signature: The signature.
    """

    header: Mapping[str, object]
    claims: Mapping[str, object]
    signed: bytes
    signature: bytes


class Need(NamedTuple):
    """The key that a token needs.

    Attributes:
        kid: Id of the key; None: the token names none.
        algorithm: Algorithm of the signature.
    """

    kid: str | None
    algorithm: str


def parsed(token: str) -> Jwt | None:
    """Returns the parts of a token; None: it is not a signed JSON Web Token."""
    if _SHAPE.fullmatch(token) is None:
        return None
    signed, _, signature = token.rpartition(".")
    header, _, claims = signed.partition(".")
    try:
        return Jwt(
            _JSON_OBJECT.decode(_decoded(header)),
            _JSON_OBJECT.decode(_decoded(claims)),
            signed.encode(),
            _decoded(signature),
        )
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _decoded(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def needed_key(jwt: Jwt, config: JwksConfig) -> Need:
    """Returns the key that a token needs, once its header is checked.

    Raises:
        RefusedError: The header is not accepted.
    """
    algorithm, kid, kind = jwt.header.get("alg"), jwt.header.get("kid"), jwt.header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in config.algorithms:
        raise RefusedError("its algorithm is not allowed")
    if "crit" in jwt.header or "b64" in jwt.header:
        raise RefusedError("it has critical extensions (`crit`), which are not supported")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise RefusedError("its type (`typ`) is not that of an access token")
    if "kid" in jwt.header and not (isinstance(kid, str) and 0 < len(kid) <= KID_CHARS_MAX):
        raise RefusedError("its `kid` is malformed")
    return Need(kid if isinstance(kid, str) else None, algorithm)


def checked_expiry(claims: Mapping[str, object], config: JwksConfig, now: float) -> float:
    """Returns when a token ends, in seconds of Unix time and the allowed skew included; that may have passed.

    Raises:
        RefusedError: It is of another issuer, for others, not valid yet, or without a claim that it needs.
    """
    if claims.get("iss") != config.issuer:
        raise ForOthersError("its issuer (`iss`) is not the configured one")
    audience = _texts(claims, "aud")
    if not audience or audience.isdisjoint(config.audience):
        raise ForOthersError("its audience (`aud`) is none of the configured ones")
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise RefusedError("it never expires: `exp` is missing")
    for name in ("nbf", "iat"):
        begins_at = _time(claims, name)
        if begins_at is not None and begins_at > now + config.clock_skew:
            raise RefusedError(f"it is not valid yet: `{name}` is in the future")
    return expires_at + config.clock_skew


def content_of(claims: Mapping[str, object], config: JwksConfig, expires_at: float) -> Token:
    """Returns what a token tells of its holder.

    Raises:
        RefusedError: It has no subject, or a claim of the wrong type.
    """
    subject, email = claims.get("sub"), claims.get("email")
    if not isinstance(subject, str) or not subject.strip():
        raise RefusedError("it has no subject (`sub`)")
    scopes = (_words(claims, name) for name in _SCOPES)
    event_types = frozenset[str]().union(*(_texts(claims, name) for name in _EVENT_TYPES))
    if not event_types and any(name in claims for name in _EVENT_TYPES):
        raise RefusedError("its list of event types is empty")  # without a list, a producer may use every command
    return Token(
        subject=subject.strip(),
        email=email if isinstance(email, str) else "",
        scopes=frozenset().union(*scopes),
        event_types=event_types,
        raw=_with_tenant(claims, config.tenant_claim),
        expires_at=expires_at,
    )


def _time(claims: Mapping[str, object], name: str) -> float | None:
    """Returns a time in seconds; None: there is none."""
    value = claims.get(name)
    if name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= TIME_MAX:
        raise RefusedError(f"`{name}` is not a time")
    return float(value)


def _texts(claims: Mapping[str, object], name: str) -> frozenset[str]:
    """Returns the texts of a claim that is a list of them, or just one; none if it is missing.

    A malformed list is not taken as empty, since some lists limit what a token may do.
    """
    value = claims.get(name, [])
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RefusedError(f"`{name}` is neither a text nor a list of texts")
    return frozenset(items)


def _words(claims: Mapping[str, object], name: str) -> frozenset[str]:
    """Returns the words of a claim that is a text or a list of them.

    Only spaces separate words (RFC 6749, 3.3). Other white space is not taken as part of a word, either: a scope that
    takes rights away must not get lost.
    """
    found: set[str] = set()
    for text in _texts(claims, name):
        words = [word for word in text.split(" ") if word]
        if words != text.split():
            raise RefusedError(f"`{name}` has white space other than spaces")
        found.update(words)
    return frozenset(found)


def _with_tenant(claims: Mapping[str, object], path: str) -> Mapping[str, object]:
    """Returns the claims with the tenant of the configured claim, which then is the only one.

    A token without that claim has no tenant: falling back on its subject could be another one's tenant.
    """
    if not path:
        return claims
    others = {name: value for name, value in claims.items() if name not in _OTHER_TENANTS}
    tenant = _at(claims, path)
    return others | {_TENANT: NO_TENANT_CLAIM if tenant is None else tenant}


def _at(claims: Mapping[str, object], path: str) -> object:
    """Returns the claim of a name, or within nested claims at a path of names with dots; None: there is none."""
    if path in claims:
        return claims[path]
    value: object = claims
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
