"""Drives the Python SDK for the conformance suite: requests as JSON lines on stdin, replies and events on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import codeq
from behaviours import Behaviour
from codeq import rpcs
from json_messages import fill, to_json
from observers import ToldMetrics, layer

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Op = Callable[[dict[str, Any]], Awaitable[Any]]


class Driver:
    """The objects that the suite has opened, by name."""

    def __init__(self) -> None:
        self._producers: dict[str, codeq.AsyncProducer] = {}
        self._clients: dict[str, codeq.AsyncClient] = {}
        self._workers: dict[str, codeq.AsyncWorker] = {}
        self._stopped: set[str] = set()
        self._runs: set[asyncio.Task[None]] = set()
        self._ops: dict[str, Op] = {
            "hello": self._hello,
            "stats": self._stats,
            "producer.open": self._open_producer,
            "producer.close": lambda args: self._close(self._producers, args),
            "producer.create": self._create,
            "producer.create_batch": self._create_batch,
            "producer.create_all": self._create_all,
            "producer.create_and_wait": self._create_and_wait,
            "client.open": self._open_client,
            "client.close": lambda args: self._close(self._clients, args),
            "worker.run": self._run_worker,
            "worker.stop": self._stop_worker,
            "worker.stats": self._worker_stats,
        }

    async def answer(self, line: bytes) -> None:
        """Carries out one request and writes its reply."""
        request = json.loads(line)
        reply: dict[str, Any] = {"id": request.get("id")}
        name, args = request["op"], request.get("args") or {}
        try:
            reply["ok"] = await self._carry_out(name, args)
        except codeq.CodeqError as error:
            reply["error"] = shown_error(error)
        except (TypeError, ValueError) as error:
            reply["error"] = refused("INVALID_ARGUMENT", str(error))
        except Exception as error:  # noqa: BLE001 - the suite gets every failure of a request as its reply
            reply["error"] = refused("INTERNAL", f"{type(error).__name__}: {error}")
        emit(reply)

    async def close(self) -> None:
        """Closes everything."""
        for worker in self._workers.values():
            worker.stop(0)
        await asyncio.gather(*self._runs, return_exceptions=True)
        closers = [*self._producers.values(), *self._clients.values()]
        await asyncio.gather(*(each.close() for each in closers), return_exceptions=True)

    async def _carry_out(self, name: str, args: dict[str, Any]) -> Any:
        if (op := self._ops.get(name)) is not None:
            return await op(args)
        if name.startswith("client."):
            return await self._call(name.removeprefix("client."), args)
        raise codeq.Unsupported(f"unknown op {name}", reason="UNSUPPORTED")

    async def _hello(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "sdk": "codeq-python",
            "version": codeq.__version__,
            "protocol": 1,
            "defaults": codeq.defaults(),
        }

    async def _stats(self, _: dict[str, Any]) -> dict[str, Any]:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES  # noqa: ASYNC240 - in memory
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
        return {"rssBytes": resident, "threads": threading.active_count(), "openFiles": files}

    async def _open_producer(self, args: dict[str, Any]) -> dict[str, Any]:
        names = {"timeoutSeconds": "timeout_seconds", "requestKeys": "request_keys", "failFast": "fail_fast"}
        names["inFlightTasksMax"] = "in_flight_max"
        _trace(args)
        made = codeq.AsyncProducer(**_connection(args), **_renamed(args, names), metrics=_metrics(args))
        self._producers[args["name"]] = made
        return {}

    async def _open_client(self, args: dict[str, Any]) -> dict[str, Any]:
        options = _renamed(args, {"timeoutSeconds": "timeout_seconds"})
        self._clients[args["name"]] = codeq.AsyncClient(**_connection(args), **options)
        return {}

    async def _close(self, opened: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        await opened[args["name"]].close()
        return {}

    async def _create(self, args: dict[str, Any]) -> dict[str, Any]:
        task_id = await self._producers[args["name"]].create(args["command"], _payload(args), **_options(args))
        return {"taskId": task_id}

    async def _create_batch(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        tasks = [_new_task(each) for each in args["tasks"]]
        timeout = _renamed(args, {"timeoutSeconds": "timeout_seconds"})
        results = await self._producers[args["name"]].create_batch(tasks, **timeout)
        return [{"taskId": each} if isinstance(each, str) else {"error": shown_error(each)} for each in results]

    async def _create_all(self, args: dict[str, Any]) -> dict[str, Any]:
        tasks = (_new_task(args["template"]) for _ in range(args["count"]))
        options = _renamed(args, {"inFlight": "in_flight", "timeoutSeconds": "timeout_seconds"})
        created = self._producers[args["name"]].create_all(tasks, **options)
        results = [each async for each in created]
        return {
            "ids": [each for each in results if isinstance(each, str)],
            "errors": [shown_error(each) for each in results if not isinstance(each, str)],
        }

    async def _create_and_wait(self, args: dict[str, Any]) -> dict[str, Any]:
        producer = self._producers[args["name"]]
        result = await producer.create_and_wait(args["command"], _payload(args), **_options(args))
        return to_json(result._message)

    async def _call(self, verb: str, args: dict[str, Any]) -> dict[str, Any]:
        client = self._clients[args.pop("name")]
        told = args.pop("request", args)  # so that a request may have a field "name", too
        if (rpc := rpcs.by_name().get(verb)) is None:
            raise codeq.Unsupported(f"unknown RPC {verb}", reason="UNSUPPORTED")
        request = rpc.request()
        fill(request, told)
        return to_json(await client.rpc(request))

    async def _run_worker(self, args: dict[str, Any]) -> dict[str, Any]:
        name = args["name"]
        names = {"workerName": "name", "concurrency": "concurrency", "leaseSeconds": "lease_seconds"}
        names |= {"drainSeconds": "drain_seconds", "windowBytes": "window_bytes"}
        _trace(args)
        options = _renamed(args, names) | ({"span_relation": "child"} if args.get("telemetry") else {})
        worker = codeq.AsyncWorker(**_connection(args), **options, metrics=_metrics(args))
        for each in args.get("layers") or ():
            worker.middleware(layer(each, name, emit))
        behaviour = Behaviour(name, args.get("behaviour") or (), emit, self._creator())
        for command, limit in (args.get("limits") or {}).items():
            worker.task(command, limit=limit)(behaviour)
        self._workers[name] = worker
        self._stopped.discard(name)
        run = asyncio.create_task(self._run(name, worker, behaviour, args.get("commands") or ()))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return {}

    def _creator(self) -> Callable[[str, str], None]:
        """Returns a function with which handlers create tasks, by the names of a producer and of a command."""
        loop = asyncio.get_running_loop()

        def create(producer: str, command: str) -> None:
            creating = self._producers[producer].create(command, 1)
            asyncio.run_coroutine_threadsafe(creating, loop).result()

        return create

    async def _run(self, name: str, worker: codeq.AsyncWorker, behaviour: Behaviour, commands: list[str]) -> None:
        error = None
        try:
            await worker.run(behaviour, commands=commands, handle_signals=False)
        except codeq.CodeqError as ended:
            error = shown_error(ended)
        except (TypeError, ValueError, RuntimeError) as ended:
            error = refused("INVALID_ARGUMENT", str(ended))
        emit({"event": "ended", "worker": name, "error": error})

    async def _stop_worker(self, args: dict[str, Any]) -> dict[str, Any]:
        name = args["name"]
        self._workers[name].stop(0 if name in self._stopped else args.get("drainSeconds"))
        self._stopped.add(name)
        return {}

    async def _worker_stats(self, args: dict[str, Any]) -> dict[str, int]:
        stats = self._workers[args["name"]].stats
        shown = {name: getattr(stats, name) for name in ("streams", "received", "settled", "refused", "lost", "stuck")}
        return shown | {"lateRenewals": stats.late_renewals}


def emit(told: dict[str, Any]) -> None:
    """Writes one line to stdout, on any thread."""
    line = json.dumps(told, ensure_ascii=True) + "\n"
    with _output:
        sys.stdout.write(line)
        sys.stdout.flush()


_output = threading.Lock()


def shown_error(error: codeq.CodeqError) -> dict[str, Any]:
    """Returns an error as the suite compares it."""
    return {
        "reason": error.reason,
        "retryable": error.retryable,
        "retryAfterSeconds": error.retry_after,
        "violations": [{"field": each.field, "description": each.description} for each in error.violations],
        "message": error.message,
        "metadata": dict(error.metadata),
    }


def refused(reason: str, message: str) -> dict[str, Any]:
    """Returns an error that is none of the SDK's own."""
    return {"reason": reason, "retryable": False, "retryAfterSeconds": None, "violations": [], "message": message}


