"""The SDK's logger. If a filter or handler of the program raises, only the log line is lost, not the caller's work."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

_OF_THE_CALLER: Final = 2
"""Stack level of the caller, to which the line is attributed."""


class _Guarded(_Adapter):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        with contextlib.suppress(Exception):
            super().log(level, msg, *args, stacklevel=_OF_THE_CALLER, **kwargs)


log: Final = _Guarded(logging.getLogger("codeq"), {})
"""The logger "codeq"."""
