"""Logging: one line per event on stdout, as human-readable text or as JSON, with UTC times in milliseconds.

Events are named by what happened, such as `server_started`, and carry keys and values: never a token, never a payload.
Lines that libraries log with the standard library have the same format; layers that may not import this package log in
this way, too, with an event's name as the message and its values as `extra={"fields": {...}}`.

Logging never affects the process: it does not block, raise or delay its end, whatever the state of stdout and stderr.
Lines that cannot be written are lost, counted, and reported in one line.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from structlog.typing import EventDict, WrappedLogger

from .access_log import AccessLog
from .error_output import Errors
from .lines import TRACEBACK, bounded, json_line, text_line
from .writer import LAST_LINES_SECONDS, LineWriter, flush_all

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_NAMES: Final = {"warning": "warn", "critical": "error", "exception": "error"}
_SECRET_KEYS: Final = frozenset({"authorization", "payload", "result", "token"})
_STDOUT: Final = 1


class Logs:
    """Log lines of a server; `take_over` makes them the logging of the whole process.

    Attributes:
        access: The access log, in the same format and to the same output.
        level: Lowest level logged; `set_level` changes it.
        about: Keys and values of the process, which the line of each event has.

    Args:
        level: Minimum level logged: debug, info, warn or error.
        log_format: "text" or "json"; None: text on a terminal, otherwise json.
        fd: File descriptor that lines are written to.
    """

    def __init__(self, level: str, log_format: str | None, fd: int = _STDOUT) -> None:
        is_terminal = os.isatty(fd)
        as_text = (log_format or ("text" if is_terminal else "json")) == "text"
        self._render = partial(text_line, coloured=is_terminal) if as_text else json_line
        self._out = LineWriter(fd, self._notice)
        self._writers = [self._out]
        self.level, self._is_process = level, False
        self.about: dict[str, object] = {}
        self.access = AccessLog(self._out.put, self.about, as_text=as_text)
        self.set_level(level)

    def take_over(self) -> None:
        """Routes all events of the process here, and the lines of the standard library's logging."""
        self._is_process = True
        logging.getLogger().handlers[:] = [_Handler(self)]
        self.set_level(self.level)
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_about_more_than_a_client_that_left)

    def set_level(self, level: str) -> None:
        """Changes the lowest level logged: debug, info, warn or error. May be called from any thread.

        Raises:
            KeyError: There is no such level.
        """
        least = _LEVELS[level]
        self.level = level
        self.access.requests, self.access.probes = least <= logging.INFO, least <= logging.DEBUG
        if self._is_process:
            structlog.configure(
                processors=[self._rendered],
                wrapper_class=structlog.make_filtering_bound_logger(least),
                logger_factory=lambda *_: _Sink(self._out),
                cache_logger_on_first_use=False,  # loggers would keep the level of their first use
            )
            # Routine messages of libraries are dropped: the server logs its own events.
            logging.getLogger().setLevel(max(least, logging.WARNING))
            logging.getLogger("codeq.raft").setLevel(least)

    @property
    def lost(self) -> int:
        """Number of lost lines of log and stderr."""
        return sum(writer.lost for writer in self._writers)

    def guard_stderr(self) -> None:
        """Routes stderr through a writer like the log's, and logs Python's unhandled errors and warnings as events."""
        errors = Errors()
        self._writers.append(errors.writer)
        sys.stderr = errors
        log = structlog.get_logger()
        sys.unraisablehook = lambda args: log.error("defect", where=repr(args.object), exc_info=args.exc_value)
        threading.excepthook = lambda args: log.error("defect", where=repr(args.thread), exc_info=args.exc_value)
        logging.captureWarnings(True)  # noqa: FBT003 - its only parameter

    def flush(self, seconds: float = LAST_LINES_SECONDS) -> None:
        """Writes all buffered lines; waits for at most `seconds`."""
        self.access.flush()
        flush_all(self._writers, seconds)

    def line(self, level: str, fields: dict[str, Any]) -> bytes:
        """Returns the line of an event; never raises.

        Args:
            level: Name of its level.
            fields: The event's name under "event", and its keys and values.
        """
        event, trace = fields.pop("event", ""), fields.pop("exc_info", None)
        head = {"time": _now(), "level": _NAMES.get(level, level), "event": event, **self.about}
        try:
            return self._render(bounded({**head, **_without_secrets(fields), **_trace(trace)}))
        except Exception as problem:  # noqa: BLE001 - e.g. a value that cannot be converted to text
            return self._render({**head, "event": "log_line_failed", "error": type(problem).__name__})

    def put(self, line: bytes) -> None:
        """Queues a line for writing."""
        self._out.put(line)

    def _notice(self, count: int) -> bytes:
        return self.line("warn", {"event": "log_lines_lost", "count": count})

    def _rendered(self, _: WrappedLogger, method: str, event: EventDict) -> bytes:
        return self.line(method, dict(event))


class LostLines(Collector):
    """The metric of lost lines.

    Args:
        logs: Logging of the process.
        process: Prefix of the metric's name: "codeq" or "codeq_gateway".
    """

    def __init__(self, logs: Logs, process: str) -> None:
        self._logs, self._process = logs, process

    def collect(self) -> Iterator[Metric]:
        """Yields the metric."""
        text = "Lines of log and stderr that were lost since startup."
        yield CounterMetricFamily(f"{self._process}_log_lines_lost", text, value=self._logs.lost)


def configure_logging(level: str, log_format: str | None) -> Logs:
    """Sets up logging and stderr for the whole process until it exits; see `Logs` for the arguments."""
    logs = Logs(level, log_format)
    logs.take_over()
    logs.guard_stderr()
    atexit.register(logs.flush)
    return logs


class _Sink:
    """Passes structlog's rendered lines to a writer; has a method per level."""

    def __init__(self, writer: LineWriter) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = writer.put


class _Handler(logging.Handler):
    """Handles records of the standard library's logging."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not match the format, or cannot be converted to text
            event = str(record.msg)
        # Modules that know nothing of this package pass their values as extra={"fields": {...}}.
        given = getattr(record, "fields", None)
        about = {"event": event, "logger": record.name, "exc_info": record.exc_info}
        fields = {**given, **about} if isinstance(given, dict) else about
        self._logs.put(self._logs.line(record.levelname.lower(), fields))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _without_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: "***" if key in _SECRET_KEYS else value for key, value in fields.items()}


def _trace(exc_info: object) -> dict[str, str]:
    """Returns the traceback of an exception, without variable values, which may include tokens and payloads."""
    problem = sys.exception() if exc_info is True else exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(problem, BaseException):
        return {}
    return {TRACEBACK: "".join(traceback.format_exception(problem)).rstrip("\n")}


def _is_about_more_than_a_client_that_left(record: logging.LogRecord) -> bool:
    """Returns whether a gRPC log record is about more than a reply not sent because its client was gone."""
    return not record.getMessage().startswith("ExecuteBatchError")
