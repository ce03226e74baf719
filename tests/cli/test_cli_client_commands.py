"""Every client command against a server that records its requests."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import yaml
from codeq_cli import rest, transport
from codeq_cli.failures import ExitCode, Failure
from recording_server import RecordingServer, Run

PAYLOAD = '{ "b":1.10, "a":12345678901234567890123, "a":"\\u00fc" }'
TASK = '{"id":"t1","command":"A","payload":' + PAYLOAD + ',"status":"CLAIMED","leaseToken":"7","attempts":1}'


def sent(recorder: RecordingServer) -> object:
    return json.loads(recorder.request.body)


def test_create_sends_payload_byte_for_byte(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TASK.encode(), 202)
    done = client("task", "create", "A", "--payload", PAYLOAD)
    assert done.returncode == 0
    assert recorder.request.body == b'{"command":"A","payload":' + PAYLOAD.encode() + b"}"
    assert (recorder.request.method, recorder.request.path) == ("POST", "/v1/codeq/tasks")
    assert recorder.request.headers["authorization"] == "Bearer secret"
    assert recorder.request.headers["content-type"] == "application/json"


def test_create_with_every_option_sends_each_field(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TASK.encode(), 202)
    options = ("--priority", "9", "--delay", "0", "--expire", "60", "--max-attempts", "3")
    client("task", "create", "A", "--payload", "null", *options)
    numbers = {"priority": 9, "delaySeconds": 0, "expireSeconds": 60, "maxAttempts": 3}
    assert sent(recorder) == {"command": "A", "payload": None, **numbers}


def test_create_sends_the_run_at_option(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TASK.encode(), 202)
    client("task", "create", "A", "--payload", "-1.50", "--run-at", "2030-01-01T00:00:00Z")
    assert recorder.request.body == b'{"command":"A","payload":-1.50,"runAt":"2030-01-01T00:00:00Z"}'


def test_create_reads_payload_from_file_and_stdin(client: Run, recorder: RecordingServer, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_bytes(b'"\xc3\xbc"\n')
    recorder.reply(TASK.encode(), 202)
    recorder.reply(TASK.encode(), 202)
    assert client("task", "create", "A", "--payload", "@payload.json").returncode == 0
    assert client("task", "create", "A", "--payload", "-", stdin=b"[ 1.0 ]").returncode == 0
    assert [json.loads(request.body)["payload"] for request in recorder.requests] == ["ü", [1]]
    assert b"[ 1.0 ]" in recorder.requests[1].body


@pytest.mark.parametrize(
    ("args", "stdin", "part"),
    [
        (("create", "A", "--payload", "{x}"), b"", b"; write @FILE for the content of a file"),
        (("create", "A", "--payload", "NaN"), b"", b"NaN is not JSON"),
        (("create", "A", "--payload", ""), b"", b"--payload: is empty; it must be one JSON value"),
        (("create", "A", "--payload", "-"), b" \n", b"--payload: is empty"),
        (("create", "A", "--payload", "[1,"), b"", b"not JSON: expecting value, at line 1, column 4"),
        (("create", "A", "--payload", "-"), b'"\xff"', b"not UTF-8, at byte 1"),
        (("create", "A", "--payload", "-"), b"1" * (8 * 1024 * 1024 + 1), b"larger than 8388608 bytes"),
        (("create", "A", "--payload", "@missing"), b"", b"missing: No such file"),
        (("create", "A"), b"", b"--payload"),
        (("create", "A", "--payload", "1", "--priority", "10"), b"", b"--priority"),
        (
            ("create", "A", "--payload", "1", "--delay", "1", "--run-at", "2030-01-31T12:00:00Z"),
            b"",
            b"--run-at cannot be combined",
        ),
        (("create", "A/../B", "--payload", "1"), b"", b"is not a command"),
        (("get", ".."), b"", b"is not a task id"),
        (("get", "a/b"), b"", b"is not a task id"),
        (("claim", "--commands", "A,,B"), b"", b"'' is not a command"),
        (("complete", "t1", "--result", "}"), b"", b"--result: not JSON"),
        (("fail", "t1"), b"", b"--error"),
        (("fail", "t1", "--error", " "), b"", b"--error: must not be blank"),
        (("nack", "t1", "--delay", "x"), b"", b"--delay"),
        (("explode",), b"", b"explode"),
        ((), b"", b"a command is missing"),
    ],
)
def test_usage_error_prints_one_line_and_exits_with_code_2_without_a_request(
    client: Run, recorder: RecordingServer, args: tuple[str, ...], stdin: bytes, part: bytes
) -> None:
    done = client("task", *args, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.endswith(b" (USAGE)\n")
    assert done.stderr.count(b"\n") == 1
    assert part in done.stderr
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("args", "request_line", "body"),
    [
        ("get t1", "GET /tasks/t1", None),
        ("claim", "POST /tasks/claim", {"waitSeconds": 0}),
        (
            "claim --commands A,b.c --lease 30 --wait 2",
            "POST /tasks/claim",
            {"commands": ["A", "b.c"], "leaseSeconds": 30, "waitSeconds": 2},
        ),
        ("heartbeat t1", "POST /tasks/t1/heartbeat", {}),
        (
            "heartbeat t1 --extend 90 --lease-token 7",
            "POST /tasks/t1/heartbeat",
            {"leaseToken": "7", "extendSeconds": 90},
        ),
        ("complete t1", "POST /tasks/t1/result", {"status": "COMPLETED"}),
        (
            "complete t1 --result null --lease-token 18446744073709551615",
            "POST /tasks/t1/result",
            {"status": "COMPLETED", "result": None, "leaseToken": "18446744073709551615"},
        ),
        ("fail t1 --error no", "POST /tasks/t1/result", {"status": "FAILED", "error": "no"}),
        ("nack t1", "POST /tasks/t1/nack", {}),
        (
            "nack t1 --delay 0 --reason ü --lease-token 7",
            "POST /tasks/t1/nack",
            {"leaseToken": "7", "delaySeconds": 0, "reason": "ü"},
        ),
        ("abandon t1", "POST /tasks/t1/abandon", {}),
        ("abandon t1 --delay 5m --park-key", "POST /tasks/t1/abandon", {"delaySeconds": 300, "parkKey": True}),
        ("abandon t1 --delay 5m --lease-token 7", "POST /tasks/t1/abandon", {"leaseToken": "7", "delaySeconds": 300}),
    ],
)
def test_task_command_sends_the_request_and_shows_the_reply_unchanged(
    client: Run, recorder: RecordingServer, args: str, request_line: str, body: object
) -> None:
    recorder.reply(TASK.encode())
    done = client("-o", "json", "task", *args.split())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == TASK.encode() + b"\n"
    method, path = request_line.split()
    assert (recorder.request.method, recorder.request.path) == (method, f"/v1/codeq{path}")
    assert json.loads(recorder.request.body or b"null") == body


def test_complete_sends_result_byte_for_byte(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"{}")
    client("task", "complete", "t1", "--result", PAYLOAD)
    assert recorder.request.body == b'{"status":"COMPLETED","result":' + PAYLOAD.encode() + b"}"


def test_result_sends_the_wait_and_shows_the_record_in_a_table(client: Run, recorder: RecordingServer) -> None:
    record = '{"taskId":"t1","status":"COMPLETED","result":1.10}'
    recorder.reply(f'{{"task":{TASK},"result":{record}}}'.encode())
    done = client("task", "result", "t1", "--wait", "5", "-o", "table")
    assert recorder.request.path == "/v1/codeq/tasks/t1/result?waitSeconds=5"
    assert done.stdout == b"taskId  t1\nstatus  COMPLETED\nresult  1.10\n"


def test_claim_on_an_empty_queue_exits_with_code_3(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"", 204)
    recorder.reply(b"", 204)
    plain, as_json = client("task", "claim"), client("task", "claim", "-o", "json")
    assert (plain.returncode, plain.stdout) == (3, b"")
    assert plain.stderr == b"error: nothing to claim (NOTHING_TO_CLAIM)\n"
    assert as_json.returncode == 3
    assert json.loads(as_json.stderr)["reason"] == "NOTHING_TO_CLAIM"


def test_table_shows_payload_byte_for_byte_and_text_without_quotes(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TASK.encode())
    lines = client("-o", "table", "task", "get", "t1").stdout.decode().splitlines()
    assert f"payload     {PAYLOAD}" in lines
    assert "leaseToken  7" in lines
    assert "status      CLAIMED" in lines


def test_table_escapes_control_characters(client: Run, recorder: RecordingServer) -> None:
    recorder.reply('{"error":"\\u001b[31m[bold]\\u202e","payload":"\u009bx"}'.encode())
    done = client("-o", "table", "task", "get", "t1")
    assert done.stdout == b'error    \\x1b[31m[bold]\\u202e\npayload  "\\x9bx"\n'


def test_yaml_keeps_the_digits_of_numbers(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"payload":{"price":1.10,"big":12345678901234567890123,"huge":1E400,"text":"1"},"leaseToken":"7"}')
    text = client("-o", "yaml", "task", "get", "t1").stdout.decode()
    assert "  price: 1.10\n" in text
    assert "  big: 12345678901234567890123\n" in text
    assert "1E400" in text
    assert yaml.safe_load(text) == {
        "payload": {"price": 1.1, "big": 12345678901234567890123, "huge": float("inf"), "text": "1"},
        "leaseToken": "7",
    }


def test_queue_list_reads_and_joins_every_page(client: Run, recorder: RecordingServer) -> None:
    queues = [f'{{"command":"{name}","ready":{n},"oldestAgeSeconds":0.50}}' for n, name in enumerate("ABC")]
    for _ in range(2):
        recorder.reply(f'{{"queues":[{queues[0]},{queues[1]}],"nextPageToken":"b/c="}}'.encode())
        recorder.reply(f'{{"queues":[{queues[2]}],"nextPageToken":""}}'.encode())
    as_json, table = client("queue", "list"), client("queue", "list", "-o", "table")
    assert as_json.stdout.decode() == f'{{"queues":[{",".join(queues)}]}}\n'
    assert [request.path for request in recorder.requests[:2]] == [
        "/v1/codeq/admin/queues?pageSize=500",
        "/v1/codeq/admin/queues?pageSize=500&pageToken=b%2Fc%3D",
    ]
    head, *rows = [line.split() for line in table.stdout.decode().splitlines()]
    assert head == [
        *("COMMAND", "READY", "SCHEDULED", "CLAIMED", "DLQ", "FAILEDTOTAL"),
        *("OLDESTAGESECONDS", "CREATEDRATE", "COMPLETEDRATE", "PAUSED"),
    ]
    assert rows == [["A", "0", "0.50"], ["B", "1", "0.50"], ["C", "2", "0.50"]]


def test_queue_list_stops_if_the_server_repeats_a_page(client: Run, recorder: RecordingServer) -> None:
    recorder.replies = [(200, b'{"queues":[],"nextPageToken":"x"}')] * 3
    done = client("queue", "list")
    assert (done.returncode, len(recorder.requests)) == (4, 2)


def test_queue_stats_requests_the_named_queue(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"command":"A","ready":3}')
    assert client("queue", "stats", "A", "-o", "table").stdout == b"command  A\nready    3\n"
    assert recorder.request.path == "/v1/codeq/admin/queues/A"


ERROR = b'{"error":"no task\\nt1 \\u001b[2J","code":"NOT_FOUND","reason":"TASK_NOT_FOUND","details":[]}'


def test_rejection_prints_one_line_with_the_reason_and_exits_with_code_1(
    client: Run, recorder: RecordingServer
) -> None:
    recorder.reply(ERROR, 404)
    done = client("task", "get", "t1")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: no task t1 \\x1b[2J (TASK_NOT_FOUND)\n"


def test_rejection_with_json_output_prints_the_error_body(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(ERROR, 404)
    done = client("task", "get", "t1", "-o", "json")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", ERROR + b"\n")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":1}', b""])
def test_rejection_by_a_foreign_server_shows_its_status(client: Run, recorder: RecordingServer, body: bytes) -> None:
    recorder.reply(body, 502)
    done = client("task", "get", "t1")
    assert (done.returncode, done.stderr) == (1, b"error: the server answered 502 Bad Gateway (HTTP_502)\n")


def test_redirect_is_rejected(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"", 307)
    done = client("task", "get", "t1")
    assert done.returncode == 1
    assert b"HTTP_307" in done.stderr


@pytest.mark.parametrize("args", [("task", "get", "t1"), ("task", "result", "t1", "-o", "table"), ("queue", "list")])
def test_reply_of_a_foreign_server_exits_with_code_4(
    client: Run, recorder: RecordingServer, args: tuple[str, ...]
) -> None:
    recorder.reply(b"hello")
    done = client(*args)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.endswith(b" (CONNECTION_FAILED)\n")


def test_refusal_by_a_rate_limit_says_whose_it_is_and_when_to_retry(client: Run, recorder: RecordingServer) -> None:
    about = b'"scope":"producer","operation":"create_task","subject":"tenant","retryAfterSeconds":9'
    body = b'{"error":"rate limit exceeded","reason":"RATE_LIMITED",' + about + b"}"
    said = {
        "table": b"error: rate limit exceeded for the tenant; try again in 9 s (RATE_LIMITED)\n",
        "json": body + b"\n",
    }
    for format_, line in said.items():
        recorder.reply(body, 429)
        done = client("task", "create", "A", "--payload", "1", "-o", format_)
        assert (done.returncode, done.stderr) == (1, line)


def test_refused_connection_exits_with_code_4(run: Run) -> None:
    done = run("--endpoint", "http://127.0.0.1:1", "task", "get", "t1")
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"error: http://127.0.0.1:1: ")
    assert done.stderr.endswith(b" (CONNECTION_FAILED)\n")


def test_option_after_the_command_overrides_the_same_option_before_it(run: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"id":"t1"}')
    before = ["-o", "yaml", "--endpoint", "http://127.0.0.1:1", "--token", "front"]
    behind = ["-o", "table", "--endpoint", recorder.endpoint, "--token", "behind"]
    assert run(*before, "task", "get", "t1", *behind).stdout == b"id  t1\n"
    assert recorder.request.headers["authorization"] == "Bearer behind"


def test_call_without_a_token_sends_no_authorization_header(run: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"{}")
    assert run("task", "get", "t1", CODEQ_ENDPOINT=recorder.endpoint + "/prefix/").returncode == 0
    assert "authorization" not in recorder.request.headers
    assert recorder.request.path == "/prefix/v1/codeq/tasks/t1"


def test_token_appears_in_no_output(run: Run) -> None:
    done = run("task", "get", "t1", CODEQ_TOKEN="se cret")
    assert done.returncode == 2
    assert b"se cret" not in done.stderr
    assert b"CODEQ_TOKEN" in done.stderr


def test_oversized_reply_exits_with_code_4(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"id":"' + b"x" * transport.REPLY_BYTES_MAX + b'"}')
    done = client("task", "get", "t1")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"larger than 16777216 bytes" in done.stderr


def test_requested_wait_extends_the_reply_timeout(recorder: RecordingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "REPLY_SECONDS_MAX", 0.0)
    recorder.reply(b"{}")
    assert rest.Server((recorder.endpoint,), None).call("GET", "/tasks/t1/result", wait_seconds=20) == "{}"


def test_reply_timeout_is_reported_as_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "REPLY_SECONDS_MAX", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_server = rest.Server((f"http://127.0.0.1:{silent.getsockname()[1]}",), None)
        with pytest.raises(Failure, match=r"in time") as failed:
            silent_server.call("GET", "/tasks/t1")
    assert failed.value.exit_code == ExitCode.CONNECTION_FAILED


def test_payload_bytes_are_unchanged_in_every_locale(run: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"{}")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("task", "create", "A", "--payload", '"\u20ac"', CODEQ_ENDPOINT=recorder.endpoint, **locale)
    assert done.returncode == 0
    assert recorder.request.body == b'{"command":"A","payload":"\xe2\x82\xac"}'


def test_cancel_sends_the_reason(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TASK.encode())
    assert client("task", "cancel", "t1", "--reason", "no need").returncode == 0
    assert (recorder.request.method, recorder.request.path) == ("POST", "/v1/codeq/tasks/t1/cancel")
    assert sent(recorder) == {"reason": "no need"}


@pytest.mark.parametrize(
    ("args", "method", "path", "body"),
    [
        (("task", "progress", "t1", "[1.50]", "--extend", "9"), "POST", "/tasks/t1/progress", b'"progress":[1.50]'),
        (("task", "explain", "t1"), "GET", "/tasks/t1/explain", b""),
        (("queue", "pause", "A"), "POST", "/admin/queues/A/pause", b"{}"),
        (("queue", "resume", "A"), "POST", "/admin/queues/A/resume", b"{}"),
        (("webhook", "retry", "--task", "t1"), "POST", "/tasks/t1/webhooks/retry", b"{}"),
        (("webhook", "retry", "A"), "POST", "/admin/webhooks/retry", b'{"command":"A"}'),
        (("webhook", "pause", "h:443"), "POST", "/admin/webhooks/pause", b'{"host":"h:443"}'),
        (("webhook", "resume", "h:443"), "POST", "/admin/webhooks/resume", b'{"host":"h:443"}'),
        (("webhook", "test", "https://h/"), "POST", "/admin/webhooks/test", b'{"url":"https://h/"}'),
        (("webhook", "secrets", "put", "-"), "PUT", "/admin/webhooks/secrets", b'{"endpoint":"","secrets":[]}'),
    ],
)
def test_control_commands_send_their_requests(
    client: Run, recorder: RecordingServer, args: tuple[str, ...], method: str, path: str, body: bytes
) -> None:
    recorder.reply(b'{"status":"CLAIMED"}')
    assert client(*args).returncode == 0
    assert (recorder.request.method, recorder.request.path) == (method, f"/v1/codeq{path}")
    assert body in recorder.request.body
