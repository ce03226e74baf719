"""Parses option values, and turns the parser's errors into one-line failures."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import typer

from codeq_cli.failures import Failure, usage_failure

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION: Final = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_YEARS_10: Final = 3650 * 86400


def duration(least: int, most: int) -> Callable[[str], int]:
    """Returns a parser of durations such as `90`, `90s`, `5m`, `1h30m`, `2d` into seconds.

    Args:
        least: Shortest duration, in seconds.
        most: Longest duration, in seconds.
    """

    def parse(text: str | int) -> int:
        written = str(text).strip().lower()
        if _NUMBER.fullmatch(written):
            seconds = int(written)
        elif written and (parts := _DURATION.fullmatch(written)):
            seconds = sum(int(part or 0) * unit for part, unit in zip(parts.groups(), _UNITS.values(), strict=True))
        else:
            raise typer.BadParameter(
                f"{text!r} is not a duration; write seconds, or a duration such as 90s, 5m or 1h30m"
            )
        if not least <= seconds <= most:
            raise typer.BadParameter(f"{text} is not between {_spelled(least)} and {_spelled(most)}")
        return seconds

    return parse


def time(text: str) -> str:
    """Returns a time as written, of which the server judges more than the beginning."""
    if not _DATE.match(text):
        raise typer.BadParameter(f"{text!r} is not a time; write one such as 2030-01-31T12:00:00Z")
    return text


def time_or_age(text: str) -> str:
    """Returns a time as the server takes it; a duration counts back from now."""
    if _DATE.match(text):
        return text
    try:
        seconds = duration(0, _YEARS_10)(text)
    except typer.BadParameter:
        raise typer.BadParameter(
            f"{text!r} is neither a time such as 2030-01-31T12:00:00Z, nor a duration such as 24h before now"
        ) from None
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")


def whole(least: int, most: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers from `least` to `most`."""

    def parse(text: str | int) -> int:
        if not _NUMBER.fullmatch(str(text).strip()):
            raise typer.BadParameter(f"{text!r} is not a whole number")
        if not least <= int(text) <= most:
            raise typer.BadParameter(f"{text} is not between {least} and {most}")
        return int(text)

    return parse


def number(least: float, most: float) -> Callable[[str], float]:
    """Returns a parser of numbers from `least` to `most`."""

    def parse(text: str | float) -> float:
        try:
            value = float(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a number") from None
        if not least <= value <= most:  # false for NaN
            raise typer.BadParameter(f"{text} is not between {least:g} and {most:g}")
        return value

    return parse


def failure_of(error: typer.TyperException) -> Failure:
    """Returns the failure for a command line that the parser rejected, in one line that points to the help."""
    context: typer.Context | None = getattr(error, "ctx", None)
    hint = "" if context is None else f"; see {context.command_path} --help"
    return usage_failure(f"{_told(error)}{hint}")


def _told(error: typer.TyperException) -> str:
    message = " ".join(error.message.removeprefix("Value error, ").split()).rstrip(".")
    if isinstance(error, typer.BadParameter):
        name = _name(error)
        return f"{name}: {message}" if message else f"{name} is missing"
    option = getattr(error, "option_name", None)
    if option is None:
        return "a command is missing" if message == "Missing command" else message[:1].lower() + message[1:]
    if not hasattr(error, "possibilities"):
        return f"{option} needs a value"
    near = " or ".join(sorted(error.possibilities or ()))
    return f"no such option {option}" + (f"; did you mean {near}?" if near else "")


def _name(error: typer.BadParameter) -> str:
    parameter = error.param
    if parameter is None:
        return "the command line"
    longest: str = max(parameter.opts, key=len)
    if longest.startswith("-"):
        return longest
    metavar = str(parameter.metavar or longest)
    return (longest if "|" in metavar else metavar).rstrip("_").upper()


def _spelled(seconds: int) -> str:
    for name, unit in _UNITS.items():
        if seconds and seconds % unit == 0:
            return f"{seconds // unit}{name}"
    return "0"
