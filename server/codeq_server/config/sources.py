"""Reads the file, the environment and the flags into given values by setting."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from codeq_server.config import foreign
from codeq_server.config.declaration import Group, Setting, hint, read_all, settings_of, variable
from codeq_server.config.files import file_problem
from codeq_server.config.given import ConfigError, Given
from codeq_server.config.json_text import decoded
from codeq_server.config.settings import GatewaySettings, Settings

PATH_VARIABLE: Final = "CODEQ_CONFIG_PATH"
"""Environment variable with the path of the configuration file."""

FILE_BYTES_MAX: Final = 1024 * 1024
"""Maximum size of the configuration file."""

OWN_PREFIXES: Final = ("CODEQ_", "RAFT_", "TRACING_")
"""Prefixes of codeq's own variables: unknown ones are rejected."""

CLIENT_VARIABLES: Final = frozenset(
    {
        PATH_VARIABLE,
        "CODEQ_ENDPOINT",
        "CODEQ_TOKEN",
        "CODEQ_WORKER_TOKEN",
        "CODEQ_PROFILE",
        "CODEQ_PRODUCER_ADDR",
        "CODEQ_WORKER_ADDR",
        "CODEQ_CONFIG_DIR",
        "CODEQ_TLS_CA_FILE",
        "CODEQ_TLS_CERT_FILE",
        "CODEQ_TLS_KEY_FILE",
    }
)
"""Known variables with codeq's prefix that are not server settings: the file's path, and variables of the CLI."""

SETTINGS: Final[Mapping[str, Setting]] = {**settings_of(GatewaySettings), **settings_of(Settings)}
"""The settings of all kinds of processes, by name: one file may hold them all."""

_KEYS: Final = {each.key: name for name, each in SETTINGS.items()}


class GivenSettings:
    """The given values of all sources by setting: a name such as `port`, or `raft.self_id` for one of a group.

    Attributes:
        values: The given values. A group may be given as a whole, and settings of it besides, which then prevail.
        foreign: Given values of features that this version lacks, by feature.
    """

    def __init__(self, values: Mapping[str, Given], foreign: Mapping[str, Given]) -> None:
        self.values, self.foreign = values, foreign

    def get(self, name: str) -> Given | None:
        """Returns the given value of a setting; None: it is not given."""
        group, _, inner = name.partition(".")
        return self._parts(group).get(inner) if inner else self.values.get(name)

    def has(self, name: str) -> bool:
        """Returns whether a setting is given, other than as a null of the file."""
        given = self.get(name)
        return given is not None and given.value is not None

    def key(self, name: str) -> str:
        """Returns a setting as the operator wrote it, or its variable if it is not given."""
        given = self.get(name)
        return variable(name) if given is None else given.key

    def error(self, name: str, message: str) -> ConfigError:
        """Returns an error that names a setting as the operator wrote it."""
        given = self.get(name)
        return ConfigError(variable(name), message) if given is None else given.error(message)

    def check_file(self, name: str, path: Path) -> None:
        """Checks that a setting names a file.

        Raises:
            ConfigError: It does not, or the folders that lead there cannot be read.
        """
        if problem := file_problem(path):
            raise self.error(name, problem)

    def checked(self) -> dict[str, Any]:
        """Returns the value of each given setting of the top level, strictly checked.

        Raises:
            ConfigError: A value is malformed.
        """
        found = {}
        for name, each in SETTINGS.items():
            given, parts = self.values.get(name), self._parts(name)
            if isinstance(each.form, Group) and parts:
                found[name] = each.form.build(parts, given or Given(None, variable(name)))
            elif given is not None:
                found |= read_all({name: each}, {name: given})
        return found

    def _parts(self, group: str) -> dict[str, Given]:
        """Returns the given settings of a group, by field."""
        form, whole = SETTINGS[group].form, self.values.get(group)
        if not isinstance(form, Group):
            return {}
        parts = {} if whole is None or whole.value is None else form.parts(whole)
        prefix = f"{group}."
        return parts | {
            name.removeprefix(prefix): each for name, each in self.values.items() if name.startswith(prefix)
        }


def read(path: str | None, environment: Mapping[str, str], flags: Mapping[str, object]) -> GivenSettings:
    """Returns the values that the sources give; a flag overrides the environment, which overrides the file.

    Args:
        path: Configuration file; None: the one named by CODEQ_CONFIG_PATH, if any.
        environment: Environment.
        flags: Flags by setting, such as `worker_stream_addr`; None: not given.

    Raises:
        ConfigError: A source cannot be read, or names an unknown setting.
    """
    named_by, file = ("--config", path) if path else (PATH_VARIABLE, environment.get(PATH_VARIABLE, ""))
    values, others = _read_file(file, named_by) if file else ({}, {})
    others |= _foreign_variables(environment)
    return GivenSettings(values | _read_environment(environment) | _read_flags(flags), others)


