"""Comparison of requests with the same idempotency key, by meaning and as sent."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from codeq.v1 import task_pb2
from codeq_server.services.fingerprint import CANONICAL_VALUES_MAX, canonical_json, digest_of, meaning_of
from google.protobuf.timestamp_pb2 import Timestamp

MIB = 1 << 20
DEFAULT_ATTEMPTS = 5
DEFAULTS = [{"max_attempts": DEFAULT_ATTEMPTS}]
SECONDS_MOST = 5.0
"""Limit in seconds of processor time, far above the time that any payload takes."""

SAME = [
    (b'{"a":1}', b' {\t"a" :\r\n1 } '),
    (b'{"a":1,"b":{"c":2,"d":3}}', b'{"b":{"d":3,"c":2},"a":1}'),
    (b'"\\u00e9\\/\\ud83d\\ude00"', '"é/😀"'.encode()),
    (b'{"\\u0061":1}', b'{"a":1}'),
    (b'{"a":1,"a":2}', b'{"a":2}'),
    (b'["\\ud83d", 1]', b'["\\ud83d",1]'),
    (b"[" * 400 + b"]" * 400, b" [" * 400 + b"] " * 400),
]
OTHER = [
    (b"1", b"1.0"),
    (b"1", b'"1"'),
    (b"1.0", b"1.00"),
    (b"1e2", b"100"),
    (b"1e400", b"1e401"),
    (b"12345678901234567890123", b"12345678901234567890124"),
    (b"[1,2]", b"[2,1]"),
    (b"null", b"{}"),
    (b'"\\ud83d"', b'"\\ud83e"'),
    (b'"\\ud83d"', b'"~d83d"'),
    (b'"\\\\ud83d"', b'"\\ud83d"'),
    (b"{}", b"[]"),
]


def meaning(payload: bytes = b"null", **fields: Any) -> bytes:
    return meaning_of([task_pb2.TaskSpec(command="A", payload=payload, **fields)], DEFAULTS)


@pytest.mark.parametrize(("one", "other"), SAME, ids=repr)
def test_payloads_that_differ_in_whitespace_order_or_escapes_are_equivalent(one: bytes, other: bytes) -> None:
    assert meaning(one) == meaning(other)


@pytest.mark.parametrize(("one", "other"), OTHER, ids=repr)
def test_payloads_with_different_values_are_not_equivalent(one: bytes, other: bytes) -> None:
    assert meaning(one) != meaning(other)


@pytest.mark.parametrize(
    "defaults",
    [{"max_attempts": DEFAULT_ATTEMPTS}, {"delay_seconds": 0}, {"priority": 0}, {"payload": b""}],
    ids=lambda fields: next(iter(fields)),
)
def test_explicit_default_is_equivalent_to_an_absent_field(defaults: dict[str, Any]) -> None:
    assert meaning(**defaults) == meaning()


SET = {
    "command": "B",
    "payload": b"1",
    "priority": 1,
    "max_attempts": 1,
    "run_at": Timestamp(seconds=1),
    "delay_seconds": 1,
    "concurrency_key": "c",
    "rate_key": "r",
    "ordering_key": "o",
    "expire_seconds": 1,
    "webhook": "https://example.com/",
}
NOT_COUNTED = {"idempotency_key", "task_id", "traceparent", "tracestate"}


@pytest.mark.parametrize("name", sorted(NOT_COUNTED))
def test_key_id_and_trace_context_affect_no_digest(name: str) -> None:
    one, other = task_pb2.TaskSpec(command="A"), task_pb2.TaskSpec(**{"command": "A", name: "x"})
    assert digest_of([one]) == digest_of([other])
    assert meaning_of([one], DEFAULTS) == meaning_of([other], DEFAULTS)


def test_every_spec_field_affects_both_digests() -> None:
    assert {field.name for field in task_pb2.TaskSpec.DESCRIPTOR.fields} == set(SET) | NOT_COUNTED
    specs = [task_pb2.TaskSpec(**{"command": "A", name: value}) for name, value in SET.items()]
    assert len({meaning_of([spec], DEFAULTS) for spec in specs}) == len(SET)
    assert len({digest_of([spec]) for spec in specs}) == len(SET)


def test_digest_of_a_request_as_sent_is_the_same_in_every_version() -> None:
    """Stores of earlier versions contain this digest, and servers of earlier versions read it."""
    spec = task_pb2.TaskSpec(
        command="A",
        payload=b'{"n": 1}',
        priority=3,
        max_attempts=2,
        run_at=Timestamp(seconds=4_102_444_800),
        expire_seconds=9,
    )
    assert digest_of([spec]).hex() == "32ce7f96187f39269a96561dcb1140b9"
    assert digest_of([spec, spec]).hex() == "05f1fc19ff8cf55c31331f0d2e52a915"
    assert digest_of([task_pb2.TaskSpec(command="A")]).hex() == "aecca26b13df22c4c57abe98b0b4c6ef"


def test_digest_of_a_requests_meaning_is_the_same_in_every_version() -> None:
    assert meaning(b'{"b": [1.50, "\\u0041"], "a": null}', priority=3).hex() == "3f48d390de87df943b7a7ceb12a4bd68"


def filled(unit: bytes) -> bytes:
    """Returns a one-megabyte array."""
    return b"[" + b",".join([unit] * ((MIB - 2) // (len(unit) + 1))) + b"]"


HOSTILE = {
    "ints": filled(b"1"),
    "floats": filled(b"1.5"),
    "empty lists": filled(b"[]"),
    "empty objects": filled(b"{}"),
    "one key over and over": b"{" + filled(b'"a":1')[1:-1] + b"}",
    "depth": b"[" * (MIB // 2) + b"]" * (MIB // 2),
    "depth that a parser follows": b'{"a":' * 900 + b"1" + b"}" * 900,
    "digits": b"9" * MIB,
    "halves": b'"' + b"\\ud83d" * (MIB // 6 - 1) + b'"',
    "backslashes": b'"' + b"\\\\" * (MIB // 2 - 1) + b'"',
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_payload_is_digested_in_bounded_time(payload: bytes) -> None:
    started = time.thread_time()
    assert meaning(payload) == meaning(payload)
    assert time.thread_time() - started < SECONDS_MOST


def test_object_with_many_keys_is_equivalent_in_any_order() -> None:
    keys = [f"key {number}" for number in range(CANONICAL_VALUES_MAX - 1)]
    shuffled = random.Random(3).sample(keys, len(keys))
    one = json.dumps(dict.fromkeys(keys, 1)).encode()
    other = json.dumps(dict.fromkeys(shuffled, 1), indent=1).encode()
    assert one != other
    assert canonical_json(one) == canonical_json(other) is not None


def test_payload_with_too_many_values_is_compared_as_sent() -> None:
    one = filled(b"1")
    assert canonical_json(one) is None
    assert meaning(one) != meaning(one + b" ")
