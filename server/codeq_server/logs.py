"""Logging: one line per event on stdout, as text for people or as JSON for machines, with UTC times in milliseconds.

Events are named by what happened, such as `server_started`, and carry keys and values: never a token, never a payload.
Lines of libraries that use the standard library's logging come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .access_log import AccessLog

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_NAMES: Final = {"warning": "warn", "critical": "error", "exception": "error"}
_SECRET_KEYS: Final = frozenset({"authorization", "payload", "result", "token"})


def configure(level: str, log_format: str | None, stream: TextIO | None = None) -> AccessLog:
    """Sets up logging for the whole process.

    Args:
        level: Least level that is logged: debug, info, warn or error.
        log_format: "text" or "json"; None: text on a terminal, else json.
        stream: Where lines go; None: stdout.

    Returns:
        What writes the lines of calls, in the same form to the same place.
    """
    out = sys.stdout if stream is None else stream
    as_text = (log_format or ("text" if out.isatty() else "json")) == "text"
    described: list[Processor] = [_add_time_and_level, _hide_secrets, structlog.processors.format_exc_info]
    # The plain form of tracebacks: the others show the values of local variables, and so tokens and payloads.
    render: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
        if as_text
        else _to_json
    )
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *described, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *described, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # What libraries do in the ordinary course is told by events of our own.
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    return AccessLog(
        out, as_text=as_text, requests=_LEVELS[level] <= logging.INFO, probes=_LEVELS[level] <= logging.DEBUG
    )


def _add_time_and_level(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    record = event.pop("_record", None)
    name = record.levelname.lower() if record is not None else method
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": now, "level": _NAMES.get(name, name), "event": event.pop("event", ""), **event}


def _hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key in _SECRET_KEYS & event.keys():
        event[key] = "***"
    return event


def _to_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
