"""codeq cluster …, and finding the leader, against a server that records its requests."""

from __future__ import annotations

import json

import pytest
from recording_server import RecordingServer, Run, recording_server

LEADER = (
    '{"id":"a","raftAddr":"a:7000","httpAddr":"http://a:8080","role":"LEADER","voter":true,"matchIndex":9,"lag":0,'
    '"active":true}'
)
MEMBERS = (
    LEADER,
    '{"id":"b","raftAddr":"b:7000","role":"LEARNER","voter":false,"matchIndex":4,"lag":5,"active":false}',
)
STATUS = (
    '{"enabled":true,"numGroups":1,"groups":[{"shardIdx":0,"selfId":"a","role":"LEADER","leaderId":"a","term":3,'
    f'"commitIndex":9,"appliedIndex":9,"lag":0,"elections":1,"members":[{",".join(MEMBERS)}]}}],"fsync":true}}'
).encode()
NOT_LEADER = b'{"error":"node-b leads","code":"UNAVAILABLE","reason":"NOT_LEADER"}'


def test_cluster_status_shows_groups_and_members_in_tables(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(STATUS)
    group, members = (
        [line.split() for line in part.splitlines()]
        for part in client("cluster", "status", "-o", "table").stdout.decode().split("\n\n")
    )
    assert recorder.request.path == "/v1/codeq/raft/status"
    assert group[0][:4] == ["SHARDIDX", "SELFID", "ROLE", "LEADERID"]
    assert group[1] == ["0", "a", "LEADER", "a", "3", "9", "9", "0", "1"]
    assert members[0] == [
        "ID",
        "ROLE",
        "VOTER",
        "RAFTADDR",
        "HTTPADDR",
        "GRPCADDR",
        "MATCHINDEX",
        "LAG",
        "ACTIVE",
        "PROBLEM",
    ]
    assert members[1] == ["a", "LEADER", "true", "a:7000", "http://a:8080", "9", "0", "true"]
    assert members[2] == ["b", "LEARNER", "false", "b:7000", "4", "5", "false"]


def test_cluster_status_names_the_shard_of_each_group(client: Run, recorder: RecordingServer) -> None:
    fields = json.loads(STATUS)
    fields["groups"].append(fields["groups"][0] | {"shardIdx": 1})
    recorder.reply(json.dumps(fields).encode())
    lines = client("cluster", "status", "-o", "table").stdout.decode().splitlines()
    assert [line for line in lines if line.startswith("shard ")] == ["shard 0", "shard 1"]


def test_cluster_status_with_json_output_prints_the_reply(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(STATUS)
    assert client("cluster", "status", "-o", "json").stdout == STATUS + b"\n"


def test_cluster_status_of_a_single_server_says_that_raft_is_disabled(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b'{"enabled":false,"numGroups":0,"groups":[],"fsync":true}')
    lines = client("cluster", "status", "-o", "table").stdout.decode().splitlines()
    assert lines[0].split() == ["enabled", "false"]


@pytest.mark.parametrize(
    ("args", "method", "path", "body"),
    [
        ("add d d:7000", "POST", "/members", {"id": "d", "raftAddr": "d:7000"}),
        ("add d d:7000 --replace", "POST", "/members", {"id": "d", "raftAddr": "d:7000", "replace": True}),
        ("remove d", "DELETE", "/members/d", None),
        ("transfer", "POST", "/transfer", {}),
        ("transfer b", "POST", "/transfer", {"id": "b"}),
    ],
)
def test_membership_commands_send_their_arguments(
    client: Run, recorder: RecordingServer, args: str, method: str, path: str, body: object
) -> None:
    recorder.reply(STATUS)
    assert client("cluster", *args.split(), "-o", "json").returncode == 0
    assert (recorder.request.method, recorder.request.path) == (method, f"/v1/codeq/admin/cluster{path}")
    assert (json.loads(recorder.request.body) if recorder.request.body else None) == body


@pytest.mark.parametrize("args", ["remove a/b", "add .. x:1", "transfer two%20words"])
def test_cluster_command_with_an_invalid_name_sends_nothing(client: Run, recorder: RecordingServer, args: str) -> None:
    assert client("cluster", *args.split()).returncode == 2
    assert recorder.requests == []


def test_call_to_a_follower_reaches_the_leader_with_body_and_token(client: Run, recorder: RecordingServer) -> None:
    with recording_server() as leader:
        recorder.location = f"{leader.endpoint}/v1/codeq/admin/cluster/transfer?"
        recorder.reply(NOT_LEADER, 307)
        leader.reply(STATUS)
        assert client("cluster", "transfer", "b", "-o", "json").stdout == STATUS + b"\n"
        assert (leader.request.method, leader.request.body) == ("POST", recorder.request.body)
        assert leader.request.headers["authorization"] == recorder.request.headers["authorization"]


def test_call_rejected_by_every_server_reports_the_rejection(client: Run, recorder: RecordingServer) -> None:
    with recording_server() as other:
        recorder.location = f"{other.endpoint}/v1/codeq/raft/status"
        other.location = f"{recorder.endpoint}/v1/codeq/raft/status"
        recorder.replies = [(307, NOT_LEADER)] * 2
        other.replies = [(307, NOT_LEADER)] * 2
        done = client("cluster", "status", "-o", "json")
        assert (done.returncode, json.loads(done.stderr)["reason"]) == (1, "NOT_LEADER")
        assert (len(recorder.requests), len(other.requests)) == (2, 2)


def test_redirect_to_an_unknown_server_is_not_followed(client: Run, recorder: RecordingServer) -> None:
    with recording_server() as other:
        recorder.location = other.endpoint
        recorder.reply(b"moved", 307)
        assert client("cluster", "status").returncode == 1
        assert other.requests == []
