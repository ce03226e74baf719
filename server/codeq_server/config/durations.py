"""The form of durations."""

from __future__ import annotations

import re
from typing import Final

from codeq_server.config.forms import Form

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "": 1.0}
_TEXT: Final = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,6})?)(?P<unit>ms|[smhd]|)", re.ASCII)


class Duration(Form[float]):
    """A duration within bounds, in seconds: a number of seconds, or a text with a unit such as `60s` and `5m`."""

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most
        bounds = f"{self.show(least)} to {self.show(most)}"
        self.expects = f"a duration from {bounds}, such as 60s or 5m, or a number of seconds"
        self.values = f"duration from `{self.show(least)}` to `{self.show(most)}`, or a number of seconds"

    def parse(self, value: object) -> float | None:
        """Returns the duration in seconds."""
        if isinstance(value, str):
            match = _TEXT.fullmatch(value.strip())
            value = float(match["number"]) * _UNITS[match["unit"]] if match else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._least <= value <= self._most:
            return None
        return float(value)

    def show(self, value: float) -> object:
        """Returns the duration in the largest unit that divides it, or in seconds."""
        unit = next((unit for unit in "dhm" if value > 0 and value % _UNITS[unit] == 0), "s")
        return f"{value / _UNITS[unit]:g}{unit}"
