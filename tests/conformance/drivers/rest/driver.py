"""The conformance driver of REST: the unary calls, as JSON over HTTP, by the routes that the protos declare.

It reads requests as lines of JSON from stdin and writes replies to stdout. It has no producers and workers. Embedded
JSON (payload, result, progress) is `{"raw": text}` in both directions and kept byte for byte.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
from codeq import reasons
from google.protobuf.descriptor import Descriptor, FieldDescriptor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from contract import METHODS, UNARY, fields_by_json_name, is_embedded, route

PREFIX: Final = "client."
TIMEOUT_SECONDS: Final = 30.0
WAIT_SECONDS_MAX: Final = 60.0
"""What a call may wait on the server, on top of its timeout."""

THREADS: Final = 32
_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\n\r]*")

sys.set_int_max_str_digits(0)  # payloads have numbers of any length


class Failed(Exception):  # noqa: N818 - what happened
    """The call failed; `error` is the reply's error."""

    def __init__(self, reason: str, message: str, **more: Any) -> None:
        super().__init__(message)
        row = reasons.BY_NAME.get(reason)
        self.error: dict[str, Any] = {
            "reason": reason,
            "message": message,
            "retryable": row is not None and row.retryable,
            "retryAfterSeconds": None,
            "violations": [],
        } | more


class Clients:
    """The open clients by name."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[httpx.Client, float]] = {}

    def open(self, name: str, addresses: list[str], token: str | None, timeout_seconds: float | None) -> None:
        """Opens a client of one base URL."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        seconds = TIMEOUT_SECONDS if timeout_seconds is None else timeout_seconds
        limits = httpx.Limits(max_connections=THREADS)
        client = httpx.Client(base_url=addresses[0], headers=headers, trust_env=False, limits=limits)
        self._open[name] = client, seconds

    def close(self, name: str) -> None:
        """Closes a client."""
        client, _ = self._open.pop(name)
        client.close()

    def close_all(self) -> None:
        """Closes all clients."""
        for name in list(self._open):
            self.close(name)

    def call(self, rpc: str, name: str, request: Mapping[str, Any]) -> Any:
        """Makes a call and returns the RPC's response as JSON."""
        client, seconds = self._open[name]
        where, method = route(rpc), METHODS[rpc]
        left = dict(request)
        path = re.sub(r"\{(\w+)\}", lambda at: quote(str(left.pop(at[1], "")), safe=""), where.path)
        content: bytes | None = None
        query: list[tuple[str, str]] = []
        if where.body == "*":
            content = _encoded(method.input_type, left).encode("utf-8", "surrogatepass")
        elif where.body:
            body = left.pop(known_name(method.input_type, where.body), {})
            content = _encoded(method.input_type.fields_by_name[where.body].message_type, body).encode()
        if where.body != "*":
            query = [(key, _text(each)) for key, value in left.items() for each in _listed(value)]
        wait = min(float(request.get("waitSeconds", 0) or 0), WAIT_SECONDS_MAX)
        try:
            answer = client.request(
                where.verb,
                path,
                content=content,
                params=query,
                headers={} if content is None else {"Content-Type": "application/json"},
                timeout=seconds + wait,
            )
        except httpx.TimeoutException as error:
            raise Failed("DEADLINE_EXCEEDED", str(error), retryable=True) from None
        except httpx.HTTPError as error:
            raise Failed("UNAVAILABLE", str(error), retryable=True) from None
        return _reply(rpc, answer)


def known_name(message: Descriptor, field: str) -> str:
    """Returns the JSON name of a field."""
    name: str = message.fields_by_name[field].json_name
    return name


def _reply(rpc: str, answer: httpx.Response) -> Any:
    if answer.status_code >= 400:
        raise _failure(answer)
    if rpc == "GetTaskArtifact":
        return {
            "contentType": answer.headers["Content-Type"],
            "content": base64.b64encode(answer.content).decode(),
        }
    if not answer.content:
        return {}
    where, text = route(rpc), answer.content.decode()
    response = METHODS[rpc].output_type
    if not where.response:
        return _decoded(response, text, 0)[0]
    field = response.fields_by_name[where.response]
    return {field.json_name: _decoded(field.message_type, text, 0)[0]}