def _connection(args: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {"address": args.get("addresses")}
    if (tokens := args.get("tokens")) is not None:
        given["token"] = _in_turn(tokens)
    elif "token" in args:
        given["token"] = args["token"]
    if (tls := args.get("tls")) is not None:
        given["tls"] = codeq.TlsFiles(ca=tls.get("ca"), certificate=tls.get("cert"), key=tls.get("key"))
    return given


def _metrics(args: dict[str, Any]) -> codeq.Metrics | None:
    return ToldMetrics(args["name"], emit) if args.get("metrics") else None


def _trace(args: dict[str, Any]) -> None:
    """Makes the SDK trace, which it does once a program has imported OpenTelemetry."""
    if args.get("telemetry"):
        importlib.import_module("opentelemetry.trace")


def _in_turn(tokens: list[str]) -> Callable[[], str]:
    """Returns a token function that yields these tokens in turn, and then always the last one."""
    following: Iterator[str] = iter(tokens)
    return lambda: next(following, tokens[-1])


def _renamed(args: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {name: args[key] for key, name in names.items() if args.get(key) is not None}


_TASK_OPTIONS = {
    "priority": "priority",
    "delaySeconds": "delay",
    "expireSeconds": "expire",
    "maxAttempts": "max_attempts",
    "idempotencyKey": "idempotency_key",
    "taskId": "task_id",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
    "concurrencyKey": "concurrency_key",
    "rateKey": "rate_key",
    "orderingKey": "ordering_key",
}


def _options(args: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of a create, except command and payload."""
    options = _renamed(args, _TASK_OPTIONS | {"timeoutSeconds": "timeout_seconds"})
    if args.get("runAt") is not None:
        options["run_at"] = datetime.fromisoformat(args["runAt"])
    return options


def _payload(args: dict[str, Any]) -> object:
    raw = args.get("payloadRaw")
    return args.get("payload") if raw is None else codeq.RawJson(raw)


def _new_task(args: dict[str, Any]) -> codeq.NewTask:
    options = _options(args)
    options.pop("timeout_seconds", None)
    return codeq.NewTask(args["command"], _payload(args), **options)


async def main() -> None:
    """Answers requests, concurrently, until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    driver = Driver()
    answering: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        if line.strip():
            task = asyncio.create_task(driver.answer(line))
            answering.add(task)
            task.add_done_callback(answering.discard)
    for task in answering:
        task.cancel()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(driver.close(), 20)


if __name__ == "__main__":
    asyncio.run(main())
