"""Declares each setting as one field of a dataclass; everything else about it is derived from that.

A field `worker_stream_addr` is the key `workerStreamAddr` of the file, the variable `WORKER_STREAM_ADDR` and the flag
`--worker-stream-addr`. A field `self_id` of the group `raft` is the key `raft.selfId` and the variable `RAFT_SELF_ID`.
Its form reads and checks values; the same declaration gives error messages, `codeq config check` and the tables of
docs/configuration.md. No settings library is used: names and origins of values are part of the product, and importing
pydantic alone takes longer than running a command of the CLI.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

from codeq_server.config.forms import Form
from codeq_server.config.given import Given

MASK: Final = "***"
"""Shown in place of a secret."""

_INITIALS: Final = frozenset({"ca", "dns", "grpc", "http", "ms", "tls"})
_METADATA: Final = "setting"
D = TypeVar("D")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of a setting.

    Attributes:
        name: Name of the field.
        form: Form of the value.
        default: Value if the setting is not given; `dataclasses.MISSING`: the setting is required.
        meaning: Effect of the setting, for the table of settings.
        unset: What applies if the setting is not given, in words for the table; empty: the default.
        secret: Whether the value is a secret, which is never shown.
        ignored: Whether the setting has no effect and is accepted only for configurations of other versions.
        own_flag: Flag of the setting, if it does not follow from the name.
    """

    name: str
    form: Form[Any]
    default: Any
    meaning: str
    unset: str
    secret: bool
    ignored: bool
    own_flag: str

    @property
    def key(self) -> str:
        """Key in the file, within its mapping."""
        return file_key(self.name)

    @property
    def flag(self) -> str:
        """Its flag, on commands that have it."""
        return self.own_flag or "--" + self.name.replace("_", "-")

    def show(self, value: Any) -> object:
        """Returns a value as JSON, as an operator would write it; a secret is masked unless there is none."""
        if self.secret:
            return MASK if value else self.form.nothing
        return self.form.nothing if value is None else self.form.show(value)


def setting(
    form: Form[T],
    default: D,
    meaning: str,
    *,
    unset: str = "",
    secret: bool = False,
    ignored: bool = False,
    flag: str = "",
) -> D | T:
    """Declares a setting as a field; see `Setting`.

    `unset` is needed if the default does not tell operators what happens.
    """
    words = {"meaning": meaning, "unset": unset, "secret": secret, "ignored": ignored, "own_flag": flag}
    metadata = {_METADATA: {"form": form, "default": default, **words}}
    if default is dataclasses.MISSING:
        field: Any = dataclasses.field(repr=not secret, metadata=metadata)
    else:
        field = dataclasses.field(default_factory=lambda: default, repr=not secret, metadata=metadata)
    return field  # type: ignore[no-any-return]


def required(form: Form[T], meaning: str, *, secret: bool = False) -> T:
    """Declares a setting that must be given, in a group."""
    return setting(form, dataclasses.MISSING, meaning, secret=secret)  # type: ignore[return-value]


def settings_of(group: type) -> Mapping[str, Setting]:
    """Returns the settings that a dataclass declares, by field."""
    return {
        field.name: Setting(name=field.name, **field.metadata[_METADATA])
        for field in dataclasses.fields(group)
        if _METADATA in field.metadata
    }


def file_key(name: str) -> str:
    """Returns the camelCase form of a name."""
    head, *tail = name.split("_")
    return head + "".join(part.upper() if part in _INITIALS else part.capitalize() for part in tail)


def variable(name: str) -> str:
    """Returns the variable of a setting; one of a group is named like `raft.self_id`."""
    return name.upper().replace(".", "_")


def hint(unknown: object, known: Iterable[str]) -> str:
    """Returns a question that suggests the known name most like an unknown one; empty: no name is similar."""
    close = difflib.get_close_matches(str(unknown), list(known), 1, 0.7)
    return f"; did you mean {close[0]}?" if close else ""


class Group(Form[T]):
    """A mapping of settings, declared by a dataclass.

    Args:
        group: The dataclass.
        shorthand: Field that a plain text stands for; empty: none.
        has_variables: Whether each of its settings has a variable, which then overrides that one setting of the file.
            Otherwise one variable holds the mapping as JSON, and replaces that of the file.
    """

    is_json = True

    def __init__(self, group: type[T], *, shorthand: str = "", has_variables: bool = False) -> None:
        self.group, self.has_variables, self._shorthand = group, has_variables, shorthand
        self.expects = "a mapping" + (f" or the {shorthand} as text" if shorthand else "")
        self.values = "mapping, see below"

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """The settings of the mapping, by field."""
        return settings_of(self.group)

    def parts(self, given: Given) -> dict[str, Given]:
        """Returns the values of a given mapping, by field.

        Raises:
            ConfigError: The value is not a mapping, or a key is unknown.
        """
        mapping = given.value
        if self._shorthand and isinstance(mapping, str) and not mapping.lstrip().startswith("{"):
            mapping = {self.settings[self._shorthand].key: mapping}
        if not isinstance(mapping, dict):
            raise self.error(given)
        names = {inner.key: name for name, inner in self.settings.items()}
        for key in mapping:
            if key not in names:
                raise given.inner(key, None).error("unknown key" + hint(key, names))
        return {names[key]: given.inner(key, value) for key, value in mapping.items()}

    def read(self, given: Given) -> T:
        """Returns the group with the values of a mapping."""
        return self.build(self.parts(given), given)

    def build(self, parts: Mapping[str, Given], given: Given) -> T:
        """Returns the group with the given values of its settings, by field."""
        values = read_all(self.settings, parts)
        for name, inner in self.settings.items():
            if inner.default is dataclasses.MISSING and name not in values:
                raise given.inner(inner.key, None).error("is required")
        return self.group(**values)

    def show(self, value: T) -> object:
        """Returns the mapping, with secrets masked."""
        return shown(value)


def read_all(settings: Mapping[str, Setting], given: Mapping[str, Given]) -> dict[str, Any]:
    """Returns the given values of settings, by field, each strictly checked against its form.

    Raises:
        ConfigError: A value is malformed.
    """
    found = {}
    for name, each in given.items():
        declared = settings[name]
        if each.value is None and declared.default in (None, ""):
            continue  # a null in the file leaves a setting without a default unset
        found[name] = declared.form.read(each)
    return found


def shown(group: Any) -> dict[str, object]:
    """Returns the settings of a group by the file's keys, with secrets masked and without those that have no effect."""
    return {
        each.key: each.show(getattr(group, name)) for name, each in settings_of(type(group)).items() if not each.ignored
    }
