"""Settings of the provider `static`: one token, a list of tokens, or a file with such a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from codeq_server.auth.claims import TENANT, InvalidTenantError, tenant_of
from codeq_server.auth.static import DEFAULT_SUBJECT, StaticToken, StaticValidator
from codeq_server.auth.token_file import TokenFile, TokenFileError, read_bounded
from codeq_server.config.declaration import Group, setting, shown
from codeq_server.config.files import file_problem
from codeq_server.config.forms import AnyMapping, FilePath, Text, Texts
from codeq_server.config.given import ConfigError, Given
from codeq_server.config.json_text import decoded
from codeq_server.config.provider import Built, Provider, ProviderLog

TOKENS_MAX: Final = 10_000
"""Maximum number of tokens of one provider."""

COMMAND: Final = Text(
    1, 128, r"\*|[A-Za-z0-9][A-Za-z0-9._-]*", "a command of at most 128 letters, digits, `.`, `_` and `-`, or `*`"
)
"""Form of a command that a token is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticAuthSettings:
    """One token of the provider `static`."""

    token: str = setting(
        Text(pattern=r".*\S.*", expects="a text that is not blank"),
        "",
        "the secret. Give it or `tokenSha256`",
        secret=True,
    )
    token_sha256: str = setting(
        Text(pattern=r"[0-9A-Fa-f]{64}", expects="64 hexadecimal digits"),
        "",
        "SHA-256 of the secret, so that the configuration does not hold it",
        secret=True,
    )
    subject: str = setting(Text(), DEFAULT_SUBJECT, "identity of the token; a worker's id")
    scopes: frozenset[str] = setting(
        Texts(Text(1)),
        frozenset(),
        "what a worker may do: `codeq:claim`, `codeq:heartbeat`, `codeq:result`, `codeq:nack`, `codeq:abandon`, "
        "`codeq:subscribe`. A worker needs at least one. [Roles](security.md#roles) of producers: `codeq:admin`, "
        "`codeq:operator`, `codeq:viewer`",
    )
    event_types: frozenset[str] = setting(
        Texts(COMMAND),
        frozenset(),
        "commands a worker may claim, of which it needs at least one, or a producer is restricted to; `*` means all",
    )
    email: str = setting(Text(), "", "accepted but unused")
    raw: Mapping[str, object] = setting(
        AnyMapping(),
        MappingProxyType({}),
        "further claims: `tenantId`, and `role` or `roles`: [`ADMIN` or `VIEWER`](security.md#roles)",
    )

    @property
    def static_token(self) -> StaticToken:
        """The token that it configures."""
        return StaticToken(
            token=self.token.strip(),
            subject=self.subject.strip() or DEFAULT_SUBJECT,
            email=self.email,
            scopes=self.scopes,
            event_types=self.event_types,
            raw=self.raw,
            token_sha256=self.token_sha256,
        )


@dataclass(frozen=True, slots=True)
class StaticAuth:
    """Configuration of the provider `static`.

    Attributes:
        tokens: The tokens; those of a file as they were when it was read.
        is_one: Whether it is one token, and not a list.
        file: The file that holds them; None: the configuration does.
        content: Content of the file.
    """

    tokens: tuple[StaticAuthSettings, ...]
    is_one: bool = False
    file: Path | None = None
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileSettings:
    """Where the tokens are if the configuration does not hold them."""

    file: Path | None = setting(FilePath(), None, "file with a JSON list of tokens")


