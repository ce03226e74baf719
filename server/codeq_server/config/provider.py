"""What a provider of tokens is to the configuration: how its part is read, shown and turned into a validator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from codeq_server.auth.authenticator import Identify, Validator
from codeq_server.auth.revocation import Upkeep
from codeq_server.auth.static import StaticToken
from codeq_server.auth.token_file import TokenFileLog
from codeq_server.config.declaration import Group
from codeq_server.config.files import file_problem
from codeq_server.config.forms import FilePath
from codeq_server.config.given import Given

C = TypeVar("C")
S_contra = TypeVar("S_contra", contravariant=True)


class ProviderLog(TokenFileLog, Protocol):
    """Reports what happens to providers while the server runs."""

    def provider(self, event: str, details: str) -> None:
        """Something happened to a provider, such as that it cannot fetch its keys."""
        ...


class Built(NamedTuple):
    """What checks the callers of one role.

    Attributes:
        validator: Validates tokens.
        upkeep: What keeps the validator current: each to be run as a task while the validator is used.
        identify: Identifies certificates of clients; None: they stand for nobody.
    """

    validator: Validator
    upkeep: tuple[Upkeep, ...] = ()
    identify: Identify | None = None


class Provider(ABC, Generic[C]):
    """A way to validate tokens.

    Attributes:
        tables: The classes whose settings docs/configuration.md lists.
        takes_certificates: Whether it identifies certificates of clients.
    """

    tables: tuple[type, ...] = ()
    takes_certificates = False

    @abstractmethod
    def read(self, given: Given, role: str, *, files: bool) -> C:
        """Returns the configuration of a role's provider.

        Args:
            given: The configuration as given.
            role: producer or worker.
            files: Whether to read files that it names; a gateway does not, because its servers check tokens.

        Raises:
            ConfigError: It is malformed or unusable.
        """

    @abstractmethod
    def show(self, config: C) -> object:
        """Returns the configuration as JSON, with masked secrets."""

    @abstractmethod
    def build(self, config: C, key: str, role: str, log: ProviderLog) -> Built:
        """Returns the validator.

        Args:
            config: The configuration.
            key: The setting as the operator wrote it, for messages.
            role: producer or worker.
            log: Reports what happens later.

        Raises:
            ConfigError: A file that it names cannot be used.
        """

    def tokens(self, config: C, key: str) -> Iterator[tuple[str, StaticToken]]:
        """Yields each token that is known in advance, with its key, for warnings."""
        del config, key
        return iter(())

    def sole_secret(self, config: C) -> str:
        """Returns the secret of the only token that there can be; empty: it is not known, or there may be several."""
        del config
        return ""


class Builder(Protocol[S_contra]):
    """Builds a validator from settings."""

    def __call__(self, settings: S_contra, key: str, *, report: Any) -> Built:
        """Returns the validator and what keeps it current; `report` is called with an event and its details."""
        ...


class GroupProvider(Provider[C]):
    """A provider whose configuration is one mapping of settings.

    Args:
        group: Form of the mapping.
        builder: Builds the validator.
    """

    def __init__(self, group: Group[C], builder: Builder[C]) -> None:
        self.group, self._builder = group, builder
        self.tables = (group.group,)

    def read(self, given: Given, role: str, *, files: bool) -> C:
        """Returns the configuration; see `Provider.read`."""
        del role
        config = self.group.read(given)
        for name, each in self.group.settings.items() if files else ():
            path = getattr(config, name)
            if isinstance(each.form, FilePath) and path is not None and (problem := file_problem(path)):
                raise given.inner(each.key, path).error(problem)
        return config

    def show(self, config: C) -> object:
        """Returns the configuration with masked secrets."""
        return self.group.show(config)

    def build(self, config: C, key: str, role: str, log: ProviderLog) -> Built:
        """Returns the validator; see `Provider.build`."""
        del role
        return self._builder(config, key, report=log.provider)
