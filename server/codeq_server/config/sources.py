"""Reads the three places where settings come from into raw values that remember where they stood."""

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
"""Variable that names the file."""

FILE_BYTES_MAX: Final = 1024 * 1024
"""A longer configuration file is refused."""

NOT_SUPPORTED: Final = "not supported by this version"

RAFT: Final = "raft."
"""Start of the fields of `raft` among all others."""

FOREIGN: Final = "foreign."
"""Start of settings that ask for something which this version has not; what follows is the part of the product."""

_OFF: Final = frozenset({"", "0", "false", "no", "off"})
_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FIELDS: Final = {field.name: field for field in dataclasses.fields(keys.Keys)}
_RAFT_FIELDS: Final = {keys.file_key(field.name): field.name for field in dataclasses.fields(keys.RaftKeys)}
_OWN_VARIABLES: Final = keys.CLIENT_VARIABLES | {keys.variable(RAFT + name) for name in _RAFT_FIELDS.values()}
_NAMES_BY_FILE_KEY: Final = {keys.file_key(name): name for name in _FIELDS}
_UNSUPPORTED_FILE_KEYS: Final = keys.UNSUPPORTED_FILE_KEYS | {
    keys.file_key(name.lower()) for name in keys.UNSUPPORTED_VARIABLES
}

# Container platforms describe every service of the network in variables, also one that is named "codeq", and every
# variable of a linked container.
_SERVICE_LINK: Final = re.compile(
    r".*_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR|START|END))*|ENV_.+)"
)
_SERVICE_PORT: Final = re.compile(r"(tcp|udp|sctp)://.*", re.IGNORECASE)
_CONTAINER_NAME: Final = re.compile(r"/[^/]+/[^/]+")


@dataclass(frozen=True, slots=True)
class Raw:
    """A value that was set.

    Attributes:
        value: As it stood there.
        key: The setting as the operator wrote it.
        is_text: Whether every value has to be written as text there, so that "8080" is a number.
    """

    value: object
    key: str
    is_text: bool = False


def read_file(path: str, named_by: str) -> dict[str, Raw]:
    """Returns what the YAML file sets, by field.

    Raises:
        ConfigError: The file cannot be read, is not one mapping, or has a key twice or an unknown one.
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
    """Returns what the environment sets, by field.

    Raises:
        ConfigError: A variable of the product is unknown or not supported, or holds malformed JSON.
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
    """Returns what flags set, by field; a flag that is None was not given.

    Raises:
        ConfigError: There is no such flag.
    """
    found = {}
    for name, value in flags.items():
        if name not in _FIELDS:
            raise ConfigError(keys.flag(name), "unknown flag")
        if value is not None:
            found[name] = Raw(value, keys.flag(name), is_text=isinstance(value, str))
    return found


def boolean(text: str) -> bool | None:
    """Returns what a text says about yes and no, or None when it says neither."""
    return _BOOLEANS.get(text.lower())


def _foreign(environment: Mapping[str, str]) -> dict[str, Raw]:
    """Returns what asks for parts that this version has not."""
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
    """Returns whether a variable describes a service or a container that has the product's name."""
    return bool(
        _SERVICE_LINK.fullmatch(variable)
        or _SERVICE_PORT.fullmatch(text)
        or (variable.endswith("_NAME") and _CONTAINER_NAME.fullmatch(text))
    )


def is_off(value: object) -> bool:
    """Returns whether a setting of another version asks for nothing."""
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
    """Refuses an object that has a key twice: one of the two would be ignored."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"key twice: {key}")
        seen.add(key)


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that has a key twice: one of the two would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key twice: {key}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)
