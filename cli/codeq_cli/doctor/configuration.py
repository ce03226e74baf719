"""Checks of the settings: can they be used, are tokens hard to guess, does the environment have misspelled names?"""

from __future__ import annotations

import difflib
import json
import secrets
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from codeq_server.config import (
    DEV_TOKEN,
    ConfigError,
    NoProviderError,
    ProcessSettings,
    Settings,
    foreign,
    load,
    load_gateway,
    refuse_pair,
)
from codeq_server.config.declaration import variable
from codeq_server.config.files import file_problem
from codeq_server.config.sources import CLIENT_VARIABLES, PATH_VARIABLE, VARIABLES
from codeq_server.config.telemetry_settings import TELEMETRY_VARIABLES

from codeq_cli.doctor.findings import Finding, error, fine, warning

TOKEN_CHARACTERS_MIN: Final = 16
"""Shortest token that is taken to be hard to guess."""

SIMILAR: Final = 0.9
"""Similarity from which an unknown variable counts as misspelled, from 0 to 1."""
SIMILAR_OF_FAMILY: Final = 0.7
"""The same, for a variable whose first word is that of a known one."""

CHECK: Final = "configuration"
TOKENS: Final = "tokens"
_LIST: Final = "docs/configuration.md lists all settings, and `codeq config check` shows the effective ones"
_RANDOM: Final = "set a random token, such as the output of `openssl rand -hex 32`"
_ROLES: Final = 2

_TELEMETRY: Final = "OTEL_"
_OTHER_SIGNALS: Final = ("METRIC", "LOG", "BLRP", "PROMETHEUS", "PYTHON")
"""Words of OpenTelemetry's variables that are not about traces: the environment may be that of several programs."""
_INSTEAD: Final = {
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "",
    "OTEL_BSP_MAX_QUEUE_SIZE": "",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "",
    "OTEL_PROPAGATORS": "",
    "OTEL_TRACES_SAMPLER": "TRACING_SAMPLE_RATIO",
    "OTEL_TRACES_SAMPLER_ARG": "TRACING_SAMPLE_RATIO",
}
"""Variables of OpenTelemetry about traces that the server does not follow, and the setting to use instead, if any."""


class Loading:
    """Reads the settings as the server would.

    A role without tokens gets one that nobody knows, so that everything else can be examined.

    Args:
        config: Configuration file; None: the file that the environment names, if any.
        environment: Environment.
        dev: Whether --dev is given.
        gateway: Whether the settings are those of a standalone gateway.

    Attributes:
        settings: The settings; None: they cannot be used.
        findings: What was found meanwhile.
        tokenless: Roles without tokens.
    """

    def __init__(self, config: str | None, environment: Mapping[str, str], *, dev: bool, gateway: bool) -> None:
        self.findings: list[Finding] = []
        self.settings: ProcessSettings | None = None
        self.tokenless: set[str] = set()
        stood_in: dict[str, str] = {}
        for _ in range(_ROLES + 1):
            try:
                self.settings = self._load(config, {**environment, **stood_in}, dev=dev, gateway=gateway)
            except NoProviderError as missing:
                self.findings.append(_no_tokens(missing))
                self.tokenless.add(missing.role)
                stood_in |= _stand_in(missing.role)
            except ConfigError as wrong:
                remedy = f"correct {wrong.key}: {_LIST}; the checks that need the settings wait until then"
                self.findings.append(error(CHECK, f"{wrong.key}: {wrong.message}", remedy))
                return
            else:
                break
        assert self.settings is not None
        for note in self.settings.notes:
            if not note.key.startswith(tuple(stood_in) or "\0"):
                self.findings.append(warning(CHECK, f"{note.key}: {note.message}", f"change or remove {note.key}"))
        if not self.findings:
            self.findings.append(fine(CHECK, "the settings can be used"))

    def _load(self, config: str | None, environment: Mapping[str, str], *, dev: bool, gateway: bool) -> ProcessSettings:
        if gateway:
            return load_gateway(config, environment, {}, dev)
        settings = load(config, environment, {}, dev)
        path = settings.persistence.path
        if settings.raft is not None and path is not None and file_problem(path / "CURRENT"):
            refuse_pair(settings.raft)
        return settings


def check_variables(environment: Mapping[str, str], *, tracing: bool = False) -> Iterator[Finding]:
    """Yields a finding for each variable that is ignored although it looks like one of the server's.

    Args:
        environment: Environment.
        tracing: Whether the server exports traces; without, the settings have a note about OpenTelemetry's variables.
    """
    known = VARIABLES.keys() | CLIENT_VARIABLES | foreign.VARIABLES
    for name, text in sorted(environment.items()):
        if name in known or foreign.is_service_link(name, text):
            continue
        if name.startswith(_TELEMETRY):
            if tracing and not foreign.is_off(text):
                yield from _of_telemetry(name)
        elif near := _nearest(name, VARIABLES):
            yield warning(CHECK, f"the variable {name} is unknown and ignored", f"rename it to {near}, or unset it")