def _failure(answer: httpx.Response) -> Failed:
    try:
        body = answer.json()
    except ValueError:
        return Failed("INTERNAL", f"{answer.status_code}: {answer.text[:200]}")
    after = answer.headers.get("Retry-After")
    return Failed(
        body["reason"],
        body["error"],
        retryAfterSeconds=None if after is None else float(after),
        violations=[
            {"field": each.get("field", ""), "description": each.get("description", "")}
            for each in body.get("details", [])
        ],
        metadata={key: value for key, value in body.items() if key not in ("error", "code", "reason", "details")},
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _encoded(message: Descriptor, value: Any) -> str:
    """Returns JSON of a message in which embedded values are as they were given."""
    if not isinstance(value, dict) or message.full_name.startswith("google."):
        return json.dumps(value)
    known = fields_by_json_name(message)
    parts = [f"{json.dumps(key)}: {_encoded_field(known.get(key), each)}" for key, each in value.items()]
    return "{" + ", ".join(parts) + "}"


def _encoded_field(field: FieldDescriptor | None, value: Any) -> str:
    if field is None:
        return json.dumps(value)
    if is_embedded(field) and isinstance(value, dict) and set(value) == {"raw"}:
        return str(value["raw"])
    if field.message_type is None:
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ", ".join(_encoded(field.message_type, each) for each in value) + "]"
    return _encoded(field.message_type, value)


def _decoded(message: Descriptor, text: str, at: int) -> tuple[Any, int]:
    """Returns a message from JSON, with the text of its embedded values, and where it ends."""
    at = _after_space(text, at)
    if text[at] != "{":
        return _DECODER.raw_decode(text, at)
    known, found = fields_by_json_name(message), dict[str, Any]()
    at = _after_space(text, at + 1)
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _after_space(text, _after_space(text, at) + 1)
        found[key], at = _decoded_field(known.get(key), text, at)
        at = _after_space(text, at)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return found, at + 1


def _decoded_field(field: FieldDescriptor | None, text: str, at: int) -> tuple[Any, int]:
    if field is not None and is_embedded(field):
        end = _DECODER.raw_decode(text, at)[1]
        return {"raw": text[at:end]}, end
    if field is None or field.message_type is None or field.message_type.full_name.startswith("google."):
        return _DECODER.raw_decode(text, at)
    if text[at] != "[":
        return _decoded(field.message_type, text, at)
    items: list[Any] = []
    at = _after_space(text, at + 1)
    while text[at] != "]":
        item, at = _decoded(field.message_type, text, at)
        items.append(item)
        at = _after_space(text, at)
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return items, at + 1


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def execute(clients: Clients, op: str, args: dict[str, Any]) -> Any:
    """Executes a request of the runner."""
    if op == "hello":
        return {"sdk": "rest", "version": "", "protocol": 0, "defaults": {}}
    if op == "client.open":
        clients.open(args["name"], args["addresses"], args.get("token"), args.get("timeoutSeconds"))
        return {}
    if op == "client.close":
        clients.close(args["name"])
        return {}
    if op.startswith(PREFIX) and op.removeprefix(PREFIX) in UNARY:
        return clients.call(op.removeprefix(PREFIX), args["name"], args["request"])
    raise Failed("UNSUPPORTED", f"REST has no {op}")


def main() -> None:
    """Serves requests until stdin ends."""
    clients, guard = Clients(), threading.Lock()

    def serve(line: str) -> None:
        request = json.loads(line)
        try:
            reply = {"ok": execute(clients, request["op"], request["args"])}
        except Failed as failed:
            reply = {"error": failed.error}
        except Exception as error:  # noqa: BLE001 - the runner shows whatever went wrong here
            reply = {"error": {"reason": "DRIVER", "message": f"{type(error).__name__}: {error}"}}
        with guard:
            print(json.dumps({"id": request["id"], **reply}), flush=True)

    with ThreadPoolExecutor(THREADS) as threads:
        for line in sys.stdin:
            threads.submit(serve, line)
    clients.close_all()


if __name__ == "__main__":
    main()
