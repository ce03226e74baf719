"""codeq top, against a server that records its requests."""

from __future__ import annotations

import json

import pytest
from codeq_cli import top_commands
from recording_server import RecordingServer, Run
from test_cli_cluster import MEMBERS, STATUS

QUEUES = [
    '{"command":"idle","ready":0,"claimed":1,"createdRate":0.5,"completedRate":0.25}',
    '{"command":"old","ready":7,"scheduled":2,"oldestAgeSeconds":90.5,"createdRate":1,"completedRate":0}',
    '{"command":"young","ready":7,"oldestAgeSeconds":3,"dlq":4}',
]
PAGE = f'{{"queues":[{",".join(QUEUES)}]}}'.encode()
WORKERS = [
    '{"workerId":"idle","commands":[],"claimed":0,"credits":9}',
    '{"workerId":"busy/1","commands":["old"],"claimed":3,"credits":0,"sdk":"codeq-go","version":"0.1.0"}',
]
CONNECTED = f'{{"workers":[{",".join(WORKERS)}]}}'.encode()
NOBODY = b'{"workers":[]}'
SINGLE = b'{"enabled":false,"numGroups":0,"groups":[],"fsync":true}'


def test_top_shows_sums_and_the_queues_with_the_most_work_first(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(PAGE)
    recorder.reply(CONNECTED)
    recorder.reply(SINGLE)
    done = client("top", "-o", "table", "--limit", "2")
    sums, queues, workers = (
        [line.split() for line in part.splitlines()] for part in done.stdout.decode().split("\n\n")
    )
    assert sums == [
        ["QUEUES", "READY", "SCHEDULED", "CLAIMED", "DLQ", "CREATEDRATE", "COMPLETEDRATE"],
        ["3", "14", "2", "1", "4", "1.5", "0.25"],
    ]
    assert [line[0] for line in queues] == ["COMMAND", "old", "young"]
    assert [line[0] for line in workers] == ["WORKERID", "busy/1", "idle"]
    assert [request.path.partition("?")[0] for request in recorder.requests] == [
        "/v1/codeq/admin/queues",
        "/v1/codeq/admin/workers",
        "/v1/codeq/raft/status",
    ]


def test_top_shows_the_members_of_a_cluster(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(PAGE)
    recorder.reply(NOBODY)
    recorder.reply(STATUS)
    lines = client("top", "-o", "table", "--tenant", "acme").stdout.decode().split("\n\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "a", "b"]
    assert all("tenant=acme" in request.path for request in recorder.requests[:2])


def test_top_looks_once_for_scripts(client: Run, recorder: RecordingServer) -> None:
    for reply in (PAGE, CONNECTED, SINGLE):
        recorder.reply(reply)
    done = client("top", "--once", "--interval", "3600", "-o", "json")
    assert json.loads(done.stdout)["sums"]["queues"] == 3


@pytest.mark.parametrize(("lines", "queues", "workers"), [(24, 7, 4), (60, 20, 27), (5, 1, 1)])
def test_top_shows_as_many_queues_and_workers_as_fit(
    monkeypatch: pytest.MonkeyPatch, lines: int, queues: int, workers: int
) -> None:
    monkeypatch.setenv("LINES", str(lines))
    assert top_commands._fitting(20, 3) == (queues, workers)


def test_top_looks_as_often_as_it_is_told(client: Run, recorder: RecordingServer) -> None:
    for _ in range(2):
        recorder.reply(PAGE)
        recorder.reply(CONNECTED)
        recorder.reply(STATUS)
    done = client("top", "--count", "2", "--interval", "1")
    assert done.returncode == 0
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first == second
    assert first["sums"] == {
        "queues": 3,
        "ready": 14,
        "scheduled": 2,
        "claimed": 1,
        "dlq": 4,
        "createdRate": 1.5,
        "completedRate": 0.25,
    }
    assert [queue["command"] for queue in first["queues"]] == ["old", "young", "idle"]
    assert [worker["workerId"] for worker in first["workers"]] == ["busy/1", "idle"]
    assert first["members"] == [json.loads(member) for member in MEMBERS]
