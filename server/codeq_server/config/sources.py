"""Reads the three sources of settings into raw values that remember their origin."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from codeq_server.config import keys
from codeq_server.config.settings import ConfigError

PATH_VARIABLE: Final = "CODEQ_CONFIG_PATH"
"""Environment variable with the path of the configuration file."""

FILE_BYTES_MAX: Final = 1024 * 1024
"""Maximum size of the configuration file."""

NOT_SUPPORTED: Final = "not supported by this version"

RAFT: Final = "raft."
"""Prefix of the fields of `raft` among all fields."""

FOREIGN: Final = "foreign."
"""Prefix of settings that require a feature this version lacks; the rest of the name is the feature."""

_OFF: Final = frozenset({"", "0", "false", "no", "off"})
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FIELDS: Final = {field.name: field for field in dataclasses.fields(keys.Keys)}
_RAFT_FIELDS: Final = {keys.file_key(field.name): field.name for field in dataclasses.fields(keys.RaftKeys)}
_OWN_VARIABLES: Final = keys.CLIENT_VARIABLES | {keys.variable(RAFT + name) for name in _RAFT_FIELDS.values()}
_NAMES_BY_FILE_KEY: Final = {keys.file_key(name): name for name in _FIELDS}
_UNSUPPORTED_FILE_KEYS: Final = keys.UNSUPPORTED_FILE_KEYS | {
    keys.file_key(name.lower()) for name in keys.UNSUPPORTED_VARIABLES
}

# Container platforms set variables that describe every service in the network, even one named "codeq", and every
# variable of a linked container.
_SERVICE_LINK: Final = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR|START|END))*|ENV_.+)"
)
_SERVICE_PORT: Final = re.compile(r"(tcp|udp|sctp)://.*", re.IGNORECASE)
_CONTAINER_NAME: Final = re.compile(r"/[^/]+/[^/]+")


@dataclass(frozen=True, slots=True)
class Raw:
    """A value from one of the sources.

    Attributes:
        value: The value as given.
        key: The setting as the operator wrote it.
        is_text: Whether the source holds only text, so that "8080" is accepted as a number.
    """

    value: object
    key: str
    is_text: bool = False


def read_file(path: str, named_by: str) -> dict[str, Raw]:
    """Returns the settings of the YAML file, by field.

    Raises:
        ConfigError: The file cannot be read, is not a single mapping, or has a duplicate or unknown key.
    """
    content = _content(path, named_by)
    found = _read_raft(content.pop("raft", None))
    for key, value in content.items():
        name = _NAMES_BY_FILE_KEY.get(key)
        if name is not None:
            found[name] = Raw(value, key)
        elif key not in _UNSUPPORTED_FILE_KEYS:
            raise ConfigError(str(key), f"unknown key in {path}")
        elif not is_off(value):
            found[FOREIGN + key] = Raw(value, key)
    return found


def _content(path: str, named_by: str) -> dict[Any, object]:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(named_by, f"cannot read {path}: {error.strerror}") from None
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(named_by, f"{path} is longer than {FILE_BYTES_MAX} bytes")
    try:
        content = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(named_by, f"{path} is not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(named_by, f"{path} is not a mapping")
    return content


def _read_raft(mapping: object) -> dict[str, Raw]:
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise ConfigError("raft", "expected a mapping")
    found = {}
    for key, value in mapping.items():
        if key not in _RAFT_FIELDS:
            raise ConfigError(f"raft.{key}", "unknown key")
        if value is not None:
            found[RAFT + _RAFT_FIELDS[key]] = Raw(value, f"raft.{key}")
    return found


def read_environment(environment: Mapping[str, str]) -> dict[str, Raw]:
    """Returns the settings of the environment, by field.

    Raises:
        ConfigError: A variable with one of codeq's prefixes is unknown, or a variable holds malformed JSON.
    """
    found = _foreign(environment)
    for name in (*_FIELDS, *(RAFT + name for name in _RAFT_FIELDS.values())):
        variable = keys.variable(name)
        text = environment.get(variable)
        if text is None or (not text.strip() and name not in keys.EMPTY_IS_A_VALUE):
            continue
        if name in keys.JSON_KEYS:
            found[name] = Raw(_json(variable, text), variable)
        else:
            found[name] = Raw(text.strip(), variable, is_text=True)
    return found


def read_flags(flags: Mapping[str, object]) -> dict[str, Raw]:
    """Returns the settings of the flags, by field; a flag that is None was not given.

    Raises:
        ConfigError: A flag is unknown.
    """
    found = {}
    for name, value in flags.items():
        if name not in _FIELDS:
            raise ConfigError(keys.flag(name), "unknown flag")
        if value is not None:
            found[name] = Raw(value, keys.flag(name), is_text=isinstance(value, str))
    return found


def boolean(text: str) -> bool | None:
    """Returns the boolean that a text stands for, or None if it is neither."""
    return _BOOLEANS.get(text.lower())


def _foreign(environment: Mapping[str, str]) -> dict[str, Raw]:
    """Returns settings that require features this version lacks."""
    found = {}
    for variable, text in sorted(environment.items()):
        if variable not in _OWN_VARIABLES and _is_service_link(variable, text):
            continue
        if variable in keys.UNSUPPORTED_VARIABLES or variable.startswith(keys.UNSUPPORTED_PREFIXES):
            if not is_off(text):
                part = "cluster" if variable == "CLUSTER_ENABLED" else variable
                found[FOREIGN + part] = Raw(text, variable)
        elif variable.startswith(keys.OWN_PREFIXES) and variable not in _OWN_VARIABLES:
            raise ConfigError(variable, "unknown variable")
    return found


def _is_service_link(variable: str, text: str) -> bool:
    """Returns whether a container platform set a variable to describe a service or container named after codeq."""
    return bool(
        _SERVICE_LINK.fullmatch(variable)
        or _SERVICE_PORT.fullmatch(text)
        or (variable.endswith("_NAME") and _CONTAINER_NAME.fullmatch(text))
    )


def is_off(value: object) -> bool:
    """Returns whether a setting of another version is switched off."""
    if isinstance(value, str):
        return value.strip().lower() in _OFF
    if isinstance(value, dict):
        return not value or is_off(value.get("enabled", True))
    return not value


def _json(variable: str, text: str) -> object:
    try:
        content: object = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_refuse_twice)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ConfigError(variable, f"is not JSON: {error}") from None
    return content


def _refuse_twice(pairs: list[tuple[str, object]]) -> None:
    """Rejects an object with a duplicate key, of which one value would be ignored."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"duplicate key: {key}")
        seen.add(key)


class _UniqueKeys(yaml.SafeLoader):
    """Rejects a mapping with a duplicate key, of which one value would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key: {key}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