def _read_file(path: str, named_by: str) -> tuple[dict[str, Given], dict[str, Given]]:
    """Returns the settings of the YAML file, and separately the settings of features that this version lacks."""
    found: dict[str, Given] = {}
    others = {}
    for key, value in _content(path, named_by).items():
        given, name = Given(value, str(key), file=path), _KEYS.get(key)
        if name is not None and _has_variables(SETTINGS[name]):
            found |= {} if value is None else _by_variable(name, given)
        elif name is not None:
            found[name] = given
        elif not foreign.is_key(key):
            raise given.error("unknown key" + hint(key, _KEYS))
        elif not foreign.is_off(value):
            others[key] = given
    return found, others


def _content(path: str, named_by: str) -> dict[Any, object]:
    try:
        with Path(path).open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(named_by, f"cannot read {path}: {error.strerror}") from None
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(named_by, f"{path} is longer than {FILE_BYTES_MAX} bytes")
    try:
        content = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(named_by, f"{path} is not valid YAML: {_trouble(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(named_by, f"{path} must be a mapping of settings")
    return content


def _trouble(error: Exception) -> str:
    """Describes what is wrong with the file, and where, without its text, which may be secret."""
    if isinstance(error, yaml.reader.ReaderError):
        return str(error)
    if not isinstance(error, yaml.MarkedYAMLError):  # a value does not match its apparent type or its tag
        return "it is nested too deeply" if isinstance(error, RecursionError) else "a value is malformed"
    problem, mark = error.problem or "", error.problem_mark or error.context_mark
    if not isinstance(error, yaml.scanner.ScannerError) and not problem.startswith(("expected", "duplicate key")):
        problem = re.split("[:'\"]", problem)[0].rstrip()
    return problem if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _has_variables(each: Setting) -> bool:
    return isinstance(each.form, Group) and each.form.has_variables


def _by_variable(name: str, given: Given) -> dict[str, Given]:
    """Returns the settings of a group whose settings have variables, so that these override them one by one."""
    form = SETTINGS[name].form
    assert isinstance(form, Group)
    return {f"{name}.{inner}": each for inner, each in form.parts(given).items() if each.value is not None}


def _with_variables() -> dict[str, Setting]:
    """Returns every setting that has a variable, by name."""
    found: dict[str, Setting] = {}
    for name, each in SETTINGS.items():
        if isinstance(each.form, Group) and each.form.has_variables:
            found |= {f"{name}.{inner}": setting for inner, setting in each.form.settings.items()}
        else:
            found[name] = each
    return found


VARIABLES: Final[Mapping[str, tuple[str, Setting]]] = {
    variable(name): (name, each) for name, each in _with_variables().items()
}
"""Name and declaration of each setting that has a variable, by the variable."""


def _read_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    found = {}
    for key, (name, each) in VARIABLES.items():
        text = environment.get(key)
        if text is None or (not text.strip() and not each.form.takes_empty):
            continue
        if each.form.is_json:
            found[name] = Given(_json(key, text), key)
        else:
            found[name] = Given(text.strip(), key, is_text=True)
    return found


def _read_flags(flags: Mapping[str, object]) -> dict[str, Given]:
    found = {}
    for name, value in flags.items():
        group, _, inner = name.partition(".")
        known: Setting | None = SETTINGS.get(group)
        if inner and known is not None:
            known = known.form.settings.get(inner) if isinstance(known.form, Group) else None
        if known is None:
            raise ConfigError("--" + name.replace("_", "-"), "unknown flag")
        if value is not None:
            found[name] = Given(value, known.flag, is_text=isinstance(value, str))
    return found


def _foreign_variables(environment: Mapping[str, str]) -> dict[str, Given]:
    """Returns the variables of features that this version lacks.

    Raises:
        ConfigError: A variable with one of codeq's prefixes is unknown.
    """
    found = {}
    known = CLIENT_VARIABLES | VARIABLES.keys()
    for key, text in sorted(environment.items()):
        if key not in known and foreign.is_service_link(key, text):
            continue
        if foreign.is_variable(key):
            if not foreign.is_off(text):
                found[key] = Given(text, key)
        elif key.startswith(OWN_PREFIXES) and key not in known:
            meant = key.removeprefix("CODEQ_")
            raise ConfigError(key, "unknown variable" + hint(meant if meant in known else key, known))
    return found


def _json(key: str, text: str) -> object:
    try:
        return decoded(text)
    except ValueError as error:
        raise ConfigError(key, f"is not valid JSON: {error}") from None


class _UniqueKeys(yaml.SafeLoader):
    """Rejects a mapping with a duplicate key, of which one value would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key: {key}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
