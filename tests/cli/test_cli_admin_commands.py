"""Lists of tasks, dead letters, redrive and cleanup, against a server that records its requests."""

from __future__ import annotations

import json

import pytest
from recording_server import RecordingServer, Run

TASKS = [f'{{"id":"t{n}","command":"A","status":"DLQ","attempts":1,"error":"no","payload":{n}.0}}' for n in range(3)]

EVERY_FILTER = (
    "dlq redrive A --status failed --error ü --ended-from 2030-01-01T00:00:00Z --ended-to 2030-02-01T00:00:00Z"
    " --ids t1,t2 --dry-run --limit 9 --page-token p"
)


def page(tasks: list[str], token: str, more: str = "") -> bytes:
    return f'{{"tasks":[{",".join(tasks)}],"nextPageToken":"{token}"{more}}}'.encode()


def test_task_list_with_every_filter_reads_all_pages(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(page(TASKS[:2], "x/y="))
    recorder.reply(page(TASKS[2:], ""))
    done = client(
        *("task", "list", "--command", "A", "--status", "dlq, failed", "--limit", "1000", "-o", "json"),
        *("--created-from", "2030-01-01T00:00:00Z", "--created-to", "2030-02-01T00:00:00Z"),
    )
    assert done.stdout.decode() == f'{{"tasks":[{",".join(TASKS)}]}}\n'
    first, second = (request.path for request in recorder.requests)
    assert first == (
        "/v1/codeq/tasks?pageSize=500&orderBy=newest&command=A&status=DLQ&status=FAILED"
        "&createdFrom=2030-01-01T00%3A00%3A00Z&createdTo=2030-02-01T00%3A00%3A00Z"
    )
    assert second == first + "&pageToken=x%2Fy%3D"


def test_task_list_stops_at_its_limit_and_says_how_to_continue(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(page(TASKS[:2], "more"))
    done = client("task", "list", "--limit", "2", "-o", "table")
    assert done.stdout.decode().splitlines()[0].split()[:3] == ["ID", "COMMAND", "STATUS"]
    assert [line.split()[0] for line in done.stdout.decode().splitlines()[1:]] == ["t0", "t1"]
    assert done.stderr == b"more tasks: --page-token more, or --all for all tasks\n"
    assert recorder.request.path == "/v1/codeq/tasks?pageSize=2&orderBy=newest"


def test_task_list_continues_at_a_page_token_and_prints_the_next_one_as_json(
    client: Run, recorder: RecordingServer
) -> None:
    recorder.reply(page(TASKS[:2], "more"))
    done = client("task", "list", "--order", "oldest", "--limit", "2", "--page-token", "t", "-o", "json")
    assert json.loads(done.stdout)["nextPageToken"] == "more"
    assert recorder.request.path == "/v1/codeq/tasks?pageSize=2&orderBy=oldest&pageToken=t"


def test_task_list_requests_a_smaller_last_page_to_meet_its_limit(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(page([TASKS[0]] * 500, "p"))
    recorder.reply(page([TASKS[1]], "q"))
    done = client("task", "list", "--limit", "501", "-o", "json")
    assert [len(json.loads(done.stdout)["tasks"]), done.stderr.count(b"--page-token q")] == [501, 1]
    assert [request.path.split("&")[0].rpartition("=")[2] for request in recorder.requests] == ["500", "1"]


def test_task_list_shows_all_tasks_on_request(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(page(TASKS[:2], "p"))
    recorder.reply(page(TASKS[2:], ""))
    done = client("task", "list", "--all", "-o", "json")
    assert (len(json.loads(done.stdout)["tasks"]), done.stderr) == (len(TASKS), b"")


def test_dlq_list_without_a_queue_shows_which_queues_have_dead_letters(client: Run, recorder: RecordingServer) -> None:
    queues = '{"queues":[{"command":"A","dlq":0},{"command":"B","dlq":3,"failedTotal":1}],"nextPageToken":""}'
    recorder.reply(queues.encode())
    table = client("dlq", "list", "-o", "table").stdout.decode().splitlines()
    assert [line.split() for line in table] == [["COMMAND", "DLQ", "FAILEDTOTAL"], ["B", "3", "1"]]
    assert recorder.request.path == "/v1/codeq/admin/queues?pageSize=500"


def test_background_redrive_prints_no_counts(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"matched":0,"redriven":0,"inBackground":true,"nextPageToken":""}')
    done = client("dlq", "redrive", "A", "--rate", "5", "-o", "json")
    assert json.loads(done.stdout) == {"inBackground": True, "rate": 5}
    assert done.stderr.startswith(b"redriving in the background, 5 a second")


def test_dlq_list_shows_tasks_in_a_table_and_groups_in_json(client: Run, recorder: RecordingServer) -> None:
    body = page(TASKS, "t", ',"groups":[{"error":"no","count":3}],"total":3')
    recorder.replies = [(200, body)] * 2
    assert client("dlq", "list", "A", "-o", "json").stdout == body + b"\n"
    table = client("dlq", "list", "A", "--limit", "3", "--page-token", "s", "-o", "table").stdout.decode().splitlines()
    assert table[0].split() == ["ID", "PRIORITY", "ATTEMPTS", "FINISHEDAT", "ERROR"]
    assert [line.split()[0] for line in table[1:]] == ["t0", "t1", "t2"]
    assert [request.path for request in recorder.requests] == [
        "/v1/codeq/admin/queues/A/dlq?pageSize=100",
        "/v1/codeq/admin/queues/A/dlq?pageSize=3&pageToken=s",
    ]


def test_next_page_hint_names_only_options_of_the_command(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(page(TASKS, "t", ',"groups":[],"total":9'))
    done = client("dlq", "list", "A", "-o", "table")
    assert done.stderr == b"more tasks: --page-token t\n"


@pytest.mark.parametrize(
    ("args", "path", "body"),
    [
        ("task redrive t1", "/tasks/t1/redrive", {}),
        ("queue purge A --yes", "/admin/queues/A/purge", {}),
        ("dlq redrive A", "/admin/queues/A/dlq/redrive", {"status": "DLQ"}),
        (
            EVERY_FILTER,
            "/admin/queues/A/dlq/redrive",
            {
                "status": "FAILED",
                "errorContains": "ü",
                "endedFrom": "2030-01-01T00:00:00Z",
                "endedTo": "2030-02-01T00:00:00Z",
                "taskIds": ["t1", "t2"],
                "dryRun": True,
                "limit": 9,
                "pageToken": "p",
            },
        ),
        ("dlq redrive A --rate 5", "/admin/queues/A/dlq/redrive", {"status": "DLQ", "rate": 5}),
        (
            "task cleanup --before 2030-01-01T00:00:00Z",
            "/admin/tasks/cleanup",
            {"before": "2030-01-01T00:00:00Z"},
        ),
        (
            "task cleanup --before 2030-01-01T00:00:00Z --limit 5 --page-token p",
            "/admin/tasks/cleanup",
            {"before": "2030-01-01T00:00:00Z", "limit": 5, "pageToken": "p"},
        ),
    ],
)
def test_command_sends_its_options_and_shows_the_reply(
    client: Run, recorder: RecordingServer, args: str, path: str, body: object
) -> None:
    recorder.reply(b'{"redriven":1}')
    done = client("-o", "json", *args.split())
    assert (done.returncode, done.stdout) == (0, b'{"redriven":1}\n')
    assert (recorder.request.method, recorder.request.path) == ("POST", f"/v1/codeq{path}")
    assert json.loads(recorder.request.body) == body


@pytest.mark.parametrize(
    ("args", "method", "path"),
    [
        ("queue list", "GET", "/admin/queues?pageSize=500&"),
        ("queue stats A", "GET", "/admin/queues/A?"),
        ("queue pause A", "POST", "/admin/queues/A/pause?"),
        ("queue resume A", "POST", "/admin/queues/A/resume?"),
        ("queue purge A --yes", "POST", "/admin/queues/A/purge?"),
        ("dlq list", "GET", "/admin/queues?pageSize=500&"),
        ("dlq list A", "GET", "/admin/queues/A/dlq?pageSize=100&"),
        ("dlq redrive A", "POST", "/admin/queues/A/dlq/redrive?"),
        ("task redrive t1", "POST", "/tasks/t1/redrive?"),
        ("task cleanup --before 2030-01-01T00:00:00Z", "POST", "/admin/tasks/cleanup?"),
    ],
)
def test_command_of_an_operator_names_the_tenant(
    client: Run, recorder: RecordingServer, args: str, method: str, path: str
) -> None:
    recorder.reply(b"{}")
    assert client("-o", "json", *args.split(), "--tenant", "zebra").returncode == 0
    assert (recorder.request.method, recorder.request.path) == (method, f"/v1/codeq{path}tenant=zebra")


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ("dlq redrive A --rate 5 --limit 1", b"--rate cannot be combined"),
        ("dlq redrive A --rate 5 --dry-run", b"--rate cannot be combined"),
        ("dlq redrive A --limit 0", b"--limit"),
        ("dlq redrive A --ids t1,", b"is not a task id"),
        ("dlq list A/B", b"is not a command"),
        ("task redrive a/b", b"is not a task id"),
        ("task cleanup", b"--before"),
        ("task cleanup --before yesterday", b"--before: 'yesterday' is not a time"),
        ("task list --created-from 1h", b"--created-from: '1h' is not a time"),
        ("dlq redrive A --ended-to 12:00", b"--ended-to: '12:00' is not a time"),
        ("audit list --since yesterday", b"--since: 'yesterday' is neither a time"),
        ("task list --limit 0", b"--limit"),
        ("queue purge A", b"--yes is required"),
    ],
)
def test_usage_error_sends_no_request(client: Run, recorder: RecordingServer, args: str, part: bytes) -> None:
    done = client(*args.split())
    assert (done.returncode, recorder.requests) == (2, [])
    assert part in done.stderr
