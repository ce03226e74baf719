"""Output: results on stdout as a table, JSON or YAML; failures on stderr in one line."""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from codeq_cli import json_text
from codeq_cli.failures import Failure, usage_failure

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from codeq_cli.rest import Items

EMBEDDED_FIELDS: Final = frozenset({"payload", "result", "progress"})
"""Fields that hold a user's JSON value; tables show its JSON text as is, quotes included."""

WHOLE_COLUMNS: Final = frozenset({"id"})
"""Columns whose values are never wrapped, so that they can be copied."""

_PIPE_WIDTH: Final = 1 << 20
"""Width of a table outside a terminal, in columns: nothing is wrapped or truncated."""


class Format(enum.StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def default_format() -> Format:
    """Returns the default format: a table on a terminal, else JSON."""
    return Format.TABLE if sys.stdout.isatty() else Format.JSON


def show_object(text: str, output: Format, *, table_field: str | None = None) -> None:
    """Prints a JSON object: as is, as YAML, or as a table with one row per field.

    Args:
        text: The object.
        output: Format.
        table_field: Field whose object a table shows instead of the whole object.

    Raises:
        Failure: The object is nested too deeply for YAML.
    """
    if output is Format.TABLE:
        fields = json_text.members(text)
        if table_field is not None:
            fields = json_text.members(fields[table_field])
        _print_table(_fields_table(fields))
    else:
        _show_text(text, output)


def show_list(
    name: str,
    items: Sequence[str],
    columns: Sequence[str],
    output: Format,
    others: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Prints JSON objects: as {name: [...]} in JSON and YAML, or as a table with one row per object.

    Args:
        name: Member that holds the objects.
        items: The objects.
        columns: Columns of a table.
        output: Format.
        others: Further members, each as its JSON text; not in a table.

    Raises:
        Failure: The objects are nested too deeply for YAML.
    """
    if output is Format.TABLE:
        _print_table(_items_table(items, columns))
    else:
        _show_text(json_text.join({name: f"[{','.join(items)}]", **others}), output)


def show_page(name: str, items: Items, columns: Sequence[str], output: Format, *, also: str = "") -> None:
    """Prints JSON objects like `show_list`; if there are more, JSON and YAML include the token and stderr has a hint.

    Args:
        name: Member of the page that holds the objects.
        items: The objects.
        columns: Columns of a table.
        output: Format.
        also: Another option with which the command shows more, for the hint.

    Raises:
        Failure: The objects are nested too deeply for YAML.
    """
    if output is Format.TABLE or not items.next_page_token:
        show_list(name, items.texts, columns, output)
    else:
        token = json_text.quote(items.next_page_token)
        _show_text(f'{{{json_text.quote(name)}:[{",".join(items.texts)}],"nextPageToken":{token}}}', output)
    if items.next_page_token:
        alternative = f", or {also}" if also else ""
        sys.stderr.write(f"more {name}: --page-token {items.next_page_token}{alternative}\n")
        sys.stderr.flush()


def show_failure(failure: Failure, *, as_json: bool) -> None:
    """Prints a failure on stderr: as JSON, in the form of the server's error body; otherwise as one readable line."""
    if as_json:
        body = failure.body or json_text.join(
            {"error": json_text.quote(failure.text), "reason": json_text.quote(failure.reason)}
        )
        sys.stderr.buffer.write(body.encode(errors="backslashreplace").rstrip(b"\n") + b"\n")
    else:
        text = printable(failure.text).replace("\n", " ")
        sys.stderr.write(f"error: {text} ({printable(failure.reason)})\n")
    sys.stderr.flush()


def _show_text(text: str, output: Format) -> None:
    if output is Format.YAML:
        text = _yaml(text)
    sys.stdout.buffer.write(text.encode().rstrip(b"\n") + b"\n")
    sys.stdout.flush()


def _yaml(text: str) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Prints numbers with their original digits."""

    def number(dumper: yaml.SafeDumper, value: json_text.Number) -> yaml.ScalarNode:
        kind = "float" if any(sign in value for sign in ".eE") else "int"
        return dumper.represent_scalar(f"tag:yaml.org,2002:{kind}", value)

    Dumper.add_representer(json_text.Number, number)
    try:
        return yaml.dump(json_text.parse(text), Dumper=Dumper, sort_keys=False, allow_unicode=True)
    except RecursionError:
        raise usage_failure("nested too deeply for YAML; use -o json") from None


def _fields_table(fields: Mapping[str, str]) -> Table:
    from rich.text import Text

    table = _table()
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(Text(printable(name)), _cell(name, value))
    return table


def _items_table(items: Sequence[str], columns: Sequence[str]) -> Table:
    table = _table(show_header=True)
    rows = [json_text.members(item) for item in items]
    for column in columns:
        numeric = any(isinstance(json_text.parse(row.get(column, "null")), json_text.Number) for row in rows)
        table.add_column(
            column.upper(),
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=len(column),  # never wrap column names
            no_wrap=column in WHOLE_COLUMNS,
        )
    for row in rows:
        table.add_row(*(_cell(column, row.get(column, '""')) for column in columns))
    return table


def _table(*, show_header: bool = False) -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=show_header)


def _cell(name: str, value: str) -> Text:
    """Returns the text of a cell, never as markup, so that a value cannot style or hide anything."""
    from rich.text import Text

    if name not in EMBEDDED_FIELDS:
        decoded = json_text.parse(value)
        value = "" if decoded is None else decoded if isinstance(decoded, str) else value
    return Text(printable(value))


def printable(text: str) -> str:
    """Returns the text with all control characters except line feed escaped, so that none reaches a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def _print_table(table: Table) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=_PIPE_WIDTH, color_system=None)
    with console.capture() as lines:
        console.print(table)
    sys.stdout.writelines(line.rstrip() + "\n" for line in lines.get().splitlines())
