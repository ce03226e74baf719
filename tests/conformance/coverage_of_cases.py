"""What the cases cover of the contract, computed from the cases and the descriptors.

A case covers an RPC by a step that calls it, a reason of an RPC by a step that expects the call to fail with it (or an
item of its reply to carry it), and a field by a step whose request sets it or whose expectation mentions it. The
streams are called by the operations of producers and workers; what a worker ends with is an error of Work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from case_files import Case, calls_of, cases
from codeq.v1 import task_pb2
from contract import METHODS, REASONS, STREAMS, checked_fields, declared, route

EXCEPTIONS: Final = Path(__file__).with_name("exceptions.yaml")
FIELDS: Final = (task_pb2.TaskSpec.DESCRIPTOR, task_pb2.Task.DESCRIPTOR, task_pb2.TaskResult.DESCRIPTOR)
"""Messages of which every field needs a case."""

_SPEC: Final = task_pb2.TaskSpec.DESCRIPTOR


@cache
def exceptions() -> Mapping[tuple[str, str], str]:
    """Returns the pairs of RPC and reason that no case provokes on a real server, and why."""
    found: dict[tuple[str, str], str] = {}
    for row in yaml.safe_load(EXCEPTIONS.read_text()):
        for rpc in row["calls"] if isinstance(row["calls"], list) else sorted(METHODS):
            for reason in row["reasons"]:
                if reason in declared()[rpc]:
                    found[rpc, reason] = row["why"]
    return found


@cache
def calls() -> Mapping[str, frozenset[str]]:
    """Returns the names of the cases that call each RPC."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for case in cases():
        for step in case.steps:
            for rpc, _ in calls_of(step):
                found[rpc].add(case.name)
    return {rpc: frozenset(names) for rpc, names in found.items()}


@cache
def failures(*, real: bool) -> Mapping[tuple[str, str], frozenset[str]]:
    """Returns the names of the cases in which each RPC fails with each reason.

    Args:
        real: Only the cases with real servers; otherwise only those with scripted ones, whose scripts say the reasons.
    """
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for case in cases():
        if case.is_real == real:
            for pair in _failures_of(case) if real else _scripted(case):
                found[pair].add(case.name)
    return {pair: frozenset(names) for pair, names in found.items()}


@cache
def fields() -> Mapping[tuple[str, str], frozenset[str]]:
    """Returns the names of the cases that send or check each field, by message and name of the field."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for case in cases():
        for step in case.steps:
            for pair in _fields_of(step):
                found[pair].add(case.name)
    return {pair: frozenset(names) for pair, names in found.items()}


def uncovered() -> list[str]:
    """Returns what needs a case and has none, one line each."""
    missing = [f"no case calls {rpc}" for rpc in METHODS if rpc not in calls()]
    for rpc, reasons in declared().items():
        for reason in sorted(reasons):
            if (rpc, reason) in failures(real=True):
                continue
            if (rpc, reason) not in exceptions():
                missing.append(f"{rpc}: no case provokes {reason} on a real server")
            elif (rpc, reason) not in failures(real=False):
                missing.append(f"{rpc}: no scripted server answers {reason}")
    scripted = {reason for _, reason in failures(real=False)}
    missing += [f"no scripted server answers {reason}" for reason in sorted(REASONS - scripted)]
    for message in FIELDS:
        for field in message.fields:
            if (message.name, field.name) not in fields():
                missing.append(f"no case sends or checks {message.name}.{field.name}")
    return missing


def needless() -> list[str]:
    """Returns the exceptions that cases on real servers cover after all."""
    return [f"{rpc} {reason}" for rpc, reason in exceptions() if (rpc, reason) in failures(real=True)]


def _failures_of(case: Case) -> Iterator[tuple[str, str]]:
    later = {step["later"]: step for step in case.steps if "later" in step}
    for step in case.steps:
        reason = _reason(step.get("fails"))
        for rpc, _ in calls_of(later.get(step.get("join"), step)):
            if reason is not None:
                yield rpc, reason
            for each in _item_reasons(step.get("gives")):
                yield rpc, each
        event = step.get("see", {})
        if event.get("event") == "ended" and (reason := _reason(event.get("error"))) is not None:
            yield "Work", reason


def _scripted(case: Case) -> Iterator[tuple[str, str]]:
    called = {rpc for step in case.steps for rpc, _ in calls_of(step)}
    for script in case.peers.values():
        calls = script.get("calls", {})
        for rpc in called - STREAMS:
            yield from ((rpc, each["fails"]) for each in calls.get(rpc, calls.get("*", [])) if "fails" in each)
        ends = {str(each["end"]) for stream in script.get("streams", []) for each in stream if "end" in each}
        yield from ((rpc, reason) for rpc in called & STREAMS for reason in ends)


def _reason(expected: Any) -> str | None:
    told = expected.get("reason") if isinstance(expected, dict) else expected
    return told if isinstance(told, str) and told in REASONS else None


def _item_reasons(expected: Any) -> Iterator[str]:
    if isinstance(expected, list):
        for each in expected:
            yield from _item_reasons(each)
    elif isinstance(expected, dict):
        for key, each in expected.items():
            if key == "error" and (reason := _reason(each)) is not None:
                yield reason
            yield from _item_reasons(each)


def _fields_of(step: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for rpc, request in calls_of(step):
        if rpc == "Produce":
            for spec in (request, *request.get("tasks", ()), request.get("template", {})):
                yield from checked_fields(_SPEC, spec)
            if step.get("do") == "producer.create_and_wait":
                yield from checked_fields(task_pb2.TaskResult.DESCRIPTOR, step.get("gives", {}))
        elif rpc != "Work":
            yield from checked_fields(METHODS[rpc].input_type, request)
            yield from checked_fields(METHODS[rpc].output_type, step.get("gives", {}))
    if step.get("see", {}).get("event") == "task":
        yield from checked_fields(task_pb2.Task.DESCRIPTOR, step["see"])


def shown_route(rpc: str) -> str:
    """Returns the REST form of an RPC for people."""
    if rpc in ("Produce", "Work"):
        return "stream"
    return f"{route(rpc).verb} {route(rpc).path}"
