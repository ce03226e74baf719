"""One REST call after the other to one server; every failure becomes a Failure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from codeq_cli import json_text
from codeq_cli.failures import ExitCode, Failure, configuration_failure, connection_failure, usage_failure

CONNECT_SECONDS_MAX: Final = 5.0
"""Time for the connection to be made."""

REPLY_SECONDS_MAX: Final = 30.0
"""Time between two pieces of the reply, on top of the wait that the request asks for."""

REPLY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bound of a reply. The largest in use, a task with its result, is a little over 2 MiB."""

REDIRECTS_MAX: Final = 3
"""Times that a call goes on to the leader that a node names: more often, and they do not know who leads."""

_TEXT_LENGTH_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Server:
    """A server and who calls it.

    Attributes:
        endpoint: URL in front of the API's paths.
        token: Bearer token; None: calls carry none.
    """

    endpoint: str
    token: str | None

    def call(
        self,
        method: str,
        path: str,
        *,
        body: str | None = None,
        query: Mapping[str, str | int] | Mapping[str, str | int | list[str]] | None = None,
        wait_seconds: int = 0,
    ) -> str | None:
        """Makes one call.

        Args:
            method: HTTP method.
            path: Path behind /v1/codeq, already quoted.
            body: JSON text, sent byte for byte.
            query: Parameters of the query.
            wait_seconds: Time that the server may take before it answers.

        Returns:
            The JSON text of the reply; None: the server answered 204, there is none.

        Raises:
            Failure: The call could not be made, got no usable reply, or was refused.
        """
        status, content = self._send(method, path, body, query or {}, wait_seconds)
        return None if status == httpx.codes.NO_CONTENT else content.decode(errors="replace")

    def download(self, path: str) -> bytes:
        """Returns the body of a reply that is a file.

        Raises:
            Failure: As `call`.
        """
        return self._send("GET", path, None, {}, 0)[1]

    def _send(
        self, method: str, path: str, body: str | None, query: Mapping[str, str | int | list[str]], wait_seconds: int
    ) -> tuple[int, bytes]:
        headers = {"Accept": "*/*", "User-Agent": "codeq-cli"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            content = None if body is None else body.encode()
        except UnicodeEncodeError:
            raise usage_failure("an argument is not valid UTF-8") from None
        timeout = httpx.Timeout(REPLY_SECONDS_MAX + wait_seconds, connect=CONNECT_SECONDS_MAX)
        try:
            with self._client(timeout) as client:
                url = httpx.URL(f"{self.endpoint.rstrip('/')}/v1/codeq{path}", params=query or None)
                for left in reversed(range(REDIRECTS_MAX + 1)):
                    with client.stream(method, url, content=content, headers=headers) as response:
                        reply = _read(response)
                    leader = _leader(response, reply) if left else None
                    if leader is None:
                        break
                    url = leader
        except httpx.TimeoutException:
            raise connection_failure(f"no reply from {self.endpoint} in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise connection_failure(f"{self.endpoint}: {str(error) or type(error).__name__}") from None
        if not response.is_success:
            raise _refusal(response, reply.decode(errors="replace"))
        return response.status_code, reply

    @staticmethod
    def _client(timeout: httpx.Timeout) -> httpx.Client:
        try:
            return httpx.Client(timeout=timeout)
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            raise configuration_failure(f"proxy or certificate settings of the environment: {error}") from None


def members_of(reply: str | None) -> dict[str, str]:
    """Returns the members of a reply, or of a part of one, each as its JSON text.

    Raises:
        Failure: There is none, or it is not a JSON object.
    """
    try:
        return json_text.members(reply or "")
    except ValueError:
        raise connection_failure("the reply is not what a codeq server answers; check the endpoint") from None


def pages(
    server: Server, path: str, query: Mapping[str, str | int | list[str]], name: str, most: int | None = None
) -> list[str]:
    """Returns the items of a list, page after page: each as its JSON text.

    Args:
        server: Who has it.
        path: Path of the list.
        query: Its filters.
        name: Member of a page that holds its items.
        most: Items wanted; None: all.

    Raises:
        Failure: A call failed, or answers are no pages.
    """
    items: list[str] = []
    token = ""
    seen = set()
    while token not in seen:
        seen.add(token)
        page = members_of(server.call("GET", path, query={**query, **({"pageToken": token} if token else {})}))
        try:
            items += json_text.elements(page.get(name, "[]"))
            token = str(json.loads(page.get("nextPageToken", '""')))
        except ValueError:
            raise connection_failure(f"the reply is not a page of {name}; check the endpoint") from None
        if not token or (most is not None and len(items) >= most):
            return items[:most]
    raise connection_failure(f"the server repeats a page of {name}")


def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > REPLY_BYTES_MAX:
            raise connection_failure(f"the reply is larger than {REPLY_BYTES_MAX} bytes")
    return bytes(content)


def _leader(response: httpx.Response, reply: bytes) -> httpx.URL | None:
    """Returns where the call is carried out, when a node of a cluster says that another one leads."""
    if response.status_code != httpx.codes.TEMPORARY_REDIRECT or b"NOT_LEADER" not in reply:
        return None
    leader = response.url.join(response.headers.get("Location", ""))
    safe = leader.scheme in {"http", "https"} and (leader.scheme == "https" or response.url.scheme == "http")
    return leader if safe and leader != response.url else None


def _refusal(response: httpx.Response, text: str) -> Failure:
    """Returns the failure that the server's error body tells, or its status where there is no such body."""
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
        if isinstance(body, dict) and isinstance(body.get("error"), str) and isinstance(body.get("reason"), str):
            return Failure(body["error"][:_TEXT_LENGTH_MAX], body["reason"], ExitCode.REFUSED, text)
    status = f"{response.status_code} {response.reason_phrase}".strip()
    return Failure(f"the server answered {status}", f"HTTP_{response.status_code}", ExitCode.REFUSED)