class StaticProvider(Provider[StaticAuth]):
    """Accepts tokens that the operator lists."""

    tables = (StaticAuthSettings,)

    def read(self, given: Given, role: str, *, files: bool) -> StaticAuth:
        """Returns the configuration; see `Provider.read`."""
        if isinstance(given.value, list):
            return StaticAuth(_tokens(given, role, least=1))
        if not isinstance(given.value, dict) or "file" not in given.value:
            return StaticAuth((_token(given, role),), is_one=True)
        path = _FILE.read(given).file
        named = given.inner("file", path)
        if path is None:
            raise named.error("must be the path of a file with a list of tokens")
        path = path.absolute()  # so do messages name it, wherever the process was started
        if not files:
            return StaticAuth((), file=path)
        if problem := file_problem(path):
            raise named.error(problem)
        try:
            content = read_bounded(path)
        except TokenFileError as error:
            raise named.error(str(error)) from None
        return StaticAuth(_parsed(named, role, path, content), file=path, content=content)

    def show(self, config: StaticAuth) -> object:
        """Returns the configuration with masked secrets."""
        if config.file is not None:
            return {"file": str(config.file)}
        tokens = [_shown(token) for token in config.tokens]
        return tokens[0] if config.is_one else tokens

    def build(self, config: StaticAuth, key: str, role: str, log: ProviderLog) -> Built:
        """Returns the validator; see `Provider.build`."""
        validator = StaticValidator(*(token.static_token for token in config.tokens))
        if config.file is None:
            return Built(validator)
        parse = partial(_reparsed, Given(None, f"{key}.file"), role, config.file)
        return Built(validator, (TokenFile(config.file, config.content, parse, validator, log).keep,))

    def tokens(self, config: StaticAuth, key: str) -> Iterator[tuple[str, StaticToken]]:
        """Yields each token with its key."""
        key = key if config.file is None else f"{key}.file"
        for number, token in enumerate(config.tokens):
            yield key if config.is_one else f"{key}[{number}]", token.static_token

    def sole_secret(self, config: StaticAuth) -> str:
        """Returns the secret of the only token that there can be."""
        return config.tokens[0].token.strip() if config.is_one else ""


_FILE: Final = Group(_FileSettings)
_TOKEN: Final = Group(StaticAuthSettings, shorthand="token")


def _parsed(named: Given, role: str, path: Path, content: bytes) -> tuple[StaticAuthSettings, ...]:
    """Returns the tokens of a file.

    Raises:
        ConfigError: It holds no list of tokens, or a token is unusable.
    """
    given = replace(named, file=str(path))
    try:
        given = replace(given, value=decoded(content))
    except ValueError as error:
        raise given.error(f"is not valid JSON: {error}") from None
    if not isinstance(given.value, list):
        raise given.error("must hold a list of tokens")
    return _tokens(given, role, least=0)  # an empty list revokes all of them


def _reparsed(named: Given, role: str, path: Path, content: bytes) -> list[StaticToken]:
    """Returns the tokens of a file that has changed.

    Raises:
        TokenFileError: As `_parsed`.
    """
    try:
        return [token.static_token for token in _parsed(named, role, path, content)]
    except ConfigError as error:
        raise TokenFileError(str(error)) from None


def _tokens(given: Given, role: str, *, least: int) -> tuple[StaticAuthSettings, ...]:
    items = given.value
    if not isinstance(items, list) or not least <= len(items) <= TOKENS_MAX:
        raise given.error(f"must be a list of {least} to {TOKENS_MAX} tokens")
    found: dict[bytes, int] = {}
    tokens = []
    for number, item in enumerate(items):
        token = _token(given.item(number, item), role)
        first = found.setdefault(token.static_token.digest, number)
        if first != number:
            key = "token" if token.token else "tokenSha256"
            raise given.item(number, None).inner(key, None).error(f"is the same secret as that of [{first}]")
        tokens.append(token)
    return tuple(tokens)


def _token(given: Given, role: str) -> StaticAuthSettings:
    """Returns one token.

    Raises:
        ConfigError: It is malformed, may do nothing, or belongs to no tenant.
    """
    token = _TOKEN.read(given)
    if not token.token and not token.token_sha256:
        raise given.inner("token", None).error("is required, or tokenSha256 instead")
    if token.token and token.token_sha256:
        raise given.inner("tokenSha256", None).error("is given together with token: give one of them")
    if role == "worker" and not (token.scopes and token.event_types):
        raise given.error("a worker's token needs scopes and eventTypes: without them it permits nothing")
    try:
        tenant_of(token.subject.strip() or DEFAULT_SUBJECT, token.raw, token.scopes)
    except InvalidTenantError:
        raise given.error(
            f"has no valid tenant, or several: set raw.tenantId to a name that matches {TENANT.pattern}"
        ) from None
    return token


def _shown(token: StaticAuthSettings) -> dict[str, object]:
    """Returns a token without the form of the secret that is not given."""
    unused = "tokenSha256" if token.token else "token"
    return {key: value for key, value in shown(token).items() if key != unused}
