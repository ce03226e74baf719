"""Writes the tables of docs/configuration.md from the declarations of the settings; `make generate` runs it.

A table stands between `<!-- settings: CLASS -->` and `<!-- end -->`. It lists, in order, the settings that this class
of `codeq_server.config.settings`, or of a provider of tokens, declares itself.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from codeq_server.config.declaration import Group, Setting, settings_of, variable
from codeq_server.config.forms import Whole
from codeq_server.config.providers import PROVIDERS
from codeq_server.config.settings import GatewaySettings, ProcessSettings, RestSettings, Settings
from codeq_server.config.telemetry_settings import TelemetrySettings
from codeq_server.config.webhook_settings import WebhookSettings

DOCUMENT: Final = Path(__file__).with_name("configuration.md")
PROCESSES: Final = (ProcessSettings, RestSettings, GatewaySettings, Settings, TelemetrySettings, WebhookSettings)

_TABLE: Final = re.compile(r"(?P<begin><!-- settings: (?P<name>\w+) -->\n\n).*?(?P<end>\n<!-- end -->)", re.DOTALL)
_UNITS_OF_TIME: Final = ((86400, "day"), (3600, "hour"), (60, "minute"))
_MIB: Final = 1 << 20


def fresh(text: str) -> str:
    """Returns a document with its tables regenerated from the declarations.

    Raises:
        KeyError: A table names an unknown class.
        ValueError: A class has no table.
    """
    tables = dict(_tables())
    present = [match["name"] for match in _TABLE.finditer(text)]
    if missing := tables.keys() - set(present):
        raise ValueError(f"no table of {', '.join(sorted(missing))}")
    return _TABLE.sub(lambda match: match["begin"] + tables[match["name"]] + match["end"], text)


def _tables() -> Iterator[tuple[str, str]]:
    """Yields the name of each class that declares settings, and its table."""
    for process in PROCESSES:
        own = _own(process)
        yield (
            process.__name__,
            _table(own, {name: f"`{variable(name)}`" for name in own if not _has_variables(own[name])}),
        )
        for name, each in own.items():
            if isinstance(each.form, Group):
                inner = each.form.settings if each.form.has_variables else ()
                variables = {field: f"`{variable(f'{name}.{field}')}`" for field in inner}
                yield each.form.group.__name__, _table(each.form.settings, variables)
                for part in each.form.settings.values():
                    if isinstance(part.form, Group):
                        yield part.form.group.__name__, _table(part.form.settings, {})
    for provider in PROVIDERS.values():
        for group in provider.tables:
            yield group.__name__, _table(settings_of(group), {})


def _own(process: type) -> dict[str, Setting]:
    """Returns the settings that a class declares besides those it inherits."""
    inherited = {
        field.name for base in process.__bases__ if dataclasses.is_dataclass(base) for field in dataclasses.fields(base)
    }
    return {name: each for name, each in settings_of(process).items() if name not in inherited}


def _has_variables(each: Setting) -> bool:
    return isinstance(each.form, Group) and each.form.has_variables


def _table(settings: Mapping[str, Setting], variables: Mapping[str, str]) -> str:
    heads = ["key", *(["variable"] if variables else []), "values", "default", "meaning"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, each in settings.items():
        names = [f"`{each.key}`", *([variables.get(name, "")] if variables else [])]
        lines.append(f"| {' | '.join([*names, each.form.values, _default(each), each.meaning])} |")
    return "\n".join(lines) + "\n"


def _default(each: Setting) -> str:
    if each.unset:
        return each.unset
    if each.default is dataclasses.MISSING:
        return "required"
    if isinstance(each.form, Group):
        return ""
    if each.default is None:
        return "none"
    shown = each.form.show(each.default)
    if isinstance(shown, bool):
        return str(shown).lower()
    if isinstance(shown, int):
        words = _words(shown, each.form.unit if isinstance(each.form, Whole) else "")
        return f"{shown} ({words})" if words else str(shown)
    return f"`{shown}`" if shown else "none"


def _words(number: int, unit: str) -> str:
    """Returns a large number in words; empty for a small one."""
    if unit == "bytes" and number % _MIB == 0:
        return f"{number // _MIB} MiB"
    for size, noun in _UNITS_OF_TIME if unit == "seconds" else ():
        if number >= size and number % size == 0:
            return f"{number // size} {noun}" + ("s" if number > size else "")
    return ""


if __name__ == "__main__":
    DOCUMENT.write_text(fresh(DOCUMENT.read_text()))
