"""Policies of queues on the command line, against a server that records its requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recording_server import RecordingServer, Run

TOPIC = '{"topicId":"acme.ORDER","topicName":"ORDER","policy":{"maxConsumers":2},"version":1}'


def test_put_sends_the_policy_and_shows_the_topic(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TOPIC.encode())
    done = client("topic", "put", "ORDER", '{"maxConsumers": 2}', "--tenant", "acme", "-o", "json")
    assert done.stdout.decode() == TOPIC + "\n"
    assert (recorder.request.method, recorder.request.path) == ("PUT", "/v1/codeq/admin/topics/ORDER?tenant=acme")
    assert json.loads(recorder.request.body) == {"maxConsumers": 2}


def test_put_reads_the_policy_from_a_file(client: Run, recorder: RecordingServer, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"maxConsumers": 3}', encoding="utf-8")
    recorder.reply(TOPIC.encode())
    assert client("topic", "put", "ORDER", f"@{tmp_path / 'policy.json'}").returncode == 0
    assert json.loads(recorder.request.body) == {"maxConsumers": 3}


@pytest.mark.parametrize("policy", ["{", "[]", "1"])
def test_policy_that_is_no_object_is_not_sent(client: Run, recorder: RecordingServer, policy: str) -> None:
    done = client("topic", "put", "ORDER", policy)
    assert done.returncode == 2
    assert b"POLICY" in done.stderr
    assert recorder.requests == []


def test_get_and_list_show_topics(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TOPIC.encode())
    assert client("topic", "get", "ORDER", "-o", "json").stdout.decode() == TOPIC + "\n"
    recorder.reply(f'{{"topics":[{TOPIC}],"nextPageToken":""}}'.encode())
    lines = client("topic", "list", "-o", "table").stdout.decode().splitlines()
    assert lines[0].split()[:2] == ["TOPICNAME", "VERSION"]
    assert lines[1].split()[:2] == ["ORDER", "1"]
    paths = [request.path for request in recorder.requests]
    assert paths == ["/v1/codeq/admin/topics/ORDER", "/v1/codeq/admin/topics?pageSize=500"]


def test_delete_sends_the_deletion_policy(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"", status=204)
    assert client("topic", "delete", "ORDER").stdout == b""
    assert recorder.request.method == "DELETE"
    assert recorder.request.path == "/v1/codeq/admin/topics/ORDER?deletionPolicy=Delete"
