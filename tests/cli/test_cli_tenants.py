"""Tenants on the command line, against a server that records its requests."""

from __future__ import annotations

import json

import pytest
from recording_server import RecordingServer, Run

LIMITS = '{"producer":{"requestsPerMinute":0,"burstSize":0},"waitingTasksMax":5,"leasesMax":0}'
TOTALS = '"createdTotal":9,"rateLimitedTotal":4,"quotaRefusedTotal":3'
USAGE = f'{{"waitingTasks":2,"leases":1,"storedBytes":70,"queues":1,"streams":0,{TOTALS}}}'
TENANT = f'{{"name":"acme","limits":{{"waitingTasksMax":5}},"effective":{LIMITS},"usage":{USAGE}}}'


def rows(text: bytes) -> list[list[str]]:
    return [line.split(maxsplit=1) for line in text.decode().splitlines()]


def test_list_shows_a_row_of_usage_for_each_tenant(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(f'{{"tenants":[{TENANT}],"nextPageToken":"p"}}'.encode())
    recorder.reply(b'{"tenants":[{"name":"zebra"}],"nextPageToken":""}')
    lines = client("tenant", "list", "-o", "table").stdout.decode().splitlines()
    assert lines[0].split()[:3] == ["NAME", "WAITINGTASKS", "LEASES"]
    assert lines[1].split() == ["acme", "2", "1", "70", "1", "0", "9", "4", "3"]
    assert lines[2].split() == ["zebra"]
    paths = [request.path for request in recorder.requests]
    assert paths == ["/v1/codeq/admin/tenants?pageSize=500", "/v1/codeq/admin/tenants?pageSize=500&pageToken=p"]


def test_show_marks_the_limits_that_are_the_tenants_own(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TENANT.encode())
    shown = rows(client("tenant", "show", "acme", "-o", "table").stdout)
    assert shown[:4] == [["name", "acme"], ["producer", "0/0"], ["waitingTasksMax", "5 (own)"], ["leasesMax", "0"]]
    assert shown[4] == ["waitingTasks", "2"]
    assert recorder.request.path == "/v1/codeq/admin/tenants/acme"


def test_set_sends_numbers_rates_and_what_to_inherit(client: Run, recorder: RecordingServer) -> None:
    recorder.reply(TENANT.encode())
    given = ("waitingTasksMax=5", "producer=6000/100", "leasesMax=inherit", "adminToken=inherit")
    done = client("tenant", "set", "_default", *given, "-o", "json")
    assert done.stdout.decode() == TENANT + "\n"
    assert (recorder.request.method, recorder.request.path) == ("PATCH", "/v1/codeq/admin/tenants/_default")
    assert json.loads(recorder.request.body) == {
        "limits": {"waitingTasksMax": 5, "producer": {"requestsPerMinute": 6000, "burstSize": 100}},
        "inherit": ["leasesMax", "adminToken"],
    }


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("acme", "queueMax=1"), "queueMax"),
        (("acme", "queuesMax=-1"), "queuesMax"),
        (("acme", "queuesMax=1/2"), "queuesMax"),
        (("acme", "producer=5"), "producer"),
        (("acme", "producer=6000/0"), "producer"),
        (("acme", "workerToken=0/100"), "workerToken"),
        (("acme", "leasesMax"), "leasesMax"),
        (("acme", "leasesMax=1", "leasesMax=inherit"), "leasesMax"),
        (("../x", "leasesMax=1"), "../x"),
        (("acme",), "LIMIT"),
    ],
)
def test_set_rejects_what_it_cannot_send(
    client: Run, recorder: RecordingServer, args: tuple[str, ...], named: str
) -> None:
    done = client("tenant", "set", *args)
    assert (done.returncode, recorder.requests) == (2, [])
    assert named in done.stderr.decode()


def test_usage_names_the_tenant_only_if_asked(client: Run, recorder: RecordingServer) -> None:
    for args, path in (((), "/v1/codeq/usage"), (("--tenant", "zebra"), "/v1/codeq/usage?tenant=zebra")):
        recorder.reply(TENANT.encode())
        assert json.loads(client("usage", *args, "-o", "json").stdout)["usage"]["createdTotal"] == 9
        assert recorder.requests[-1].path == path
