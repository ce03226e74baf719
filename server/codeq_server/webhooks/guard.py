"""The guard against server-side request forgery: where requests to tenants' URLs may go.

A URL is checked when it is given, as far as it can be: its form, its port and a literal address. A name is checked
whenever it is resolved, with all its addresses, and every connection by the address it is made to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from codeq_server.config import Settings
from codeq_server.webhooks.addresses import Ip, Network, internal_kind, is_within

URL_BYTES_MAX: Final = 2048
"""Maximum length of a URL."""
URLS_KEPT: Final = 4096
"""URLs whose parts, or whose verdict, are kept: many requests go to the same URL."""

_PORTS: Final = {"http": 80, "https": 443}
_VISIBLE: Final = re.compile(r"[!-\[\]-~]+")
"""ASCII without spaces, control characters and backslashes, which parsers of URLs disagree about."""

_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?")
_NUMBER: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)")
_LOOPBACK: Final[tuple[Network, ...]] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
_EVERY_PORT: Final = ((1, 65535),)


class RefusedAddressError(OSError):
    """The guard refused an address; the text names it and the reason."""


class Guard(NamedTuple):
    """Where requests may go.

    Attributes:
        requires_https: Whether URLs of http:// are refused.
        networks: Networks that are allowed although they are not public.
        hosts: Names that are allowed with any address; `*.example.com` stands for all names below it.
        ports: Ranges of allowed ports, both ends included.
    """

    requires_https: bool
    networks: tuple[Network, ...]
    hosts: tuple[str, ...]
    ports: tuple[tuple[int, int], ...]

    def check_url(self, url: str) -> str:
        """Returns what is wrong with a URL, in words that follow the field's name; empty: nothing can be seen yet."""
        problem = check_form(url)
        if problem:
            return problem
        parts = urlsplit(url)
        if self.requires_https and parts.scheme != "https":
            return "must be an https:// URL"
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if not any(least <= port <= most for least, most in self.ports):
            return f"must not use port {port}"
        return self._check_host(parts)

    def check_address(self, address: str) -> str:
        """Returns why an address is refused, as "refused address 10.0.0.1 (private)"; empty: it is allowed."""
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return f"refused address {address} (malformed)"
        kind = internal_kind(ip)
        return "" if not kind or is_within(ip, self.networks) else f"refused address {address} ({kind})"

    def check_addresses(self, addresses: Sequence[str]) -> None:
        """Checks all addresses of a name.

        Raises:
            RefusedAddressError: One of them is refused.
        """
        for address in addresses:
            problem = self.check_address(address)
            if problem:
                raise RefusedAddressError(problem)

    def trusts(self, host: str) -> bool:
        """Returns whether the operator allows a name with any address."""
        name = host.lower().removesuffix(".")
        return any(name.endswith(each[1:]) if each.startswith("*.") else name == each for each in self.hosts)

    def _check_host(self, parts: SplitResult) -> str:
        host = (parts.hostname or "").lower()
        literal = _literal(host, bracketed="[" in parts.netloc)
        if literal is None:
            if _NAME.fullmatch(host) is None:
                return "must have a valid host name"
            # Resolvers take 2130706433, 0x7f.1 and 127.1 for addresses; whatever ends in a number must be a plain one.
            if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
                return "must write an IPv4 address as four decimal numbers"
            return ""
        problem = "" if self.trusts(host) else self.check_address(str(literal))
        return problem and f"must not lead to an internal network: {problem}"


def check_form(url: str) -> str:
    """Returns what is wrong with the form of a URL, wherever it leads, in words that follow the field's name."""
    if len(url.encode("utf-8", "surrogatepass")) > URL_BYTES_MAX:
        return f"must have at most {URL_BYTES_MAX} bytes"
    try:
        parts = urlsplit(url)
        is_plain = parts.port is None or parts.port >= 0
    except ValueError:
        is_plain = False
    if not is_plain or parts.scheme not in _PORTS or not parts.hostname or _VISIBLE.fullmatch(url) is None:
        return "must be an http:// or https:// URL with a host, in ASCII and without spaces"
    return "must not contain a user name or password" if "@" in parts.netloc else ""


def guard_of(settings: Settings) -> Guard:
    """Returns the guard that the settings ask for; with --dev it allows loopback, and every port."""
    networks = tuple(ipaddress.ip_network(each) for each in settings.webhook_allowed_networks)
    return Guard(
        settings.webhook_require_https,
        (*networks, *_LOOPBACK) if settings.dev else networks,
        settings.webhook_allowed_hosts,
        _EVERY_PORT if settings.dev else tuple(_range(each) for each in settings.webhook_allowed_ports),
    )


@lru_cache(URLS_KEPT)
def host_of(url: str) -> str:
    """Returns the host and port of a URL, as `host:port` in lower case; an IPv6 address is in brackets, as in URLs."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if ":" in host:
        host = f"[{_literal(host, bracketed=True) or host}]"
    return f"{host}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    return int(least), int(most or least)


def _literal(host: str, *, bracketed: bool) -> Ip | None:
    """Returns the address that a URL's host is, in its plain notation; None: it is none."""
    try:
        return ipaddress.IPv6Address(host) if bracketed else ipaddress.IPv4Address(host)
    except ValueError:
        return None
