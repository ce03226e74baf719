"""Reads the keys that an issuer publishes (RFC 7517). Each is good for exactly one algorithm."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import jwt

from codeq_server.auth.jwks.config import ALGORITHMS

KEYS_MAX: Final = 64
"""Maximum keys in a set; a larger set is not accepted."""

KID_CHARS_MAX: Final = 256
"""Maximum length of a key's id; longer ones are not accepted, in keys or in tokens."""

RSA_BITS: Final = range(2048, 8193)
"""Accepted sizes of RSA keys: smaller ones can be broken, and larger ones take milliseconds to verify with."""

RSA_EXPONENT_BITS_MAX: Final = 32
"""Maximum size of an RSA key's public exponent; a larger one makes a verification as slow as a signature."""

_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""Type of key by the beginning of an algorithm's name."""

_CURVES: Final = {
    "ES256": ("P-256",),
    "ES384": ("P-384",),
    "ES512": ("P-521",),
    "EdDSA": ("Ed25519", "Ed448"),
}
_PUBLIC: Final = ("kty", "n", "e", "crv", "x", "y")


class KeySetError(Exception):
    """An issuer's answer is not a set of keys, or has none that can be used."""


class _UnusableError(Exception):
    """A key cannot be used; the text says why."""


class Key(NamedTuple):
    """A public key.

    Attributes:
        kid: Its id; None: it has none.
        algorithm: Name of the one algorithm that it verifies.
        material: The key itself.
    """

    kid: str | None
    algorithm: str
    material: Any

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        """Returns whether a signature of the content was made with the private key."""
        return bool(_VERIFIERS[self.algorithm].verify(content, self.material, signature))


_VERIFIERS: Final = {name: jwt.get_algorithm_by_name(name) for name in ALGORITHMS}


class KeySet(NamedTuple):
    """The usable keys of an issuer.

    Attributes:
        keys: The keys.
        ignored: Why others cannot be used, one line each. Keys for encryption are left out: many issuers have one.
    """

    keys: tuple[Key, ...]
    ignored: tuple[str, ...] = ()

    def fitting(self, kid: str | None, algorithm: str) -> tuple[Key, ...]:
        """Returns the keys that a token with this header may be signed with; more than one: it is ambiguous.

        Args:
            kid: Id of the key; None: the token names none.
            algorithm: Algorithm of the token's signature.
        """
        return tuple(key for key in self.keys if key.algorithm == algorithm and kid in (None, key.kid))


def key_set(document: object, allowed: Collection[str]) -> KeySet:
    """Returns the keys of a JSON document that verify allowed algorithms.

    Raises:
        KeySetError: It is not a set of keys, is too large, or no key can be used.
    """
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise KeySetError("the answer is not a set of keys: it has no list `keys`")
    if len(found) > KEYS_MAX:
        raise KeySetError(f"the set has {len(found)} keys; at most {KEYS_MAX} are accepted")
    keys: list[Key] = []
    ignored = []
    for number, each in enumerate(found):
        if isinstance(each, dict) and each.get("use") == "enc":
            continue
        try:
            key = _key(each, allowed)
        except _UnusableError as reason:
            ignored.append(f"key {number}: {reason}")
        else:
            keys += [] if key in keys else [key]  # listed twice, it would be ambiguous
    if not keys:
        reasons = f": {'; '.join(ignored)}" if ignored else ""
        raise KeySetError(f"the set has no usable key{reasons}")
    return KeySet(tuple(keys), tuple(ignored))


def _key(jwk: object, allowed: Collection[str]) -> Key:
    if not isinstance(jwk, dict):
        raise _UnusableError("it is not a JSON object")
    kid = jwk.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= KID_CHARS_MAX):
        raise _UnusableError(f"its `kid` is not a text of at most {KID_CHARS_MAX} characters")
    if jwk.get("use", "sig") != "sig":
        raise _UnusableError("it is not for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _UnusableError("it is not for verifying")
    if "d" in jwk:
        raise _UnusableError("its private part is published")
    algorithm = _algorithm(jwk, allowed)
    try:
        public = {name: jwk[name] for name in _PUBLIC if name in jwk}
        material: Any = jwt.PyJWK(public, algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, LookupError, OverflowError):
        raise _UnusableError("it is malformed") from None  # the cause may repeat it
    if jwk["kty"] == "RSA":
        _refuse_extreme(material)
    return Key(kid, algorithm, material)


def _algorithm(jwk: Mapping[Any, Any], allowed: Collection[str]) -> str:
    """Returns the one algorithm that a key is for: the one that it names, or the one of its type and curve.

    An RSA key that names none is for RS256, unless only one of RSA's algorithms is allowed.
    """
    kty, curve = jwk.get("kty"), jwk.get("crv")
    possible = [name for name in ALGORITHMS if _TYPES[name[:2]] == kty and curve in _CURVES.get(name, (curve,))]
    if not possible:
        raise _UnusableError("its type or curve is not supported")
    usable = [name for name in possible if name in allowed]
    named = jwk.get("alg")
    if named is None:
        named = usable[0] if len(usable) == 1 else possible[0]
    if named not in possible:
        raise _UnusableError("its algorithm is not supported, or not one of its type and curve")
    if named not in usable:
        raise _UnusableError(f"its algorithm {named} is not allowed")
    return str(named)


def _refuse_extreme(material: Any) -> None:
    """Rejects RSA keys that are too weak or too slow."""
    if material.key_size not in RSA_BITS:
        raise _UnusableError(f"it has {material.key_size} bits; {RSA_BITS.start} to {RSA_BITS.stop - 1} are accepted")
    if material.public_numbers().e.bit_length() > RSA_EXPONENT_BITS_MAX:
        raise _UnusableError(f"its exponent has more than {RSA_EXPONENT_BITS_MAX} bits")
