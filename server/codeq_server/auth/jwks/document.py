"""Fetches an issuer's keys over HTTP, trusting nothing about the answer."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from codeq_server.auth.jwks.config import JwksConfig
from codeq_server.auth.jwks.keys import KeySet, key_set

BODY_BYTES_MAX: Final = 64 * 1024
"""Maximum size of an answer."""

REDIRECTS_MAX: Final = 3
"""Maximum redirects of one request; they must stay at the same scheme, host and port."""

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
"""Path of an issuer's OpenID configuration below its URL."""

_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "codeq"}
_DETAILS_MAX: Final = 200
"""Maximum characters of a library's message, which may repeat parts of an answer."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class FetchError(Exception):
    """A document cannot be fetched; the text names the host and the reason."""


class KeyDocument:
    """The document with an issuer's keys. Proxies of the environment are not used."""

    def __init__(self, config: JwksConfig) -> None:
        """Creates it without fetching anything.

        Raises:
            OSError: The file with CAs cannot be read, or holds none (ssl.SSLError).
        """
        self._config = config
        if config.ca_file is not None:
            self._tls()

    async def load(self) -> KeySet:
        """Returns the keys.

        Raises:
            FetchError: No acceptable answer came in time.
            KeySetError: The answer has no usable keys.
        """
        try:
            async with asyncio.timeout(self._config.http_timeout):
                return key_set(await self._fetched(), self._config.algorithms)
        except TimeoutError:
            raise FetchError(f"no answer within {self._config.http_timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(f"{type(error).__name__}: {str(error)[:_DETAILS_MAX]}") from None

    async def _fetched(self) -> object:
        tls = await asyncio.to_thread(self._tls)  # reads the CAs anew, which may have been replaced
        connector = aiohttp.TCPConnector(ssl=tls, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            trust_env=False,
        ) as session:
            url = URL(self._config.jwks_url) if self._config.jwks_url else await self._discovered(session)
            return await _json(session, url)

    async def _discovered(self, session: aiohttp.ClientSession) -> URL:
        """Returns the URL of the keys from the issuer's OpenID configuration, which has to be that of our issuer."""
        url = URL(self._config.issuer.rstrip("/") + DISCOVERY_PATH)
        found = await _json(session, url)
        if not isinstance(found, dict) or found.get("issuer") != self._config.issuer:
            raise FetchError(f"{url.host}: the OpenID configuration is of another issuer")
        try:
            keys = URL(str(found.get("jwks_uri", "")))
        except ValueError:
            keys = URL()
        if not keys.host or keys.scheme not in {"https", url.scheme}:
            raise FetchError(f"{url.host}: the OpenID configuration has no `jwks_uri` with {url.scheme}")
        return keys

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._config.ca_file)


async def _json(session: aiohttp.ClientSession, url: URL) -> object:
    """Returns the JSON document at a URL."""
    origin = url.origin()
    for _ in range(REDIRECTS_MAX + 1):
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status in _REDIRECTS:
                url = url.join(URL(answer.headers.get("Location", "")))
                if url.host is None or url.origin() != origin:
                    raise FetchError(f"{origin.host}: redirects to another host, which is not followed")
                continue
            return await _body(answer, origin.host)
    raise FetchError(f"{origin.host}: redirects more than {REDIRECTS_MAX} times")


async def _body(answer: aiohttp.ClientResponse, host: str | None) -> object:
    if answer.status != 200:
        raise FetchError(f"{host}: HTTP status {answer.status}")
    kind = answer.content_type
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise FetchError(f"{host}: the answer is {kind[:80]!r}, not JSON")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"{host}: the answer is compressed, which was not asked for")
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise FetchError(f"{host}: the answer is longer than {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise FetchError(f"{host}: the answer is not valid JSON") from None
