"""The providers of tokens by name, and the settings `producerAuthConfig` and `workerAuthConfig`, which they read.

A further provider is one line in `PROVIDERS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from codeq_server.auth.multi import MultiValidator, first_identity
from codeq_server.auth.static import StaticToken
from codeq_server.config.declaration import Group, required
from codeq_server.config.forms import Form, Items
from codeq_server.config.given import ConfigError, Given
from codeq_server.config.jwks_settings import JWKS, jwks_validator
from codeq_server.config.mtls_settings import MtlsProvider
from codeq_server.config.provider import Built, GroupProvider, Provider, ProviderLog
from codeq_server.config.static_settings import StaticAuth, StaticProvider

MTLS: Final = "mtls"
MULTI: Final = "multi"
PROVIDERS_MIN: Final = 2
PROVIDERS_MAX: Final = 16
"""Maximum number of providers in one `multi`."""


class ProviderName(Form[str]):
    """Name of a registered provider.

    Args:
        is_inner: Whether it is one of several, which `multi` cannot be.
    """

    def __init__(self, *, is_inner: bool = False) -> None:
        self._is_inner = is_inner

    @property
    def expects(self) -> str:  # type: ignore[override]
        """The names, in words."""
        *others, last = self._names()
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def values(self) -> str:  # type: ignore[override]
        """The names, in Markdown."""
        return ", ".join(f"`{name}`" for name in self._names())

    def parse(self, value: object) -> str | None:
        """Returns the name."""
        return value if isinstance(value, str) and value in self._names() else None

    def error(self, given: Given) -> ConfigError:
        """Returns the error, which tells a nested provider apart from an unknown one."""
        if self._is_inner and given.value == MULTI:
            return given.error(f"{MULTI} cannot be nested; must be {self.expects}")
        return super().error(given)

    def _names(self) -> list[str]:
        return [name for name in PROVIDERS if not (self._is_inner and name == MULTI)]


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """The configuration of a role's provider.

    Attributes:
        name: Name of the provider.
        role: producer or worker.
        key: The setting as the operator wrote it.
        config: What the provider has read.
    """

    name: str
    role: str
    key: str = field(compare=False)
    config: Any

    @property
    def tokens(self) -> Iterator[tuple[str, StaticToken]]:
        """Each token that is known in advance, with its key."""
        return PROVIDERS[self.name].tokens(self.config, self.key)

    @property
    def is_static(self) -> bool:
        """Whether all its tokens are known in advance."""
        return self.name == "static" or (self.name == MULTI and all(each.is_static for each in self.config))

    @property
    def is_mtls(self) -> bool:
        """Whether it accepts only certificates."""
        return self.name == MTLS

    @property
    def takes_certificates(self) -> bool:
        """Whether certificates of clients may be identities."""
        if self.name == MULTI:
            return any(each.takes_certificates for each in self.config)
        return PROVIDERS[self.name].takes_certificates

    @property
    def is_one_token(self) -> bool:
        """Whether it is one static token in the configuration itself."""
        return isinstance(self.config, StaticAuth) and self.config.is_one

    @property
    def sole_secret(self) -> str:
        """The secret of the only token that there can be; empty: it is not known, or there may be several."""
        return PROVIDERS[self.name].sole_secret(self.config)

    def show(self) -> object:
        """Returns it as JSON, with masked secrets."""
        return PROVIDERS[self.name].show(self.config)

    def build(self, log: ProviderLog) -> Built:
        """Returns the validator; see `Provider.build`."""
        return PROVIDERS[self.name].build(self.config, self.key, self.role, log)


def read_config(name: str, given: Given, role: str, *, files: bool) -> AuthConfig:
    """Returns the configuration of a role's provider; see `Provider.read`.

    Raises:
        ConfigError: It is malformed or unusable.
    """
    return AuthConfig(name, role, given.key, PROVIDERS[name].read(given, role, files=files))


class AuthConfigForm(Form[Any]):
    """A provider's configuration. It stays as given until the provider's name is known."""

    expects = "a mapping, a list or a text"
    values = "[depends on the provider](#tokens)"
    is_json = True

    def read(self, given: Given) -> Given:
        """Returns what is given."""
        if not isinstance(given.value, dict | list | str):
            raise self.error(given)
        return given

    def show(self, value: AuthConfig) -> object:
        """Returns the configuration with masked secrets."""
        return value.show()


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerAuthSettings:
    """One of several providers."""

    type: str = required(ProviderName(is_inner=True), "name of the provider")
    config: Any = required(AuthConfigForm(), "its configuration, as if it were the only one")


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiAuthSettings:
    """Configuration of the provider `multi`."""

    providers: tuple[InnerAuthSettings, ...] = required(
        Items(Group(InnerAuthSettings), PROVIDERS_MIN, PROVIDERS_MAX, "providers"),
        "providers in order; the first that accepts a token or a certificate wins",
    )


class MultiProvider(Provider[tuple[AuthConfig, ...]]):
    """Accepts the tokens of several providers."""

    tables = (MultiAuthSettings, InnerAuthSettings)

    def read(self, given: Given, role: str, *, files: bool) -> tuple[AuthConfig, ...]:
        """Returns the configurations; see `Provider.read`."""
        entries = Group(MultiAuthSettings).read(given).providers
        return tuple(read_config(each.type, each.config, role, files=files) for each in entries)

    def show(self, config: tuple[AuthConfig, ...]) -> object:
        """Returns the configurations with masked secrets."""
        return {"providers": [{"type": each.name, "config": each.show()} for each in config]}

    def build(self, config: tuple[AuthConfig, ...], key: str, role: str, log: ProviderLog) -> Built:
        """Returns the validator; see `Provider.build`."""
        del key, role
        built = [each.build(log) for each in config]
        upkeep = tuple(work for each in built for work in each.upkeep)
        identify = [each.identify for each in built if each.identify is not None]
        return Built(MultiValidator([each.validator for each in built]), upkeep, first_identity(identify))

    def tokens(self, config: tuple[AuthConfig, ...], key: str) -> Iterator[tuple[str, StaticToken]]:
        """Yields the tokens of all its providers."""
        del key
        for each in config:
            yield from each.tokens


PROVIDERS: Final[dict[str, Provider[Any]]] = {
    "static": StaticProvider(),
    "jwks": GroupProvider(JWKS, jwks_validator),
    MTLS: MtlsProvider(),
    MULTI: MultiProvider(),
}
"""The providers. One that reads one mapping is a `GroupProvider`."""
