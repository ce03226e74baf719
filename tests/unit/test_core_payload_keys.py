"""Keys of tasks that a policy finds in payloads, by JSON pointers."""

from __future__ import annotations

import pytest
from codeq.v1.task_pb2 import Task
from codeq_internal.v1 import rows_pb2
from codeq_server.core import names
from codeq_server.core.errors import Reason, Rejection
from codeq_server.core.new_task import NewTask, TaskKeys
from codeq_server.core.payload_keys import KeyPaths, found_keys
from codeq_server.core.policy import fitted, policy_of
from codeq_server.core.redrive import redrive_task
from codeq_server.core.status import Outcome
from codeq_server.core.task_bytes import keys_of
from driven_shard import TENANT, DrivenShard

ROW = rows_pb2.PolicyRow(concurrency_per_key=1, concurrency_key_path="/customer/id", ordering_key_path="/order")


@pytest.fixture
def shard() -> DrivenShard:
    return DrivenShard()


@pytest.mark.parametrize(
    ("pointer", "payload", "key"),
    [
        ("/a", b'{"a": "x"}', "x"),
        ("/a/b", b' {"a": {"b": "x y"}}', "x y"),
        ("/0", b'["x", "y"]', "x"),
        ("/a/1", b'{"a": [1, 23]}', "23"),
        ("/a", b'{"a": -1.50e+3}', "-1.50e+3"),
        ("/a", b'{"a": 12345678901234567890123}', "12345678901234567890123"),
        ("/a", b'{"a": true}', "true"),
        ("/a", b'{"a": false}', "false"),
        ("/a", b'{"a": null}', ""),
        ("/a~1b~0c", b'{"a/b~c": "x"}', "x"),
        ("/~01", b'{"~1": "x"}', "x"),
        ("/", b'{"": "x"}', "x"),
        ("/a/", b'{"a": {"": "x"}}', "x"),
        ("/b", b'{"a": "x"}', ""),
        ("/a/b", b'{"a": "x"}', ""),
        ("/01", b'["x", "y"]', ""),
        ("/2", b'["x", "y"]', ""),
        ("/-", b'["x", "y"]', ""),
        ("/a", b"null", ""),
        ("/a", b'"a"', ""),
        ("/a", b'{"a": "\\u0041", "b": "\\ud800"}', "A"),
        ("/a", b'{"a": "' + b"k" * 128 + b'"}', "k" * 128),
    ],
)
def test_pointer_finds_the_text_of_a_scalar(pointer: str, payload: bytes, key: str) -> None:
    assert found_keys(KeyPaths(rate=pointer), TaskKeys(), payload) == TaskKeys(rate=key)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a": {}}',
        b'{"a": []}',
        b'{"a": ""}',
        b'{"a": "\xc3\xbc"}',
        b'{"a": "b\\n"}',
        b'{"a": "\\ud800"}',
        b'{"a": "' + b"k" * 129 + b'"}',
        b'{"a": ' + b"1" * 129 + b"}",
        b'{"a": ' + b"1" * 5_000 + b"}",
    ],
)
def test_task_with_something_else_at_the_path_is_refused_with_the_field(payload: bytes) -> None:
    policy = policy_of(rows_pb2.PolicyRow(rate_key_path="/a"))
    misfit = fitted(policy, NewTask("a", payload), DrivenShard().now, "tasks[1].").misfit
    assert misfit is not None
    assert misfit.reason is Reason.POLICY_VIOLATION
    assert [field for field, _ in misfit.violations] == ["tasks[1].payload"]


def test_key_that_the_task_names_wins_and_its_path_is_not_read(shard: DrivenShard) -> None:
    own = TaskKeys("mine", "", "")
    kept = Task(concurrency_key="mine").SerializeToString()
    task = NewTask("a", b'{"customer": {"id": {}}, "order": 7}', kept=kept, keys=own)
    fit = fitted(policy_of(ROW), task, shard.now)
    assert (fit.keys, fit.misfit) == (TaskKeys("mine", "", "7"), None)
    assert keys_of(fit.kept) == TaskKeys("mine", "", "7")


def test_keys_found_in_payloads_limit_tasks_and_are_shown_by_them(shard: DrivenShard) -> None:
    shard.shard.policies.put(TENANT, "a", ROW, shard.now.wall_ms)
    policy = shard.shard.policies.of(TENANT, "a")
    assert policy is not None
    made = []
    for payload in (b'{"customer": {"id": 1}}', b'{"customer": {"id": "1"}}', b'{"customer": {"id": 2}}', b"{}"):
        created = names.create(shard.shard, TENANT, fitted(policy, NewTask("a", payload), shard.now), shard.now)
        assert isinstance(created, names.Created)
        made.append(created.task_id)
    first, second, third, plain = made
    claimed = shard.claim(9)
    assert [each.task_id for each in claimed] == [first, third, plain]
    assert [Task.FromString(each.raw).concurrency_key for each in claimed] == ["1", "2", ""]
    shard.settle(first)
    assert shard.claim_ids(9) == [second]


def test_bound_of_payloads_refuses_neither_redriven_tasks_nor_dead_letters(shard: DrivenShard) -> None:
    put, now = shard.shard.policies.put, shard.now
    put(TENANT, "a", rows_pb2.PolicyRow(dead_letter_topic_ref="b", max_attempts=1), now.wall_ms)
    dead = shard.create(size=5, attempts=1)
    for command in ("a", "b"):
        row = rows_pb2.PolicyRow(payload_bytes_max=1, dead_letter_topic_ref="b" if command == "a" else "")
        put(TENANT, command, row, now.wall_ms)
    assert shard.claim_ids(9) == [dead]
    shard.settle(dead, Outcome.NACK)
    redrive_task(shard.shard, TENANT, dead, shard.now)
    assert shard.status(dead) == "PENDING"
    assert shard.queue("b").ready == 1


def test_refused_task_is_counted_by_its_field(shard: DrivenShard) -> None:
    shard.shard.policies.put(TENANT, "a", ROW, shard.now.wall_ms)
    task = fitted(policy_of(ROW), NewTask("a", b'{"order": []}'), shard.now)
    with pytest.raises(Rejection) as refused:
        names.create(shard.shard, TENANT, task, shard.now)
    assert refused.value.reason is Reason.POLICY_VIOLATION
    assert shard.shard.policies.refusals["payload"] == 1
