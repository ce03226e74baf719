"""Sequential REST calls to a server or cluster; every error becomes a Failure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from codeq_cli import json_text
from codeq_cli.failures import ExitCode, Failure, connection_failure, usage_failure

if TYPE_CHECKING:
    from codeq_cli.transport import Response

REPLY_SECONDS_MAX: Final = 30.0
"""Longest gap between two reads of the reply, on top of the wait that the request asks for."""

REDIRECTS_MAX: Final = 3
"""Maximum redirects to a leader that a node names; if more are needed, the nodes disagree about the leader."""

Query = Mapping[str, str | int | list[str]]
"""Query parameters."""

_TEXT_LENGTH_MAX: Final = 500
_NO_CONTENT: Final = 204
_SUCCESS: Final = range(200, 300)
_REDIRECT: Final = 307
_ELSEWHERE: Final = frozenset({"NOT_LEADER", "SERVER_UNREACHABLE"})
"""Rejections after which another endpoint is tried, because the rejecting one did nothing."""


class Tls(NamedTuple):
    """How https servers are checked.

    Attributes:
        ca: PEM file with the CAs; None: the system's.
        cert: PEM file with the certificate to present; None: none.
        key: PEM file with its private key.
        is_unchecked: Whether any certificate is accepted.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    is_unchecked: bool = False


CHECKED: Final = Tls()
"""The system's CAs, and no certificate."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server, or the nodes of a cluster, with the caller's token.

    Attributes:
        endpoints: Base URLs, tried in order until one is reachable.
        token: Bearer token; None: unauthenticated calls.
        tls: How https servers are checked.
    """

    endpoints: tuple[str, ...]
    token: str | None
    tls: Tls = CHECKED

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
            path: Path below /v1/codeq, already quoted.
            body: JSON text, sent byte for byte.
            query: Query parameters.
            wait_seconds: Time that the server may wait before it answers.

        Returns:
            The JSON text of the reply; None: the server answered 204, without content.

        Raises:
            Failure: The call could not be made, got no usable reply, or was rejected.
        """
        reply = self._send(_Request(method, path, query or {}, body, wait_seconds))
        return None if reply.status == _NO_CONTENT else reply.content.decode(errors="replace")

    def download(self, path: str) -> bytes:
        """Returns the body of a reply that is a file.

        Raises:
            Failure: As in `call`.
        """
        return self._send(_Request("GET", path, {}, None, 0)).content

    def _send(self, request: _Request) -> _Reply:
        """Returns the reply of the first endpoint that serves the request.

        Tries the next endpoint only if this endpoint certainly did not process the request, or if the request is a GET.
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
                return _ask(endpoint, request, content, headers, self.tls)
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


class _NotCarriedOut(Exception):  # noqa: N818 - not an error yet: the next endpoint may serve the request
    """Another endpoint may be tried without processing the request twice."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


def _ask(endpoint: str, request: _Request, content: bytes | None, headers: Mapping[str, str], tls: Tls) -> _Reply:
    """Sends a request to an endpoint, following its redirects to the leader.

    Raises:
        _NotCarriedOut: Another endpoint may be tried.
        Failure: The request failed.
    """
    # Imported here, so that commands that call no server do not pay for it.
    from codeq_cli.transport import ExchangeError, exchange, origin

    query = f"?{urlencode(request.query, doseq=True)}" if request.query else ""
    asked = url = f"{endpoint.rstrip('/')}/v1/codeq{request.path}{query}"
    try:
        for left in reversed(range(REDIRECTS_MAX + 1)):
            response = exchange(request.method, url, content, headers, REPLY_SECONDS_MAX + request.wait_seconds, tls)
            leader = _leader(url, response) if left else None
            if leader is None:
                break
            url = leader
    except ExchangeError as error:
        named = "" if url == asked else f" (the leader named by {origin(asked)})"
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
    """Returns the members of a reply, or of part of one, each as its JSON text.

    Raises:
        Failure: The reply is missing or not a JSON object.
    """
    try:
        return json_text.members(reply or "")
    except ValueError:
        raise connection_failure("the reply does not look like a codeq server's; check the endpoint") from None


@dataclass(frozen=True, slots=True)
class Items:
    """Items of a list.

    Attributes:
        texts: The items, each as its JSON text.
        next_page_token: Token of the next page; empty: no more items.
        others: What the last page has besides, by name, each as its JSON text.
    """

    texts: list[str]
    next_page_token: str
    others: Mapping[str, str] = field(default_factory=dict)


def pages(server: Server, path: str, query: Query, name: str, most: int | None = None) -> Items:
    """Returns the items of a list, fetched page by page.

    Args:
        server: Server to call.
        path: Path of the list.
        query: Filters, page size and first page token.
        name: Member of a page that holds its items.
        most: Maximum number of items to return; None: all.

    Raises:
        Failure: A call failed, or a reply is not a page.
    """
    items: list[str] = []
    asked = dict(query)
    seen = {asked.get("pageToken", "")}
    while True:
        page = members_of(server.call("GET", path, query=asked))
        try:
            items += json_text.elements(page.pop(name, "[]"))
            token = str(json.loads(page.pop("nextPageToken", '""')))
        except ValueError:
            raise connection_failure(f"the reply is not a page of {name}; check the endpoint") from None
        if not token or (most is not None and len(items) >= most):
            return Items(items, token, page)
        if token in seen:
            raise connection_failure(f"the server repeated a page of {name}")
        seen.add(token)
        asked["pageToken"] = token
        if most is not None:  # limit the last page, so that its token continues exactly after the last item returned
            asked["pageSize"] = min(int(str(asked["pageSize"])), most - len(items))


def _leader(url: str, response: Response) -> str | None:
    """Returns the leader's URL for the call if a node redirects it; None: no redirect."""
    if response.status != _REDIRECT or b"NOT_LEADER" not in response.content:
        return None
    leader = urljoin(url, response.location)
    scheme = urlsplit(leader).scheme
    safe = scheme == "https" or (scheme == "http" and urlsplit(url).scheme == "http")
    return leader if safe and leader != url else None


def _at_rate_limit(body: dict[str, object]) -> str:
    """Returns what an error body says of a rate limit: whose it is and when to retry; empty: nothing."""
    whose, seconds = body.get("subject"), body.get("retryAfterSeconds")
    if not isinstance(whose, str) or not isinstance(seconds, int):
        return ""
    return f" for the {whose[:_TEXT_LENGTH_MAX]}; try again in {seconds} s"


def _refusal(response: Response, by: str) -> Failure:
    """Returns the failure in the server's error body, or a failure for its status if it sent no error body.

    `by` names the server that answered, if it is not the endpoint.
    """
    text = response.content.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
        if isinstance(body, dict) and isinstance(body.get("error"), str) and isinstance(body.get("reason"), str):
            said = body["error"][:_TEXT_LENGTH_MAX] + _at_rate_limit(body) + by
            return Failure(said, body["reason"], ExitCode.REFUSED, text)
    status = f"{response.status} {response.phrase}".strip()
    line = text.strip()
    # A line of plain text, such as that of an HTTPS port to plain HTTP; pages and anything else say too much.
    told = f": {line[:_TEXT_LENGTH_MAX]}" if line and line.isprintable() and line[0] not in "<{[" else ""
    return Failure(f"the server answered {status}{by}{told}", f"HTTP_{response.status}", ExitCode.REFUSED)
