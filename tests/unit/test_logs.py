"""Log lines: their format, level and bounds, and text they never contain."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from codeq_server.log.access_log import well_formed_request_id
from codeq_server.log.lines import LINE_CHARS_MAX, TRACEBACK_CHARS_MAX, VALUE_CHARS_MAX
from codeq_server.log.setup import Logs

FORGED = '\n2026-01-01T00:00:00.000Z [error] store_failed error="all is lost"'
"""Text that an attacker would inject into the log."""
TERMINAL = "\x1b[2J\x9b2J\u202e\u2028\x85\r\x7f"
"""Characters that would move a terminal's cursor, reverse its text, or end a line for some readers."""
SPARE_CHARS = 1024
"""Characters of a line besides its values: names, and a few escaped characters."""


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Restores the logging of the process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


class Written:
    """Logging into a file."""

    def __init__(self, path: Path, level: str, log_format: str | None) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self.logs = Logs(level, log_format, self._fd)
        self.logs.take_over()

    @property
    def text(self) -> str:
        """Everything written so far."""
        self.logs.flush(5)
        return self._path.read_bytes().decode()

    @property
    def lines(self) -> list[str]:
        """The lines, split at every character that a reader may treat as the end of a line."""
        return self.text.splitlines()

    @property
    def events(self) -> list[dict[str, object]]:
        """The lines, parsed as JSON."""
        return [json.loads(line) for line in self.lines]

    def close(self) -> None:
        """Closes the file."""
        self.logs.flush(5)
        os.close(self._fd)


Write = Callable[..., Written]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Write]:
    made = []

    def write(level: str = "info", log_format: str | None = "json") -> Written:
        made.append(Written(tmp_path / "log", level, log_format))
        return made[-1]

    yield write
    for each in made:
        each.close()


def test_json_line_has_the_values_of_an_event_with_its_level_and_utc_time(written: Write) -> None:
    log = written()
    structlog.get_logger().warning("store_opened", path="x\ny", bytes=3, fsync=True, since=None)
    [line] = log.events
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("time")))
    assert line == {
        "level": "warn",
        "event": "store_opened",
        "path": "x\ny",
        "bytes": 3,
        "fsync": True,
        "since": None,
    }


def test_log_format_without_a_terminal_is_json(written: Write) -> None:
    log = written(log_format=None)
    structlog.get_logger().info("server_started")
    assert log.events[0]["event"] == "server_started"


def test_text_line_contains_event_and_values(written: Write) -> None:
    log = written(log_format="text")
    structlog.get_logger().info("server_started", http=":8080", path="a folder")
    [line] = log.lines
    assert re.fullmatch(r'\S+Z \[info \] server_started http=:8080 path="a folder"', line)


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_lines_below_the_level_are_not_written(written: Write, level: str, count: int) -> None:
    log = written(level)
    logger = structlog.get_logger()
    for write in (logger.debug, logger.info, logger.warning, logger.error):
        write("happened")
    assert len(log.lines) == count


def test_level_changes_at_run_time_for_loggers_and_calls_in_use(written: Write) -> None:
    log, logger = written("warn"), structlog.get_logger()

    async def happen() -> None:
        logger.info("told")
        log.logs.access.grpc("/a/B", "OK", 0.1, "id", {})
        log.logs.access.http("GET", "/metrics", 200, 0.1, "id", {})

    asyncio.run(happen())
    assert log.lines == []
    log.logs.set_level("info")
    asyncio.run(happen())
    assert [event["event"] for event in log.events] == ["told", "grpc_call_finished"]
    log.logs.set_level("debug")
    asyncio.run(happen())
    assert [event["event"] for event in log.events[2:]] == ["told", "grpc_call_finished", "http_request_finished"]
    log.logs.set_level("error")
    logger.warning("silent")
    assert len(log.events) == 5
    with pytest.raises(KeyError):
        log.logs.set_level("loud")


@pytest.mark.parametrize("key", ["token", "authorization", "payload", "result"])
def test_secret_values_are_masked(written: Write, key: str) -> None:
    log = written()
    structlog.get_logger().info("call", **{key: "hush"})
    assert log.events[0][key] == "***"
    assert "hush" not in log.text


