"""HTTP exchanges with the standard library, because importing another client would take longer than a call."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from codeq_cli.failures import configuration_failure
from codeq_cli.rest import Tls

CONNECT_SECONDS_MAX: Final = 5.0
"""Timeout for connecting."""

REPLY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest reply accepted, in bytes."""


_HTTP2_SETTINGS: Final = "\0\0"
"""Start of an HTTP/2 server's first frame, by which a gRPC port is recognised."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response.

    Attributes:
        status: HTTP status.
        phrase: Reason phrase of the status.
        location: `Location` header; empty: none.
        content: The body.
    """

    status: int
    phrase: str
    location: str
    content: bytes


class ExchangeError(Exception):
    """No usable reply arrived; the text gives the reason and names the server.

    Attributes:
        is_sent: Whether the server may have received the request.
    """

    def __init__(self, text: str, *, is_sent: bool) -> None:
        super().__init__(text)
        self.is_sent = is_sent


def exchange(
    method: str, url: str, content: bytes | None, headers: Mapping[str, str], reply_seconds: float, tls: Tls
) -> Response:
    """Sends a request and returns the response, whatever its status. Follows no redirects.

    Uses the proxies configured in the environment.

    Args:
        method: HTTP method.
        url: Absolute URL, http or https.
        content: Body; None: no body.
        headers: Headers.
        reply_seconds: Longest gap between two reads of the reply.
        tls: How an https server is checked.

    Raises:
        ExchangeError: No usable reply arrived.
        Failure: The files of TLS cannot be used.
    """
    request = urllib.request.Request(url, data=content, headers=dict(headers), method=method)  # noqa: S310 - checked
    try:
        with _opener(tls).open(request, timeout=reply_seconds) as response:
            body = response.read(REPLY_BYTES_MAX + 1)
            if len(body) > REPLY_BYTES_MAX:
                raise ExchangeError(f"the reply of {origin(url)} is larger than {REPLY_BYTES_MAX} bytes", is_sent=True)
            if response.length:
                raise ExchangeError(f"{origin(url)}: the reply is truncated", is_sent=True)
            return Response(response.status, response.reason or "", response.headers.get("Location", ""), body)
    except urllib.error.URLError as error:
        raise _failed(url, error.reason) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(url, error) from None


def origin(url: str) -> str:
    """Returns scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _failed(url: str, reason: object) -> ExchangeError:
    connected = not isinstance(reason, _NotConnectedError)
    cause = reason.__cause__ if isinstance(reason, _NotConnectedError) else reason
    if isinstance(cause, TimeoutError):
        what = "no reply from" if connected else "no connection to"
        return ExchangeError(f"{what} {origin(url)} in time", is_sent=connected)
    if isinstance(cause, http.client.BadStatusLine) and not isinstance(cause, http.client.RemoteDisconnected):
        is_grpc = str(cause).startswith(_HTTP2_SETTINGS)
        what = "is a gRPC port; REST has a port of its own, by default 8080" if is_grpc else "does not speak HTTP/1.1"
        return ExchangeError(f"{origin(url)} {what}", is_sent=connected)
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return ExchangeError(f"{origin(url)}: {text}", is_sent=connected)


class _NotConnectedError(OSError):
    """The connection failed; the cause is the reason."""


def _connect(connection: http.client.HTTPConnection, connect: Callable[[], None]) -> None:
    """Connects, with a shorter timeout than for a reply."""
    reply_seconds, connection.timeout = connection.timeout, CONNECT_SECONDS_MAX
    try:
        connect()
    except OSError as error:
        raise _NotConnectedError from error
    connection.sock.settimeout(reply_seconds)


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _SecureConnection(http.client.HTTPSConnection):
    def connect(self) -> None:
        _connect(self, super().connect)


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, tls: Tls) -> None:
        super().__init__()
        self._tls = tls

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req, context=_context(self._tls))


def _context(tls: Tls) -> ssl.SSLContext:
    """Returns the context for a server.

    Raises:
        Failure: A file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except OSError as error:
        raise configuration_failure(f"--ca: {tls.ca} has no certificates: {error.strerror or error}") from None
    if tls.is_unchecked:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.cert is not None:
        try:
            # Never ask for a password: the empty one fails at once.
            context.load_cert_chain(tls.cert, tls.key, password="")
        except OSError as error:
            reason = error.strerror or error
            raise configuration_failure(
                f"--cert: {tls.cert} and {tls.key} are not a certificate and its key: {reason}"
            ) from None
    return context


def _opener(tls: Tls) -> urllib.request.OpenerDirector:
    proxies = urllib.request.getproxies()
    proxies |= {scheme: proxies["all"] for scheme in ("http", "https") if "all" in proxies and scheme not in proxies}
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        _HttpHandler(),
        _HttpsHandler(tls),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener
