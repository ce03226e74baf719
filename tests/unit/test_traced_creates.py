"""Creates with a trace context over streams: they are stored as those of calls, and cost little more than others."""

from __future__ import annotations

import protovalidate
import pytest
from codeq.v1 import producer_service_pb2, task_pb2
from codeq_server.auth.claims import WORKER_SCOPES, Claims
from codeq_server.core import names
from codeq_server.core.traces import Traces
from codeq_server.services.creating import task_of
from codeq_server.services.frame_creator import FrameCreator
from codeq_server.services.spec_fields import kept_of, kept_trace
from held_log import HeldRunner
from hypothesis import given
from test_validation import PARENT, TRACED_SPECS

TENANT, COUNT = "acme", 2_000


def created(runner: HeldRunner, *specs: task_pb2.TaskSpec) -> producer_service_pb2.FrameAck:
    """Creates the tasks of a frame."""
    claims = Claims(TENANT, TENANT, WORKER_SCOPES, frozenset({"*"}), "USER", is_admin=False)
    ack = producer_service_pb2.FrameAck()
    FrameCreator(runner, TENANT, "")._create_all(claims, specs, 0, ack, tight=False)
    return ack


def traced_runner() -> HeldRunner:
    """Returns a runner with a queue, so that creates take the fast path."""
    runner = HeldRunner()
    runner.shard.traces = Traces()
    created(runner, task_pb2.TaskSpec(command="a", payload=b"0"))
    return runner


def test_usual_trace_context_stays_on_the_fast_path() -> None:
    plain = task_pb2.TaskSpec(command="a", payload=b"1")
    for state in (None, "a=1"):
        spec = task_pb2.TaskSpec(command="a", payload=b"1", traceparent=PARENT, tracestate=state)
        assert kept_trace(spec, spec.ByteSize() - plain.ByteSize()) == kept_of(spec)


@pytest.mark.parametrize("state", [None, "", "a=1", "x" * 128, "x" * 512])
@pytest.mark.parametrize("flags", ["00", "01", "ff"])
async def test_stream_stores_and_traces_the_same_as_a_call(state: str | None, flags: str) -> None:
    parent = PARENT[:-2] + flags
    spec = task_pb2.TaskSpec(command="a", payload=b"1", priority=9, traceparent=parent, tracestate=state)
    over_stream, by_call = traced_runner(), traced_runner()
    [task_id] = created(over_stream, spec).task_ids
    now = by_call.now()
    made = names.create(by_call.shard, TENANT, task_of(by_call.shard, TENANT, spec, now), now)
    assert made.task_id == task_id
    shards = over_stream.shard, by_call.shard
    assert shards[0].batch.rows == shards[1].batch.rows
    traced = [[each.traceparent for each in shard.traces.tasks.values()] for shard in shards if shard.traces]
    assert traced == [[parent] * (flags != "00")] * 2


@given(TRACED_SPECS)
def test_trace_context_is_kept_without_the_rules_only_if_they_accept_it(spec: task_pb2.TaskSpec) -> None:
    plain = task_pb2.TaskSpec(command=spec.command, payload=spec.payload, priority=spec.priority)
    kept = kept_trace(spec, spec.ByteSize() - plain.ByteSize())
    if kept is not None:
        assert kept == kept_of(spec)
        protovalidate.validate(task_pb2.TaskSpec(command="a", traceparent=spec.traceparent, tracestate=spec.tracestate))
