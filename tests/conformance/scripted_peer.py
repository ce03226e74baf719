"""A gRPC server that answers from a script written as data. Unlike a real server, it breaks, stalls and lies on demand.

A script has `streams`, a list with the actions of each stream in the order in which they are opened, and `calls`, with
the answers to each unary RPC in turn; `"*"` answers all others. The last entry of a list repeats. GetTopology is not
implemented unless the script answers it.

| answer of a call | meaning |
|---|---|
| `{gives: {…}}` | this reply |
| `{fails: REASON, metadata, retryAfter, violations}` | this error |
| `{code: UNAVAILABLE}` | a status without a reason |
| `{seconds: n, …}` | the same after a while |
| `{silent: true}` | no answer |

| action of a stream | meaning |
|---|---|
| `welcome`, `{welcome: {…}}` | takes the hello and answers it, with these fields |
| `{deliver: [{…}]}` | delivers tasks; each has an id, the rest has defaults |
| `{until: FIELD}` | reads up to a message that has the field |
| `{settle: n}` | settles outcomes; with `errors`, a list of numbers and reasons, rejects these |
| `{ack: n}` | takes n frames and acks them: the id of a task is its payload |
| `serve` | acks frames or settles outcomes, and grants heartbeats, until the client half-closes or breaks |
| `{extended: [...]}`, `{lost: [...]}`, `{cancelled: [...]}` | reports leases |
| `{notice: {reason, graceMs, leader}}` | announces the end |
| `{seconds: n}` | waits |
| `silent` | reads and answers nothing until the client ends the stream |
| `{end: REASON, metadata}`, `{end: OK}` | ends the call |
"""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Self

import grpc
from codeq import reasons
from codeq.v1 import (
    error_pb2,
    producer_service_pb2,
    worker_service_pb2,
)
from contract import METHODS, STREAMS
from google.protobuf import any_pb2, duration_pb2, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2

READ_SECONDS_MAX: Final = 30.0
START_SECONDS_MAX: Final = 30.0
OPTIONS: Final = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20))
WELCOMES: Final[Mapping[str, Mapping[str, Any]]] = {
    "Produce": {
        "unackedFramesMax": 256,
        "unackedBytesMax": 16 << 20,
        "frameTasksMax": 4096,
        "frameBytesMax": 8 << 20,
        "protocol": 1,
        "serverVersion": "9.9.9",
    },
    "Work": {"workerId": "w", "leaseSeconds": 60, "creditsMax": 65536, "protocol": 1, "serverVersion": "9.9.9"},
}
TASK: Final[Mapping[str, Any]] = {"command": "A", "attempts": 1, "maxAttempts": 5, "leaseToken": "7"}