def test_lines_from_libraries_have_the_same_form(written: Write) -> None:
    log = written()
    logging.getLogger("some.library").error("failed: %s", "disk")
    [line] = log.events
    assert (line["level"], line["event"], line["logger"]) == ("error", "failed: disk", "some.library")


def test_values_of_an_event_of_the_standard_library_are_fields(written: Write) -> None:
    log = written()
    fields = {"name": "node-2", "reason": 'lost "it"', "token": "hush", "failures": 3}
    logging.getLogger("codeq.raft.transport").warning("raft_peer_lost", extra={"fields": fields})
    logging.getLogger("some.library").warning("odd", extra={"fields": "text"})
    line, odd = log.events
    del line["time"]
    assert line == {
        "level": "warn",
        "name": "node-2",
        "reason": 'lost "it"',
        "token": "***",
        "failures": 3,
        "event": "raft_peer_lost",
        "logger": "codeq.raft.transport",
    }
    assert odd["event"] == "odd"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_traceback_does_not_show_local_variables(written: Write, log_format: str) -> None:
    log = written(log_format=log_format)
    hidden = "".join(["hu", "sh"])
    try:
        int(hidden[:1])
    except ValueError:
        structlog.get_logger().error("call_failed", exc_info=True)
    assert "ValueError" in log.text
    assert "hush" not in log.text


# -- text from outside -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("hostile", [FORGED, TERMINAL, 'x" level=error y="', "\ud83d", "\\"])
async def test_hostile_text_stays_on_its_line_and_is_printable(written: Write, log_format: str, hostile: str) -> None:
    log = written(log_format=log_format)
    structlog.get_logger().info("call_failed", method=hostile)
    structlog.get_logger().info(hostile)
    logging.getLogger("library").error("peer said %s", hostile)
    log.logs.access.grpc(hostile, "UNIMPLEMENTED", 0.001, "r-1", {})
    log.logs.access.http(hostile, "/unknown", 501, 0.001, "r-1", {})
    assert len(log.lines) == 5
    assert all(line.isprintable() for line in log.lines)


def test_hostile_text_survives_a_json_round_trip(written: Write) -> None:
    log = written()
    structlog.get_logger().info("call_failed", method=FORGED + TERMINAL)
    assert log.events[0]["method"] == FORGED + TERMINAL


def test_hostile_text_adds_no_keys_to_a_text_line(written: Write) -> None:
    log = written(log_format="text")
    structlog.get_logger().info("call_failed", method='x" level=error y="\\')
    assert log.lines[0].endswith(r'call_failed method="x\" level=error y=\"\\"')


def test_traceback_lines_in_text_logs_are_indented_whatever_the_message(written: Write) -> None:
    log = written(log_format="text")
    structlog.get_logger().error("call_failed", exc_info=ValueError(FORGED + TERMINAL))
    assert all(line.startswith("    ") for line in log.lines[1:])
    assert all(line.isprintable() for line in log.lines)


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_long_values_are_truncated(written: Write, log_format: str) -> None:
    log = written(log_format=log_format)
    huge = "x" * (8 << 20)
    structlog.get_logger().info("call_failed", method=huge)
    structlog.get_logger().info("call_failed", **{f"key{number}": huge for number in range(100)})
    structlog.get_logger().info(huge)
    structlog.get_logger().error("call_failed", exc_info=ValueError(huge))
    logging.getLogger("library").error("peer said %s", huge)
    log.logs.access.grpc(huge, "UNIMPLEMENTED", 0.001, "r-1", {})
    lines = [len(line) for line in log.text.splitlines(keepends=True)]
    assert lines[0] < VALUE_CHARS_MAX + SPARE_CHARS
    assert max(lines) < LINE_CHARS_MAX + 3 * SPARE_CHARS
    assert sum(lines) < LINE_CHARS_MAX + 9 * (VALUE_CHARS_MAX + SPARE_CHARS)


