"""Handlers that do what a test asks for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import codeq

Emit = Callable[[dict[str, Any]], None]

_REASONS = {"LEASE_LOST": "leaseLost", "CANCELLED": "cancelled", "SHUTDOWN": "shutdown", "TIMEOUT": "timeout"}


class Behaviour:
    """The handler of a worker: the first rule that matches a task says what to do."""

    def __init__(
        self, worker: str, rules: Sequence[dict[str, Any]], emit: Emit, create: Callable[[str, str], None]
    ) -> None:
        self._worker = worker
        self._create = create
        self._rules = rules
        self._emit = emit

    def __call__(self, task: codeq.Task[object]) -> object:
        self._emit(
            {
                "event": "task",
                "worker": self._worker,
                "id": task.id,
                "task": _shown(task),
                **_shown(task),
            }
        )
        steps = self._steps(task)
        for step in steps[:-1]:
            self._do(task, step)
        return self._do(task, steps[-1]) if steps else None

    def _steps(self, task: codeq.Task[object]) -> list[list[Any]]:
        for rule in self._rules:
            wanted = rule.get("match") or {}
            has_command = wanted.get("command") in (None, task.command)
            if has_command and str(wanted.get("payloadHas", "")) in task.payload_bytes.decode(errors="replace"):
                steps = rule["do"]
                return steps if steps and isinstance(steps[0], list) else [steps]
        return [["complete", None]]

    def _do(self, task: codeq.Task[object], step: list[Any]) -> object:
        name, *args = step
        match name:
            case "progress":
                for value in args[0]:
                    task.progress(value)
                return self._do(task, args[1]) if len(args) > 1 else None
            case "create":
                self._create(*args)
                return None
            case "hang":
                task.lost.wait()
                self._tell_lost(task)
                return None
            case "sleep":
                if task.lost.wait(args[0]):
                    self._tell_lost(task)
                return None
            case "busy":
                until = time.monotonic() + args[0]
                while time.monotonic() < until:
                    pass
                if task.lost.is_set():
                    self._tell_lost(task)
                return None
            case _:
                return _outcome(name, args)

    def _tell_lost(self, task: codeq.Task[object]) -> None:
        reason = task.cancel_reason
        shown = None if reason is None else _REASONS[reason.value]
        self._emit({"event": "cancelled", "worker": self._worker, "id": task.id, "reason": shown})


def _outcome(name: str, args: list[Any]) -> object:  # noqa: C901 - one case each
    """Returns or raises the outcome of a step that ends the handler."""
    first = args[0] if args else None
    match name:
        case "complete":
            return first
        case "complete_raw":
            return codeq.RawJson(args[0])
        case "artifacts":
            return codeq.Completed(first, [_artifact(each) for each in args[1]])
        case "fail":
            return codeq.Failed(first)
        case "nack":
            return codeq.Nack(first or "", args[1] if len(args) > 1 else None)
        case "retry_after":
            raise codeq.RetryAfter(args[0])
        case "snooze":
            raise codeq.Snooze(args[0])
        case "park_key":
            raise codeq.ParkKey(args[0])
        case "abandon":
            return codeq.Abandon()
        case "raise":
            raise RuntimeError(first)
        case "panic":
            sys.exit(first)
        case "unencodable":
            return object()
        case _:
            raise ValueError(f"unknown behaviour {name}")


def _artifact(told: dict[str, Any]) -> codeq.NewArtifact:
    text = told.get("text")
    content = None if text is None else text.encode()
    return codeq.NewArtifact(told["name"], content, told.get("url") or "", told.get("contentType") or "")


def _shown(task: codeq.Task[object]) -> dict[str, Any]:
    return {
        "id": task.id,
        "command": task.command,
        "attempts": task.attempts,
        "payload": task.payload_bytes.decode(errors="replace"),
        "priority": task.priority,
        "traceparent": getattr(task, "traceparent", None),
        "concurrencyKey": task.concurrency_key,
        "rateKey": task.rate_key,
        "orderingKey": task.ordering_key,
        "leaseToken": str(task.lease_token),
    }