class ScriptedPeers:
    """The scripted servers of a case, on an event loop and thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.by_name: dict[str, ScriptedPeer] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.by_name.values():
            self._run(peer.stop())
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self, scripts: Mapping[str, Any]) -> Mapping[str, str]:
        """Starts a server for each script and returns their addresses by name."""
        for name in scripts:
            self.by_name[name] = ScriptedPeer()
            self._run(self.by_name[name].start())
        return {name: peer.address for name, peer in self.by_name.items()}

    def follow(self, scripts: Mapping[str, Any]) -> None:
        """Gives each server its script."""
        for name, script in scripts.items():
            self.by_name[name].script = script

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS_MAX)


class ScriptedPeer(grpc.GenericRpcHandler):
    """One server.

    Attributes:
        address: Where it listens.
        script: What it answers.
        seen: What it was sent: each message as JSON, with `rpc`, `stream` (its number from 1), `token` and `at`.
        streams: Number of streams opened so far.
    """

    def __init__(self) -> None:
        self.address = ""
        self.script: Mapping[str, Any] = {}
        self.seen: list[dict[str, Any]] = []
        self.streams = 0
        self._answered: dict[str, int] = {}

    async def start(self) -> None:
        """Starts listening."""
        self._server = grpc.aio.server(
            options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20))
        )
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        """Ends at once."""
        await self._server.stop(None)

    def service(self, details: Any) -> Any:
        """Returns the handler of a method; None: not implemented."""
        _, service, name = details.method.split("/")
        if name not in METHODS or METHODS[name].containing_service.full_name != service:
            return None
        if name in STREAMS:
            return grpc.stream_stream_rpc_method_handler(self._stream(name))
        if self._answers(name):
            return grpc.unary_unary_rpc_method_handler(self._unary(name))
        return None

    def _answers(self, name: str) -> Sequence[Mapping[str, Any]]:
        calls = self.script.get("calls", {})
        found = calls.get(name, calls.get("*", []) if name != "GetTopology" else [])
        return found if isinstance(found, list) else [found]

    def _unary(self, name: str) -> Any:
        async def behaviour(data: bytes, context: Any) -> bytes:
            answers = self._answers(name)
            turn = self._answered.get(name, 0)
            self._answered[name] = turn + 1
            request = _message(METHODS[name].input_type)
            request.ParseFromString(data)
            self._note(name, 0, request, context)
            return await self._answer(name, answers[min(turn, len(answers) - 1)], context)

        return behaviour

    async def _answer(self, name: str, answer: Mapping[str, Any], context: Any) -> bytes:
        await asyncio.sleep(answer.get("seconds", 0))
        if answer.get("silent"):
            await asyncio.sleep(READ_SECONDS_MAX)
        if "code" in answer:
            await context.abort(grpc.StatusCode[answer["code"]], "as the script requires")
        if "fails" in answer:
            await _abort(context, answer["fails"], answer)
        reply = json_format.ParseDict(_shown(answer.get("gives", {})), _message(METHODS[name].output_type))
        data: bytes = reply.SerializeToString()
        return data

    def _stream(self, name: str) -> Any:
        async def behaviour(_: object, context: Any) -> None:
            scripts = self.script.get("streams", [["welcome", "serve"]])
            actions = scripts[min(self.streams, len(scripts) - 1)]
            self.streams += 1
            conversation = _Conversation(self, name, self.streams, context)
            for action in actions:
                if await conversation.act(action):
                    return

        return behaviour

    def _note(self, name: str, stream: int, request: Any, context: Any) -> dict[str, Any]:
        known = dict(context.invocation_metadata())
        entry = json_format.MessageToDict(request) | {
            "rpc": name,
            "stream": stream,
            "token": str(known.get("authorization", "")).removeprefix("Bearer "),
            "at": time.monotonic(),
        }
        if "token" in request.DESCRIPTOR.fields_by_name and request.token:
            entry["fresh"] = request.token
        self.seen.append(entry)
        return entry


class _Conversation:
    """One stream as its script sees it."""

    def __init__(self, peer: ScriptedPeer, name: str, number: int, context: Any) -> None:
        self._peer, self._name, self._number, self._context = peer, name, number, context
        method = METHODS[name]
        self._request, self._response = method.input_type, method.output_type

    async def act(self, action: Any) -> bool:
        """Carries out an action; returns whether the call has ended."""
        verb, value = (action, None) if isinstance(action, str) else next(iter(action.items()))
        more = action if isinstance(action, dict) else {}
        match verb:
            case "welcome":
                return await self._welcome(value or {})
            case "until":
                return not await self._until(value)
            case "ack":
                return not all([await self._until("tasks", ack=True) for _ in range(value)])
            case "seconds":
                await asyncio.sleep(value)
                return False
            case "end":
                if value != "OK":
                    await _abort(self._context, value, more)
                return True
            case "serve" | "silent":
                await self._serve(answers=verb == "serve")
                return True
        await self._write(json_format.ParseDict(_told(verb, value, more), _message(self._response)))
        return False

    async def _welcome(self, fields: Mapping[str, Any]) -> bool:
        if await self._read() is None:
            return True
        welcome = {key: value for key, value in (WELCOMES[self._name] | fields).items() if value is not None}
        await self._write(json_format.ParseDict({"welcome": welcome}, _message(self._response)))
        return False

    async def _until(self, field: str, *, ack: bool = False) -> bool:
        """Reads up to a message that has a field; returns False if the client ended the stream first."""
        while (request := await self._read()) is not None:
            value = getattr(request, field)
            if value:
                if ack:
                    await self._write(_ack(request))
                return True
        return False

    async def _serve(self, *, answers: bool) -> None:
        while (request := await self._read()) is not None:
            if not answers:
                continue
            if self._name == "Produce":
                if request.tasks:
                    await self._write(_ack(request))
                continue
            until = int(time.time()) + 60
            granted = [
                worker_service_pb2.LeaseGrant(task_id=each.task_id, lease_token=each.lease_token)
                for each in request.heartbeats
            ]
            for each in granted:
                each.lease_until.seconds = until
            if granted or request.outcomes:
                await self._write(worker_service_pb2.WorkResponse(settled=len(request.outcomes), extended=granted))

    async def _read(self) -> Any:
        """Returns the client's next message; None: it has half-closed or broken the call."""
        async with asyncio.timeout(READ_SECONDS_MAX):
            data = await self._context.read()
        if data is grpc.aio.EOF:
            return None
        request = _message(self._request)
        request.ParseFromString(data)
        self._peer._note(self._name, self._number, request, self._context)
        return request

    async def _write(self, response: Any) -> None:
        await self._context.write(response.SerializeToString())


