"""One REST call after the other to one server; every failure becomes a Failure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urljoin, urlsplit

from codeq_cli import json_text
from codeq_cli.failures import ExitCode, Failure, connection_failure, usage_failure

if TYPE_CHECKING:
    from codeq_cli.transport import Response

REPLY_SECONDS_MAX: Final = 30.0
"""Time between two pieces of the reply, on top of the wait that the request asks for."""

REDIRECTS_MAX: Final = 3
"""Times that a call goes on to the leader that a node names: more often, and they do not know who leads."""

Query = Mapping[str, str | int | list[str]]
"""Parameters of a query."""

_TEXT_LENGTH_MAX: Final = 500
_NO_CONTENT: Final = 204
_SUCCESS: Final = range(200, 300)
_REDIRECT: Final = 307
_ELSEWHERE: Final = frozenset({"NOT_LEADER", "SERVER_UNREACHABLE"})
"""Reasons of refusals after which another endpoint may carry the call out: the one that was asked did nothing."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server, or the nodes of a cluster, and who calls it.

    Attributes:
        endpoints: URLs in front of the API's paths. The first one is asked, the next one where it is not there.
        token: Bearer token; None: calls carry none.
    """

    endpoints: tuple[str, ...]
    token: str | None

    def call(
        self,
        method: str,
        path: str,
        *,
        body: str | None = None,
        query: Query | None = None,
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
        reply = self._send(_Request(method, path, query or {}, body, wait_seconds))
        return None if reply.status == _NO_CONTENT else reply.content.decode(errors="replace")

    def download(self, path: str) -> bytes:
        """Returns the body of a reply that is a file.

        Raises:
            Failure: As `call`.
        """
        return self._send(_Request("GET", path, {}, None, 0)).content

    def _send(self, request: _Request) -> _Reply:
        """Returns the reply of the first endpoint that carries the request out.

        Another one is asked only where this one surely did not, or where the request changes nothing.
        """
        try:
            content = None if request.body is None else request.body.encode()
        except UnicodeEncodeError:
            raise usage_failure("an argument is not valid UTF-8") from None
        headers = {"Accept": "*/*", "User-Agent": "codeq-cli"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if content is not None:
            headers["Content-Type"] = "application/json"
        failures: list[Failure] = []
        for endpoint in self.endpoints:
            try:
                return _ask(endpoint, request, content, headers)
            except _NotCarriedOut as elsewhere:
                failures.append(elsewhere.failure)
        if len(failures) == 1 or failures[-1].body is not None:
            raise failures[-1]
        raise connection_failure("; ".join(dict.fromkeys(failure.text for failure in failures)))


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: Query
    body: str | None
    wait_seconds: int


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    content: bytes


class _NotCarriedOut(Exception):  # noqa: N818 - the next endpoint may do it
    """The request may be made elsewhere without being carried out twice."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


def _ask(endpoint: str, request: _Request, content: bytes | None, headers: Mapping[str, str]) -> _Reply:
    """Makes a request of an endpoint, and of the leader that it names.

    Raises:
        _NotCarriedOut: Another endpoint may be asked.
        Failure: It failed.
    """
    # Here, so that commands that call no server do not wait for the import.
    from codeq_cli.transport import ExchangeError, exchange, origin

    query = f"?{urlencode(request.query, doseq=True)}" if request.query else ""
    asked = url = f"{endpoint.rstrip('/')}/v1/codeq{request.path}{query}"
    try:
        for left in reversed(range(REDIRECTS_MAX + 1)):
            response = exchange(request.method, url, content, headers, REPLY_SECONDS_MAX + request.wait_seconds)
            leader = _leader(url, response) if left else None
            if leader is None:
                break
            url = leader
    except ExchangeError as error:
        named = "" if url == asked else f" (the leader, as {origin(asked)} says)"
        failure = connection_failure(f"{error}{named}")
        if request.method == "GET" or not error.is_sent:
            raise _NotCarriedOut(failure) from None
        raise failure from None
    if response.status in _SUCCESS:
        return _Reply(response.status, response.content)
    refusal = _refusal(response, "" if url == asked else f" (from {origin(url)})")
    if refusal.reason in _ELSEWHERE:
        raise _NotCarriedOut(refusal)
    raise refusal


def members_of(reply: str | None) -> dict[str, str]:
    """Returns the members of a reply, or of a part of one, each as its JSON text.

    Raises:
        Failure: There is none, or it is not a JSON object.
    """
    try:
        return json_text.members(reply or "")
    except ValueError:
        raise connection_failure("the reply is not what a codeq server answers; check the endpoint") from None


@dataclass(frozen=True, slots=True)
class Items:
    """Items of a list.

    Attributes:
        texts: Each as its JSON text.
        next_page_token: Where the list goes on; empty: these are all that are left.
    """

    texts: list[str]
    next_page_token: str


def pages(server: Server, path: str, query: Query, name: str, most: int | None = None) -> Items:
    """Returns the items of a list, page after page.

    Args:
        server: Who has it.
        path: Path of the list.
        query: Its filters, the size of a page, and where to begin.
        name: Member of a page that holds its items.
        most: Items wanted; None: all.

    Raises:
        Failure: A call failed, or answers are no pages.
    """
    items: list[str] = []
    asked = dict(query)
    seen = {asked.get("pageToken", "")}
    while True:
        page = members_of(server.call("GET", path, query=asked))
        try:
            items += json_text.elements(page.get(name, "[]"))
            token = str(json.loads(page.get("nextPageToken", '""')))
        except ValueError:
            raise connection_failure(f"the reply is not a page of {name}; check the endpoint") from None
        if not token or (most is not None and len(items) >= most):
            return Items(items, token)
        if token in seen:
            raise connection_failure(f"the server repeats a page of {name}")
        seen.add(token)
        asked["pageToken"] = token
        if most is not None:  # the last page is no longer than what is wanted, so that its token leads on from there
            asked["pageSize"] = min(int(str(asked["pageSize"])), most - len(items))


def _leader(url: str, response: Response) -> str | None:
    """Returns where the call is carried out, when a node of a cluster says that another one leads."""
    if response.status != _REDIRECT or b"NOT_LEADER" not in response.content:
        return None
    leader = urljoin(url, response.location)
    scheme = urlsplit(leader).scheme
    safe = scheme == "https" or (scheme == "http" and urlsplit(url).scheme == "http")
    return leader if safe and leader != url else None


def _refusal(response: Response, by: str) -> Failure:
    """Returns the failure that the server's error body tells, or its status where there is no such body.

    `by` tells who refused, where that is not who was asked.
    """
    text = response.content.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
        if isinstance(body, dict) and isinstance(body.get("error"), str) and isinstance(body.get("reason"), str):
            return Failure(body["error"][:_TEXT_LENGTH_MAX] + by, body["reason"], ExitCode.REFUSED, text)
    status = f"{response.status} {response.phrase}".strip()
    return Failure(f"the server answered {status}{by}", f"HTTP_{response.status}", ExitCode.REFUSED)