def _of_telemetry(name: str) -> Iterator[Finding]:
    """Yields a finding about a variable of OpenTelemetry, unless the server or another signal uses it."""
    if name in TELEMETRY_VARIABLES or any(word in name for word in _OTHER_SIGNALS):
        return
    if (instead := _INSTEAD.get(name)) is not None:
        remedy = f"set {instead} instead, or unset it" if instead else "unset it"
        yield warning(CHECK, f"the variable {name} is ignored: the server does not follow it", remedy)
        return
    near = difflib.get_close_matches(name, sorted(TELEMETRY_VARIABLES), 1, SIMILAR_OF_FAMILY)
    remedy = f"rename it to {near[0]}, or unset it" if near else "unset it"
    yield warning(CHECK, f"the variable {name} is unknown and ignored", remedy)


def _nearest(name: str, known: Collection[str]) -> str | None:
    """Returns the known variable that is probably meant by an unknown one; None: it may be of another program."""
    upper = name.upper()
    for each in known:
        if each.replace("_", "") == upper.replace("_", ""):
            return each
    if "_" not in upper:
        return None
    head = upper.partition("_")[0]
    family = [each for each in known if each.partition("_")[0] == head]
    near = difflib.get_close_matches(upper, family, 1, SIMILAR_OF_FAMILY)
    near = near or difflib.get_close_matches(upper, known, 1, SIMILAR)
    return near[0] if near else None


def check_file(config: str | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yields a finding if others can read a configuration file that holds secrets."""
    name = config or environment.get(PATH_VARIABLE)
    if not name:
        return
    path = Path(name)
    try:
        mode, text = path.stat().st_mode, path.read_bytes().lower()
    except OSError:
        return  # the settings could not be read either, and the finding about them says so
    if mode & (stat.S_IRGRP | stat.S_IROTH) and any(word in text for word in (b"token", b"secret")):
        yield warning(CHECK, f"other users can read {path}, which holds secrets", f"chmod 600 {path}")


def check_tokens(settings: Settings, tokenless: Collection[str]) -> Iterator[Finding]:
    """Yields findings about static tokens that can be guessed; `tokenless` are roles that have none."""
    if settings.dev:
        yield fine(TOKENS, "--dev: the well-known tokens are accepted on loopback only")
        return
    auths = {"producer": settings.auth.producer, "worker": settings.auth.worker}
    tokens = [each for role, auth in auths.items() if role not in tokenless for each in auth.tokens]
    weak = [_weak(key, token.token) for key, token in tokens]
    yield from filter(None, weak)
    if tokens and not any(weak):
        yield fine(TOKENS, "no configured token can be guessed")


def _weak(key: str, token: str) -> Finding | None:
    """Returns the finding about a token that can be guessed; one of which only the digest is known counts as random."""
    if token == DEV_TOKEN:
        return warning(TOKENS, f"{key}: everybody knows the token {DEV_TOKEN}", f"{_RANDOM}; or use --dev")
    if 0 < len(token) < TOKEN_CHARACTERS_MIN:
        return warning(TOKENS, f"{key}: a token of {len(token)} characters can be guessed", _RANDOM)
    return None


def check_durability(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yields findings about settings that let acknowledged tasks be lost."""
    if settings.persistence.path is None:
        remedy = "set PERSISTENCE_PROVIDER=rocksdb to keep tasks on disk"
        yield warning(CHECK, "PERSISTENCE_PROVIDER: memory loses every task when the process ends", remedy)
    elif not settings.persistence.fsync_on_commit:
        text = "fsyncOnCommit is false: a crash of the machine can lose acknowledged tasks"
        yield warning(CHECK, text, "set fsyncOnCommit to true in PERSISTENCE_CONFIG")
    if "eatmydata" in environment.get("LD_PRELOAD", ""):
        text = "LD_PRELOAD names libeatmydata, which turns every fsync off: a crash loses acknowledged tasks"
        yield error(CHECK, text, "start the server without libeatmydata in LD_PRELOAD")


def _no_tokens(missing: NoProviderError) -> Finding:
    provider, config = variable(f"{missing.role}_auth_provider"), variable(f"{missing.role}_auth_config")
    return warning(
        TOKENS,
        f"no {missing.role} tokens are configured: the server starts only with --dev",
        f"set {provider} and {config}; `codeq init` writes a configuration with random tokens",
    )


def _stand_in(role: str) -> dict[str, str]:
    """Returns the variables of a token that nobody knows."""
    token = {
        "token": secrets.token_hex(32),
        "scopes": ["codeq:claim"],
        "eventTypes": ["*"],
        "raw": {"tenantId": "unknown"},
    }
    if role == "producer":
        token["scopes"] = ["codeq:operator"]
    name = role.upper()
    return {f"{name}_AUTH_PROVIDER": "static", f"{name}_AUTH_CONFIG": json.dumps(token)}