async def _abort(context: Any, reason: str, about: Mapping[str, Any]) -> None:
    """Ends a call with a reason of the error table, in the form of the server's errors."""
    row = reasons.BY_NAME.get(reason)
    code, name = (row.grpc_code, row.grpc_name) if row else (2, "UNKNOWN")
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=reason, domain=reasons.DOMAIN, metadata=about.get("metadata", {}))
    ]
    if violations := about.get("violations"):
        bad = error_details_pb2.BadRequest()
        for each in violations:
            bad.field_violations.add(field=each["field"], description=each["description"])
        details.append(bad)
    if (seconds := about.get("retryAfter")) is not None:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(int(seconds * 1_000_000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code, message="as the script requires")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(grpc.StatusCode[name], status.message, metadata)


def _told(verb: str, value: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the response of an action that only tells something."""
    match verb:
        case "deliver":
            return {"tasks": [_shown(TASK | each) for each in value]}
        case "settle":
            return {"settled": value, "outcomeErrors": [_reasoned(each) for each in more.get("errors", [])]}
        case "extended" | "lost" | "cancelled":
            return {verb: [_reasoned(each) for each in value]}
        case "notice":
            return {"notice": _reasoned(value)}
    raise ValueError(f"no such action: {verb}")


def _ack(request: Any) -> Any:
    ids = [task.payload.decode() for task in request.tasks]
    return producer_service_pb2.ProduceResponse(acks=[producer_service_pb2.FrameAck(task_ids=ids)])


def _message(descriptor: Any) -> Any:
    return message_factory.GetMessageClass(descriptor)()


def _reasoned(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a message as JSON whose reason has the name of the error table."""
    if "reason" not in value:
        return dict(value)
    return {**value, "reason": error_pb2.ErrorReason.Name(reasons.BY_NAME[value["reason"]].number)}


def _shown(value: Any) -> Any:
    """Returns a message as JSON of protos: statuses get their prefix, and `{raw: text}` is bytes."""
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"raw"}:
        return base64.b64encode(value["raw"].encode()).decode()
    shown = {key: _shown(each) for key, each in value.items()}
    if isinstance(shown.get("status"), str):
        shown["status"] = f"TASK_STATUS_{shown['status']}"
    return shown
