"""The command against a real server: a task's life, the documented failures, the store afterwards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from recording_server import Run
from server_process import DEV_TOKEN, ServerProcess

PAYLOAD = '{ "b":1.10, "a":12345678901234567890123, "text":"\\u00fc" }'


class Codeq:
    """The command with endpoint and token of one server."""

    def __init__(self, run: Run, server: ServerProcess) -> None:
        self._run = run
        self._environment = {"CODEQ_ENDPOINT": server.http_url, "CODEQ_TOKEN": DEV_TOKEN}

    def __call__(self, *args: str) -> subprocess.CompletedProcess[bytes]:
        done: subprocess.CompletedProcess[bytes] = self._run(*args, **self._environment)
        return done

    def json(self, *args: str) -> Any:
        """Returns the output of a command that must succeed."""
        done = self("-o", "json", *args)
        assert (done.returncode, done.stderr) == (0, b"")
        return json.loads(done.stdout)

    def refused(self, *args: str) -> tuple[int, str]:
        """Returns exit code and reason of a command that fails."""
        done = self("-o", "json", *args)
        assert done.stdout == b""
        return done.returncode, json.loads(done.stderr)["reason"]


@pytest.fixture
def codeq(run: Run, server: ServerProcess) -> Codeq:
    return Codeq(run, server)


def test_commands_take_a_task_from_creation_to_its_result(codeq: Codeq) -> None:
    created = codeq("task", "create", "ORDER", "--payload", PAYLOAD, "--priority", "5")
    assert f'"payload":{PAYLOAD}' in created.stdout.decode()
    task_id = json.loads(created.stdout)["id"]
    assert codeq.json("queue", "stats", "ORDER")["ready"] == 1

    claimed = codeq.json("task", "claim", "--commands", "ORDER", "--lease", "30", "--wait", "5")
    assert (claimed["id"], claimed["status"], claimed["priority"], claimed["attempts"]) == (task_id, "CLAIMED", 5, 1)
    lease_token = claimed["leaseToken"]
    assert codeq.refused("task", "result", task_id) == (1, "RESULT_NOT_FOUND")
    extended = codeq.json("task", "heartbeat", task_id, "--extend", "90", "--lease-token", lease_token)
    assert extended["leaseUntil"] > claimed["leaseUntil"]

    record = codeq("task", "complete", task_id, "--result", PAYLOAD, "--lease-token", lease_token)
    assert f'"result":{PAYLOAD}' in record.stdout.decode()
    result = codeq("task", "result", task_id, "--wait", "5").stdout.decode()
    assert result.count(PAYLOAD) == 2
    assert json.loads(result)["result"]["status"] == "COMPLETED"
    counts = codeq.json("queue", "stats", "ORDER")
    assert (counts["ready"], counts["claimed"]) == (0, 0)


def test_artifacts_sent_with_a_result_can_be_fetched(codeq: Codeq, tmp_path: Path) -> None:
    report = tmp_path / "report.pdf"
    report.write_bytes(bytes(range(256)))
    for way in (("complete",), ("fail", "--error", "no")):
        task_id = codeq.json("task", "create", "FILES", "--payload", "1")["id"]
        codeq.json("task", "claim", "--commands", "FILES")
        given = ("--artifact", f"r 1.pdf={report}", "--artifact", "far=https://files.example/a=b")
        record = codeq.json("task", way[0], task_id, *way[1:], *given)
        assert [(each["name"], each.get("url"), each.get("contentType")) for each in record["artifacts"]] == [
            ("r 1.pdf", None, "application/pdf"),
            ("far", "https://files.example/a=b", None),
        ]
        assert codeq("task", "artifact", "get", task_id, "r 1.pdf").stdout == report.read_bytes()
        copy = tmp_path / "copy.pdf"
        assert codeq.json("task", "artifact", "get", task_id, "r 1.pdf", "--file", str(copy))["size"] == 256
        assert copy.read_bytes() == report.read_bytes()
        assert codeq.refused("task", "artifact", "get", task_id, "../a") == (1, "ARTIFACT_NOT_FOUND")
    assert codeq.refused("task", "complete", "t", "--artifact", "nothing")[0] == 2
    assert codeq.refused("task", "complete", "t", "--artifact", f"a={tmp_path}/absent")[0] == 2


def test_nacked_task_is_scheduled_and_failed_task_shows_its_error(codeq: Codeq) -> None:
    task_id = codeq.json("task", "create", "MAIL", "--payload", "null")["id"]
    codeq.json("task", "claim")
    nacked = codeq.json("task", "nack", task_id, "--delay", "3600", "--reason", "busy")
    assert nacked == {"status": "SCHEDULED", "delaySeconds": 3600}
    assert codeq.json("task", "get", task_id)["error"] == "busy"
    assert codeq.json("queue", "stats", "MAIL")["scheduled"] == 1

    other = codeq.json("task", "create", "MAIL", "--payload", "1")["id"]
    codeq.json("task", "claim")
    assert codeq.json("task", "abandon", other)["status"] == "PENDING"
    codeq.json("task", "claim")
    assert codeq.json("task", "abandon", other, "--delay", "1s") == {"status": "SCHEDULED", "delaySeconds": 1}
    assert codeq.json("task", "claim", "--wait", "20s")["attempts"] == 1
    failed = codeq.json("task", "fail", other, "--error", "no such address")
    assert (failed["status"], failed["error"]) == ("FAILED", "no such address")


def test_task_has_the_requested_schedule_and_attempts(codeq: Codeq) -> None:
    create = ("task", "create", "LATER", "--payload", "{}")
    at = codeq.json(*create, "--run-at", "2100-01-01T00:00:00Z", "--max-attempts", "7")
    assert (at["status"], at["runAt"][:19], at["maxAttempts"]) == ("SCHEDULED", "2100-01-01T00:00:00", 7)
    assert codeq.json(*create, "--delay", "60")["status"] == "SCHEDULED"


def test_output_formats_show_the_same_task(codeq: Codeq) -> None:
    task = codeq.json("task", "create", "ORDER", "--payload", PAYLOAD)
    shown = codeq("-o", "yaml", "task", "get", task["id"]).stdout.decode()
    assert yaml.safe_load(shown) == task
    assert "b: 1.10\n" in shown
    table = dict(line.split(None, 1) for line in codeq("-o", "table", "task", "get", task["id"]).stdout.splitlines())
    assert table[b"id"] == task["id"].encode()
    assert table[b"payload"] == PAYLOAD.encode()


def test_queue_list_shows_all_queues_in_order(codeq: Codeq) -> None:
    for command in ("b", "A", "c"):
        codeq.json("task", "create", command, "--payload", "1")
    assert [queue["command"] for queue in codeq.json("queue", "list")["queues"]] == ["A", "b", "c"]
    rows = codeq("queue", "list", "-o", "table").stdout.decode().splitlines()
    assert [row.split()[:2] for row in rows] == [["COMMAND", "READY"], ["A", "1"], ["b", "1"], ["c", "1"]]


def test_failures_have_the_documented_exit_codes(codeq: Codeq, server: ServerProcess) -> None:
    assert codeq.refused("task", "claim") == (3, "NOTHING_TO_CLAIM")
    assert codeq.refused("task", "get", "unknown") == (1, "TASK_NOT_FOUND")
    assert codeq.refused("queue", "stats", "UNKNOWN") == (1, "QUEUE_NOT_FOUND")
    assert codeq.refused("--token", "wrong", "task", "get", "unknown") == (1, "UNAUTHENTICATED")
    assert codeq.refused("task", "create", "A", "--payload", "1", "--run-at", "2100-99-01T00:00:00Z")[0] == 1
    task_id = codeq.json("task", "create", "A", "--payload", "1")["id"]
    assert codeq.refused("task", "complete", task_id) == (1, "TASK_NOT_CLAIMED")
    codeq.json("task", "claim")
    assert codeq.refused("task", "complete", task_id, "--lease-token", "1") == (1, "STALE_LEASE_TOKEN")
    line = codeq("-o", "table", "task", "get", "unknown").stderr.decode()
    assert line.startswith("error: ")
    assert line.endswith(" (TASK_NOT_FOUND)\n")
    assert line.count("\n") == 1
    assert server.stop() == 0
    assert codeq.refused("task", "get", task_id) == (4, "CONNECTION_FAILED")


def test_store_check_rejects_a_store_in_use_and_passes_once_the_server_stops(
    codeq: Codeq, server: ServerProcess
) -> None:
    codeq.json("task", "create", "A", "--payload", "1")
    assert codeq.refused("store", "check", str(server.store)) == (2, "STORE_UNUSABLE")
    assert server.stop() == 0
    summary = codeq.json("store", "check", str(server.store))
    assert (summary["pending"], summary["differences"]) == (1, 0)


def test_payload_file_of_maximum_size_is_accepted_but_not_one_byte_more(codeq: Codeq, tmp_path: Path) -> None:
    (tmp_path / "largest.json").write_bytes(b'"' + b"x" * (1024 * 1024 - 2) + b'"')
    (tmp_path / "larger.json").write_bytes(b'"' + b"x" * (1024 * 1024 - 1) + b'"')
    task = codeq.json("task", "create", "A", "--payload", "@largest.json")
    assert len(task["payload"]) == 1024 * 1024 - 2
    assert codeq.refused("task", "create", "A", "--payload", "@larger.json") == (1, "TOO_LARGE")
