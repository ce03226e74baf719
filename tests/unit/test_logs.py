"""Log lines: their form, their level, and what never stands in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from codeq_server import logs
from codeq_server.access_log import well_formed_request_id


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Puts the process's logging back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_line_has_utc_time_level_event_and_values() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    structlog.get_logger().warning("store_opened", path="x\ny")
    [line] = lines_of(out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("time")))
    assert line == {"level": "warn", "event": "store_opened", "path": "x\ny"}


def test_format_without_terminal_is_json() -> None:
    out = io.StringIO()
    logs.configure("info", None, out)
    structlog.get_logger().info("server_started")
    assert lines_of(out)[0]["event"] == "server_started"


def test_text_line_holds_event_and_values() -> None:
    out = io.StringIO()
    logs.configure("info", "text", out)
    structlog.get_logger().info("server_started", http=":8080")
    assert len(out.getvalue().splitlines()) == 1
    assert "server_started" in out.getvalue()
    assert "http=:8080" in out.getvalue()


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_level_hides_what_is_below(level: str, count: int) -> None:
    out = io.StringIO()
    logs.configure(level, "json", out)
    log = structlog.get_logger()
    for write in (log.debug, log.info, log.warning, log.error):
        write("happened")
    assert len(lines_of(out)) == count


@pytest.mark.parametrize("key", ["token", "authorization", "payload", "result"])
def test_secret_values_are_hidden(key: str) -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    structlog.get_logger().info("call", **{key: "hush"})
    assert lines_of(out)[0][key] == "***"
    assert "hush" not in out.getvalue()


def test_line_of_library_has_the_same_form() -> None:
    out = io.StringIO()
    logs.configure("info", "json", out)
    logging.getLogger("some.library").error("failed: %s", "disk")
    [line] = lines_of(out)
    assert (line["level"], line["event"], line["logger"]) == ("error", "failed: disk", "some.library")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_traceback_does_not_show_local_variables(log_format: str) -> None:
    out = io.StringIO()
    logs.configure("info", log_format, out)
    hidden = "".join(["hu", "sh"])
    try:
        int(hidden[:1])
    except ValueError:
        structlog.get_logger().exception("call_failed")
    assert "ValueError" in out.getvalue()
    assert "hush" not in out.getvalue()


async def test_http_access_line_has_route_and_request_id_and_probes_are_quiet() -> None:
    out = io.StringIO()
    access = logs.configure("info", "json", out)
    access.http("GET", "/v1/codeq/tasks/{id}", 200, 0.0015, "r-1")
    access.http("GET", "/metrics", 200, 0.0015, "r-2")
    access.flush()
    [line] = lines_of(out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("time")))
    assert line.pop("level") == "info"
    assert line.pop("event") == "http_request_finished"
    assert line == {"method": "GET", "route": "/v1/codeq/tasks/{id}", "status": 200, "ms": 1.5, "request_id": "r-1"}


async def test_grpc_access_line_has_code_and_request_id() -> None:
    out = io.StringIO()
    access = logs.configure("info", "json", out)
    access.grpc("/codeq.v1.TaskService/GetTask", "NOT_FOUND", 0.002, "r-1")
    access.flush()
    [line] = lines_of(out)
    assert (line["code"], line["ms"], line["request_id"]) == ("NOT_FOUND", 2.0, "r-1")


async def test_access_lines_are_written_by_themselves_in_order() -> None:
    written = asyncio.Event()

    class Out(io.StringIO):
        def flush(self) -> None:
            written.set()

    out = Out()
    access = logs.configure("debug", "text", out)
    for number in range(3):
        access.http("GET", "/readyz", 200, 0.001, f"r-{number}")
    await asyncio.wait_for(written.wait(), 5)
    assert re.findall(r"request_id=(\S+)", out.getvalue()) == ["r-0", "r-1", "r-2"]


@pytest.mark.parametrize("level", ["warn", "error"])
async def test_access_lines_above_info_are_not_written(level: str) -> None:
    out = io.StringIO()
    access = logs.configure(level, "json", out)
    access.http("GET", "/v1/codeq/tasks/{id}", 200, 0.0015, "r-1")
    access.grpc("/codeq.v1.TaskService/GetTask", "OK", 0.002, "r-1")
    access.flush()
    assert not out.getvalue()


@pytest.mark.parametrize("given", ["r-1", "A.b_c:d/e+f=@", "x" * 128])
def test_request_id_when_well_formed_is_kept(given: str) -> None:
    assert well_formed_request_id(given) == given


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "x" * 129, "\u00e9"])
def test_request_id_when_malformed_is_made_anew(given: str) -> None:
    made = well_formed_request_id(given)
    assert made != given
    assert made != well_formed_request_id(given)
    assert re.fullmatch("[0-9a-f]{32}", made)
