"""Schedules on the command line, against a server that records its requests."""

from __future__ import annotations

import json

import pytest
from recording_server import RecordingServer, Run

SPEC = '{"cron":"0 3 * * *","timeZone":"Europe/Berlin","command":"report","paused":false}'
SCHEDULE = (
    f'{{"name":"nightly","spec":{SPEC},"next":[],"finished":false,"firedTotal":7,"skippedTotal":0,"missedTotal":1}}'
)
FIRE = '{"scheduledAt":"2026-01-01T03:00:00Z","firedAt":"2026-01-01T03:00:00Z","kind":"INSTANT","taskId":"t1"}'


def test_put_sends_the_definition(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(SCHEDULE.encode())
    given = ("--command", "report", "--cron", "0 3 * * *", "--time-zone", "Europe/Berlin", "--payload", '{"n": 1.0}')
    more = ("--overlap", "queueOne", "--misfire", "all", "--misfire-max", "5", "--jitter", "1m", "--paused")
    done = client("schedule", "put", "nightly", *given, *more, "--tenant", "acme", "-o", "json")
    assert done.stdout.decode() == SCHEDULE + "\n"
    assert recorder.request.method == "PUT"
    assert recorder.request.path == "/v1/codeq/admin/schedules/nightly?tenant=acme"
    assert b'"payload":{"n": 1.0}' in recorder.request.body
    assert json.loads(recorder.request.body) == {
        "command": "report",
        "cron": "0 3 * * *",
        "timeZone": "Europe/Berlin",
        "payload": {"n": 1.0},
        "overlap": "queueOne",
        "misfire": "all",
        "misfireMax": 5,
        "jitterSeconds": 60,
        "paused": True,
    }


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("x", "--command", "c"), "--cron, --every and --at"),
        (("x", "--command", "c", "--cron", "@daily", "--every", "1h"), "--cron, --every and --at"),
        (("../x", "--command", "c", "--every", "1h"), "../x"),
        (("x", "--command", "c", "--every", "1h", "--overlap", "never"), "--overlap"),
        (("x", "--every", "1h"), "--command"),
    ],
)
def test_put_rejects_what_it_cannot_send(
    client: Run, recorder: RecordingServer, args: tuple[str, ...], named: str
) -> None:
    done = client("schedule", "put", *args)
    assert (done.returncode, recorder.requests) == (2, [])
    assert named in done.stderr.decode()


@pytest.mark.parametrize("action", ["pause", "resume", "trigger"])
def test_actions_post_to_the_schedule(client: Run, recorder: RecordingServer, action: str) -> None:
    recorder.reply(SCHEDULE.encode())
    assert client("schedule", action, "nightly").returncode == 0
    assert (recorder.request.method, recorder.request.body) == ("POST", b"{}")
    assert recorder.request.path == f"/v1/codeq/admin/schedules/nightly/{action}"


def test_get_and_delete_name_the_schedule(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(SCHEDULE.encode())
    assert client("schedule", "get", "nightly", "-o", "json").stdout.decode() == SCHEDULE + "\n"
    recorder.reply(b"{}")
    assert client("schedule", "delete", "nightly").stdout == b""
    paths = [(request.method, request.path) for request in recorder.requests]
    assert paths == [(method, "/v1/codeq/admin/schedules/nightly") for method in ("GET", "DELETE")]


def test_list_shows_when_each_schedule_fires(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(f'{{"schedules":[{SCHEDULE}],"nextPageToken":""}}'.encode())
    lines = client("schedule", "list", "-o", "table").stdout.decode().splitlines()
    assert lines[0].split()[:3] == ["NAME", "COMMAND", "WHEN"]
    assert lines[1].split() == [
        "nightly",
        "report",
        "0",
        "3",
        "*",
        "*",
        "*",
        "Europe/Berlin",
        "false",
        "false",
        "7",
        "0",
        "1",
    ]
    assert recorder.request.path == "/v1/codeq/admin/schedules?pageSize=500"


def test_backfill_sends_the_range_and_shows_the_fires(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(f'{{"fires":[{FIRE}],"duplicates":2}}'.encode())
    given = ("--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z")
    lines = client("schedule", "backfill", "nightly", *given, "-o", "table").stdout.decode().splitlines()
    assert lines[1].split() == ["2026-01-01T03:00:00Z", "2026-01-01T03:00:00Z", "INSTANT", "t1"]
    assert recorder.request.path == "/v1/codeq/admin/schedules/nightly/backfill"
    assert json.loads(recorder.request.body) == {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}


def test_history_shows_fires_with_their_tasks(client: Run, recorder: RecordingServer) -> None:
    reply = f'{{"fires":[{FIRE}]}}'
    recorder.reply(reply.encode())
    assert client("schedule", "history", "nightly", "-o", "json").stdout.decode() == reply + "\n"
    assert recorder.request.path == "/v1/codeq/admin/schedules/nightly/history"


def test_recompute_of_all_schedules_says_which_moved(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(f'{{"schedules":[{SCHEDULE}],"nextPageToken":""}}'.encode())
    recorder.reply(b'{"moved":true,"before":["2026-03-01T03:00:00+01:00","x"],"after":["2026-03-01T03:00:00+02:00"]}')
    lines = client("schedule", "recompute", "-o", "table").stdout.decode().splitlines()
    assert lines[1].split() == ["nightly", "true", "2026-03-01T03:00:00+01:00", "2026-03-01T03:00:00+02:00"]
    assert recorder.requests[-1].path == "/v1/codeq/admin/schedules/nightly/recompute"
