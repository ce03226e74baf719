"""A create is answered only after the write-ahead log is synced, as the system calls show."""

from __future__ import annotations

import http.client
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from host_tools import need
from server_process import DEV_TOKEN, ServerProcess
from system_calls import Moment, Watch, parse

pytestmark = [pytest.mark.host, pytest.mark.timeout(300)]

CREATES = 50
REQUEST = '"POST /v1/codeq/tasks '
REPLY = '"HTTP/1.1 202'
LOG_SUFFIX = ".log>"
"""End of the path of a RocksDB write-ahead log, as strace shows it beside the descriptor."""


def create_one_after_the_other(url: str, count: int) -> None:
    """Creates tasks over one connection, each after the previous create is answered."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    headers = {"Authorization": f"Bearer {DEV_TOKEN}", "Content-Type": "application/json"}
    for number in range(count):
        connection.request("POST", "/v1/codeq/tasks", f'{{"command":"LONE","payload":{number}}}', headers)
        reply = connection.getresponse()
        body = reply.read()
        assert reply.status == 202, body
    connection.close()


def judge(moments: list[Moment]) -> tuple[int, int]:
    """Returns the number of replies, and the number of replies sent too early.

    Before a reply, a sync of the log must have ended that began after the request and after a write of the log, which
    itself followed the request.
    """
    replies = early = 0
    written = synced = False
    syncing: set[int] = set()  # threads with a sync that began after the last request and after a write of the log
    for moment in moments:
        if moment.reads and REQUEST in moment.text:
            written = synced = False
            syncing.clear()
        elif moment.syncs and moment.result is None and written:
            syncing.add(moment.thread)
        elif moment.syncs and moment.result == 0 and moment.thread in syncing and LOG_SUFFIX in moment.text:
            synced = True
        elif moment.begins_write and REPLY in moment.text:
            replies += 1
            early += not synced
        elif moment.begins_write and LOG_SUFFIX in moment.text.split(",")[0]:
            written = True
    return replies, early


def observed(server: ServerProcess) -> tuple[int, int]:
    """Returns replies and early replies of lone creates."""
    create_one_after_the_other(server.http_url, 1)  # opens the queue, which writes more than a create
    with Watch(server.pid) as watch:
        create_one_after_the_other(server.http_url, CREATES)
    return judge(watch.moments)


def test_lone_create_is_answered_after_a_sync_that_began_after_its_request(server: ServerProcess) -> None:
    need("strace")
    assert observed(server) == (CREATES, 0)


def test_lone_create_without_fsync_is_judged_early(tmp_path: Path) -> None:
    need("strace")
    with ServerProcess(tmp_path, flags=["--no-fsync"]) as server:
        assert observed(server) == (CREATES, CREATES)


def test_reply_is_early_if_the_sync_began_before_the_request() -> None:
    trace = """
7 1.0 write(12</s/000004.log>, "x", 1) = 1
8 1.1 fdatasync(12</s/000004.log> <unfinished ...>
7 1.2 read(20<TCP:[1]>, "POST /v1/codeq/tasks HTTP/1.1"..., 65536) = 200
7 1.3 write(12</s/000004.log>, "y", 1) = 1
8 1.4 <... fdatasync resumed>) = 0
7 1.5 write(20<TCP:[1]>, "HTTP/1.1 202 Accepted"..., 90) = 90
"""
    assert judge(parse(trace)) == (1, 1)


def test_reply_is_not_early_if_the_log_was_written_and_synced_after_the_request() -> None:
    trace = """
7 1.2 read(20<TCP:[1]>,  <unfinished ...>
7 1.2 <... read resumed>"POST /v1/codeq/tasks HTTP/1.1"..., 65536) = 200
7 1.3 write(12</s/000004.log>, "y) = 3", 6) = 6
8 1.4 fdatasync(12</s/000004.log> <unfinished ...>
9 1.4 futex(0x1, FUTEX_WAIT) = 0
8 1.5 <... fdatasync resumed>) = 0
7 1.6 write(20<TCP:[1]>, "HTTP/1.1 202 Accepted"..., 90) = 90
"""
    assert judge(parse(trace)) == (1, 0)
