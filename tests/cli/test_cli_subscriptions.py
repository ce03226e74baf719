"""Subscriptions on the command line, against a server that records its requests."""

from __future__ import annotations

import pytest
from recording_server import RecordingServer, Run

ONE = (
    '{"subscriptionId":"a1","callbackUrl":"https://r.example/","eventTypes":["A","B"],"deliveryMode":"group",'
    '"groupId":"g","expiresAt":"2026-11-30T12:00:00Z","subject":"w"}'
)


def test_list_shows_a_row_for_each_subscription_of_all_pages(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(f'{{"subscriptions":[{ONE}],"nextPageToken":"p"}}'.encode())
    recorder.reply(b'{"subscriptions":[{"subscriptionId":"b2"}],"nextPageToken":""}')
    lines = client("subscription", "list", "--tenant", "acme", "-o", "table").stdout.decode().splitlines()
    assert lines[0].split()[:3] == ["SUBSCRIPTIONID", "CALLBACKURL", "EVENTTYPES"]
    assert lines[1].split()[:2] == ["a1", "https://r.example/"]
    assert lines[2].split() == ["b2"]
    paths = [request.path for request in recorder.requests]
    assert paths[0] == "/v1/codeq/admin/subscriptions?pageSize=500&tenant=acme"
    assert paths[1].endswith("pageToken=p")


def test_delete_ends_a_subscription(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(b"{}")
    done = client("subscription", "delete", "a1-b2")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (recorder.request.method, recorder.request.path) == ("DELETE", "/v1/codeq/admin/subscriptions/a1-b2")


@pytest.mark.parametrize("name", ["", "../queues", "a/b"])
def test_malformed_id_reaches_no_other_route(client: Run, recorder: RecordingServer, name: str) -> None:
    assert client("subscription", "delete", name).returncode == 2
    assert recorder.requests == []