def test_truncated_traceback_still_shows_the_error(written: Write) -> None:
    log = written()
    structlog.get_logger().error("call_failed", exc_info=ValueError("line\n" * TRACEBACK_CHARS_MAX + "last"))
    shown = str(log.events[0]["exception"])
    assert len(shown) <= TRACEBACK_CHARS_MAX
    assert shown.endswith("last")


class _Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_logging_an_unprintable_object_does_not_raise(written: Write, log_format: str) -> None:
    log = written(log_format=log_format)
    structlog.get_logger().info("call_failed", method=_Unprintable())
    structlog.get_logger().info("call_failed", number=1 << 200, share=float("nan"))
    structlog.get_logger().error("call_failed", exc_info=RuntimeError(_Unprintable()))
    logging.getLogger("library").error("peer said %d", "nothing")
    logging.getLogger("library").error("peer said %s", _Unprintable())
    assert len([line for line in log.lines if not line.startswith("    ")]) == 5


# -- access lines ------------------------------------------------------------------------------------------------------


async def test_http_access_line_has_route_and_request_id_and_probes_are_not_logged(written: Write) -> None:
    log = written()
    log.logs.access.http("GET", "/v1/codeq/tasks/{id}", 200, 0.0015, "r-1", {})
    log.logs.access.http("GET", "/metrics", 200, 0.0015, "r-2", {})
    [line] = log.events
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("time")))
    assert line.pop("level") == "info"
    assert line.pop("event") == "http_request_finished"
    assert line == {"method": "GET", "route": "/v1/codeq/tasks/{id}", "status": 200, "ms": 1.5, "request_id": "r-1"}


async def test_grpc_access_line_has_code_and_request_id(written: Write) -> None:
    log = written()
    log.logs.access.grpc("/codeq.v1.TaskService/GetTask", "NOT_FOUND", 0.002, "r-1", {})
    [line] = log.events
    assert (line["code"], line["ms"], line["request_id"]) == ("NOT_FOUND", 2.0, "r-1")


async def test_access_lines_of_rejections_give_reason_tenant_and_task(written: Write) -> None:
    log = written()
    about = {"reason": "TASK_NOT_FOUND", "tenant": "acme", "task_id": "x" * 5000}
    log.logs.access.http("GET", "/v1/codeq/tasks/{task_id}", 404, 0.001, "r-1", about)
    log.logs.access.grpc("/codeq.v1.TaskService/GetTask", "NOT_FOUND", 0.001, "r-1", about)
    for line in log.events:
        assert (line["reason"], line["tenant"], len(str(line["task_id"]))) == (
            "TASK_NOT_FOUND",
            "acme",
            VALUE_CHARS_MAX,
        )


async def test_access_lines_are_written_in_order_without_a_flush() -> None:
    reader, writer = os.pipe()
    logs = Logs("debug", "text", writer)
    for number in range(3):
        logs.access.http("GET", "/readyz", 200, 0.001, f"r-{number}", {})
    text = b""
    with os.fdopen(reader, "rb", buffering=0) as lines:
        while text.count(b"\n") < 3:
            text += await asyncio.wait_for(asyncio.to_thread(lines.read, 1000), 20)
    os.close(writer)
    assert re.findall(rb"request_id=(\S+)", text) == [b"r-0", b"r-1", b"r-2"]


@pytest.mark.parametrize("level", ["warn", "error"])
async def test_access_lines_are_not_written_at_levels_above_info(written: Write, level: str) -> None:
    log = written(level)
    log.logs.access.http("GET", "/v1/codeq/tasks/{id}", 200, 0.0015, "r-1", {})
    log.logs.access.grpc("/codeq.v1.TaskService/GetTask", "OK", 0.002, "r-1", {})
    assert not log.text


@pytest.mark.parametrize("given", ["r-1", "A.b_c:d/e+f=@", "x" * 128])
def test_well_formed_request_id_is_kept(given: str) -> None:
    assert well_formed_request_id(given) == given


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "x" * 129, "\u00e9"])
def test_malformed_request_id_is_replaced(given: str) -> None:
    made = well_formed_request_id(given)
    assert made != given
    assert made != well_formed_request_id(given)
    assert re.fullmatch("[0-9a-f]{32}", made)
