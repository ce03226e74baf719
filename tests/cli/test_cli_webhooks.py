"""Callbacks on the command line, against a server that records its requests."""

from __future__ import annotations

import json

from recording_server import RecordingServer, Run

HELD = [
    {"host": "h:443", "reason": "PAUSED", "since": "2026-01-31T12:00:00Z"},
    {"host": "i:80", "reason": "FAILING", "until": "2026-01-31T12:00:05Z"},
]
PAGE = json.dumps({"callbacks": [{"deliveryId": "d"}], "nextPageToken": "", "heldHosts": HELD}).encode()


def test_list_shows_the_hosts_that_get_no_callbacks(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(PAGE)
    shown = client("webhook", "list", "A", "-o", "json")
    assert json.loads(shown.stdout) == {"callbacks": [{"deliveryId": "d"}], "heldHosts": HELD}
    assert shown.stderr == b""
    recorder.reply(PAGE)
    shown = client("webhook", "list", "A", "-o", "table")
    assert len(shown.stdout.splitlines()) == 2
    assert shown.stderr == (
        b"no callbacks to h:443: PAUSED\nno callbacks to i:80: FAILING until 2026-01-31T12:00:05Z\n"
    )


def test_list_of_a_task_shows_its_callbacks_alone(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"callbacks":[]}')
    assert client("webhook", "list", "--task", "t1", "-o", "json").stdout == b'{"callbacks":[]}\n'


def test_retry_is_limited_to_a_time_on_every_page(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"retried":2,"nextPageToken":"p"}')
    recorder.reply(b'{"retried":1,"nextPageToken":""}')
    times = ("--from", "2026-01-31T12:00:00Z", "--to", "2026-02-01T12:00:00Z")
    assert client("webhook", "retry", "A", *times, "-o", "json").stdout == b'{"retried":3}\n'
    wanted = {"command": "A", "from": "2026-01-31T12:00:00Z", "to": "2026-02-01T12:00:00Z"}
    assert [json.loads(request.body) for request in recorder.requests] == [wanted, {**wanted, "pageToken": "p"}]


def test_times_need_a_command(client: Run, recorder: RecordingServer) -> None:
    done = client("webhook", "retry", "--task", "t1", "--from", "1h")
    assert (done.returncode, done.stderr) == (2, b"error: --from and --to need COMMAND (USAGE)\n")
    assert recorder.requests == []
