"""The table of HTTP rules against a server, with the gateway in its process and standalone."""

from __future__ import annotations

import http_body_rules as bodies
import http_rules as heads
import pytest
from http_case import FOLLOWER, Rule
from raw_http import exchange, replies
from server_process import ServerProcess

RULES = [
    rule
    for rules_of in (
        heads.methods,
        heads.request_lines,
        heads.targets,
        heads.hosts,
        heads.fields,
        bodies.lengths,
        bodies.codings,
        bodies.chunks,
        bodies.expectations,
        heads.upgrades,
        heads.connections,
        heads.statuses,
    )
    for rule in rules_of()
]
LAST = FOLLOWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def test_rule_table_has_no_duplicates() -> None:
    names = [rule.name for rule in RULES]
    assert sorted(set(names)) == sorted(names)
    assert len(names) >= 120


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.section} {rule.name}"[:80])
def test_server_follows_the_http_rule(server: ServerProcess, rule: Rule) -> None:
    answer = replies(exchange(server.http_url, rule.sent + LAST), rule.methods)
    assert tuple(reply.status for reply in answer) == rule.statuses + (() if rule.closes else (200,))
    last = answer[len(rule.statuses) - 1]
    assert {name: last.headers.get(name) for name in rule.shows} == dict(rule.shows)
    assert "date" in last.headers
    if rule.closes:
        assert last.headers["connection"] == "close"
    else:
        assert answer[-1].headers["x-request-id"] == "follower"
    for reply in answer:
        assert reply.body[-1:] == b"\n" or not reply.body or not reply.headers["content-type"].endswith("json")
