"""Settings of the provider `jwks`, which accepts tokens of an identity provider."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from codeq_server.auth.jwks.config import ALGORITHMS, JwksConfig
from codeq_server.config.declaration import Group, required, setting
from codeq_server.config.durations import Duration
from codeq_server.config.forms import FilePath, Form, Listed, Text
from codeq_server.config.given import ConfigError, Given
from codeq_server.config.provider import Built

AUDIENCES_MAX: Final = 16
"""Maximum number of configured audiences."""

_CHARS_MAX: Final = 2048
_SCHEMES: Final = frozenset({"http", "https"})
_SKEW: Final = Duration(0, 600)


class Audiences(Form[tuple[str, ...]]):
    """One text, or a list of them; a token must name at least one."""

    expects = f"a text that is not empty, or a list of 1 to {AUDIENCES_MAX} of them"
    values = f"text, or list of up to {AUDIENCES_MAX}"
    _one = Text(1, _CHARS_MAX)

    def parse(self, value: object) -> tuple[str, ...] | None:
        """Returns the texts."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not 0 < len(items) <= AUDIENCES_MAX:
            return None
        return None if None in map(self._one.parse, items) else tuple(dict.fromkeys(items))

    def show(self, value: tuple[str, ...]) -> object:
        """Returns the text, or the list of several."""
        return value[0] if len(value) == 1 else list(value)


class WebUrl(Form[str]):
    """An http or https URL without a user name, a password or a fragment."""

    expects = "a URL that starts with https:// or http://, without a user name, a password or a fragment"
    values = "URL"

    def parse(self, value: object) -> str | None:
        """Returns the URL as it is."""
        return value if isinstance(value, str) and _url(value) is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksAuthSettings:
    """Configuration of the provider `jwks`."""

    issuer: str = required(Text(1, _CHARS_MAX), "issuer of the tokens, compared whole to their `iss`")
    audience: tuple[str, ...] = required(
        Audiences(), "audience of the tokens: their `aud` must name at least one of these"
    )
    jwks_url: str = setting(
        WebUrl(),
        "",
        "URL of the issuer's keys. `http://` works if you write it, but then anyone on the path can forge tokens",
        unset="found at the issuer's `/.well-known/openid-configuration`",
    )
    algorithms: tuple[str, ...] = setting(
        Listed(lambda text: text if text in ALGORITHMS else None, "algorithms", "RS256 or ES256", len(ALGORITHMS)),
        ALGORITHMS,
        "allowed signatures. `none` and those with a shared secret (`HS256`) cannot be allowed",
        unset=", ".join(ALGORITHMS),
    )
    allowed_clock_skew_seconds: float = setting(
        _SKEW, 60.0, "how far the issuer's clock may be off, for `exp`, `nbf` and `iat`"
    )
    clock_skew: float | None = setting(
        _SKEW, None, "other name of `allowedClockSkewSeconds`; not both", unset="`allowedClockSkewSeconds`"
    )
    http_timeout: float = setting(Duration(0.1, 60), 5.0, "longest time to fetch the keys, discovery included")
    jwks_refresh_seconds: float = setting(
        Duration(20, 86400),
        300.0,
        "how long keys count as fresh. While tokens come, they are fetched anew after half of it; a withdrawn key is "
        "accepted no longer than this",
    )
    jwks_stale_seconds: float = setting(
        Duration(60, 30 * 86400),
        86400.0,
        "how long keys are used if they cannot be fetched anew; at least `jwksRefreshSeconds`",
    )
    tenant_claim: str = setting(
        Text(0, 256),
        "",
        "claim with the tenant: its name, or a path into nested claims such as `app.tenant`. Tokens without it are "
        "then rejected, except operators', and other claims do not count",
        unset="`tid`, `tenantId`, `tenant_id`, `organizationId` or `organization_id`, else the subject",
    )
    ca_file: Path | None = setting(
        FilePath(),
        None,
        "PEM file with the CAs that may sign the issuer's certificate; read at each fetch",
        unset="those that the system trusts",
    )

    @property
    def config(self) -> JwksConfig:
        """The configuration of the provider."""
        return JwksConfig(
            issuer=self.issuer,
            audience=self.audience,
            jwks_url=self.jwks_url,
            algorithms=self.algorithms,
            clock_skew=self.allowed_clock_skew_seconds if self.clock_skew is None else self.clock_skew,
            http_timeout=self.http_timeout,
            refresh_seconds=self.jwks_refresh_seconds,
            stale_seconds=self.jwks_stale_seconds,
            tenant_claim=self.tenant_claim,
            ca_file=self.ca_file,
        )


class JwksGroup(Group[JwksAuthSettings]):
    """The settings as a mapping, checked as a whole."""

    def __init__(self) -> None:
        super().__init__(JwksAuthSettings)

    def build(self, parts: Mapping[str, Given], given: Given) -> JwksAuthSettings:
        """Returns the settings.

        Raises:
            ConfigError: They do not go together.
        """
        built = super().build(parts, given)
        if not built.jwks_url and not _is_base(built.issuer):
            raise given.inner("jwksUrl", None).error(
                "is required unless issuer is a URL without a query, whose OpenID configuration names the keys"
            )
        if not built.algorithms:
            raise given.inner("algorithms", None).error("must name at least one algorithm")
        if built.clock_skew is not None and "allowed_clock_skew_seconds" in parts:
            raise given.inner("clockSkew", None).error("is another name of allowedClockSkewSeconds: give one of them")
        if built.jwks_stale_seconds < built.jwks_refresh_seconds:
            raise given.inner("jwksStaleSeconds", None).error(
                f"must be at least jwksRefreshSeconds, {built.jwks_refresh_seconds:g} s"
            )
        return built


JWKS: Final = JwksGroup()
"""Form of the settings."""


def jwks_validator(
    settings: JwksAuthSettings,
    key: str,
    *,
    clock: Callable[[], float] = time.time,
    report: Callable[[str, str], None] = lambda _event, _details: None,
) -> Built:
    """Returns the validator that the settings describe, and the fetch of its first keys.

    Args:
        settings: Settings that were read by `JWKS`.
        key: The setting as the operator wrote it, such as WORKER_AUTH_CONFIG.
        clock: Returns the Unix time in seconds.
        report: Called with an event and its details, for the log; see `JwksValidator`.

    Raises:
        ConfigError: The file with CAs cannot be used.
    """
    # It imports an HTTP client, which takes longer than a command of the CLI.
    from codeq_server.auth.jwks.validator import JwksValidator  # noqa: PLC0415

    try:
        validator = JwksValidator(settings.config, clock=clock, report=report)
    except OSError as error:
        path = Path(settings.ca_file or "").absolute()
        reason = "it holds no valid certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"{key}.caFile", f"cannot read {path}: {reason}") from None
    return Built(validator, (validator.warm_up,))


def _url(text: str) -> SplitResult | None:
    """Returns the parts of a URL to fetch; None: it is malformed."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    is_plain = text.isascii() and len(text) <= _CHARS_MAX and re.search(r"[\s\x00-\x1f\\]", text) is None
    has_host = parts.scheme in _SCHEMES and parts.hostname is not None and port != 0
    return parts if is_plain and has_host and "@" not in parts.netloc and "#" not in text else None


def _is_base(text: str) -> bool:
    """Returns whether a path can be appended to a URL."""
    parts = _url(text)
    return parts is not None and "?" not in text
