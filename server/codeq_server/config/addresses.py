"""Forms of addresses: listeners, servers, origins of web pages, and members of a cluster."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from codeq_server.config.forms import Form, Listed, Text
from codeq_server.config.given import Given
from codeq_server.core.ids import SHARDS_MAX

ORIGINS_MAX: Final = 64
"""Maximum number of configured origins of web pages."""

SERVERS_MAX: Final = 16
"""Maximum number of a gateway's configured servers."""

PEERS_MAX: Final = 9
"""Maximum number of configured members: five tolerate two failures, and every further one slows down all writes."""

PORT_MAX: Final = 65535
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Pattern of a member's name."""

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*):(?P<port>[0-9]{1,5})")
_DOMAIN: Final = re.compile(r"(?![0-9.]+$)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:.]+|[A-Za-z0-9._-]*")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Address:
    """Address that a listener binds to.

    Attributes:
        host: Name or IP address without brackets; empty: all interfaces.
        port: Port; 0: any free one.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Host(Form[str]):
    """A host name or an IP address, with or without brackets; empty: all interfaces."""

    expects = "a host name or an IP address"
    values = "host name or IP address"

    def parse(self, value: object) -> str | None:
        """Returns the host without brackets."""
        return _host(value.strip()) if isinstance(value, str) else None


class Listener(Form[Address]):
    """An address to listen on."""

    expects = "host:port or :port"
    values = "`host:port` or `:port`"

    def parse(self, value: object) -> Address | None:
        """Returns the address."""
        match = _ADDRESS.fullmatch(value.strip()) if isinstance(value, str) else None
        host = None if match is None else _host(match["host"])
        return Address(host, int(match["port"])) if match and host is not None and _is_port(match["port"]) else None

    def show(self, value: Address) -> object:
        """Returns the address as text."""
        return str(value)


class OptionalListener(Form[Address | None]):
    """An address to listen on; empty: no listener."""

    expects = "host:port, :port or empty"
    values = "`host:port`, `:port` or empty"
    nothing = ""
    takes_empty = True
    _listener = Listener()

    def read(self, given: Given) -> Address | None:
        """Returns the address; None: no listener."""
        if isinstance(given.value, str) and not given.value.strip():
            return None
        address = self._listener.parse(given.value)
        if address is None:
            raise self.error(given)
        return address

    def show(self, value: Address | None) -> object:
        """Returns the address as text."""
        return str(value)


class Domain(Form[str]):
    """A DNS domain with a port: hosts have names in the domain, and listen on the port; empty: none."""

    expects = "domain:port, as codeq-members:7000"
    values = "`domain:port`"
    nothing = ""

    def parse(self, value: object) -> str | None:
        """Returns the domain and the port."""
        if value == "":
            return ""
        found = _dialled(value.strip()) if isinstance(value, str) else None
        return found if found is not None and _DOMAIN.fullmatch(found.rpartition(":")[0]) else None


class Members(Form[Mapping[str, str]]):
    """Addresses of members by name: a mapping, or a text `name=address,name=address`; each address only once.

    Args:
        one: Returns an address in its normal form; None: the address is malformed.
        example: An address.
        most: Maximum number of members.
    """

    def __init__(self, one: Callable[[str], str | None], example: str, most: int = PEERS_MAX) -> None:
        self._one, self._example, self._most = one, example, most
        self.expects = f"name={example},… or a mapping, with at most {most} names"
        self.values = f"`name={example},…` or a mapping (JSON in the environment); up to {most}"

    def read(self, given: Given) -> Mapping[str, str]:
        """Returns the addresses by name; an error names the member."""
        found: dict[str, str] = {}
        for member, text in self._pairs(given):
            address = self._one(text.strip()) if isinstance(text, str) else None
            if not isinstance(member, str) or re.fullmatch(NAME, member) is None:
                raise given.error(f"{str(member)[:80]!r} is not a valid member name; it must be {MEMBER.expects}")
            if address is None:
                raise given.error(f"the address of {member} must be like {self._example}")
            if member in found:
                raise given.error(f"{member} is given twice")
            if address in found.values():
                raise given.error(f"{member}: {address} is given twice")
            found[member] = address
        if len(found) > self._most:
            raise given.error(f"has {len(found)} members; at most {self._most} are allowed")
        return MappingProxyType(found)

    def show(self, value: Mapping[str, str]) -> object:
        """Returns a mapping."""
        return dict(value)

    def _pairs(self, given: Given) -> list[tuple[object, object]]:
        if isinstance(given.value, dict):
            return list(given.value.items())
        if not isinstance(given.value, str):
            raise self.error(given)
        text = given.value.strip()
        if text.startswith("{"):
            try:
                return list(json.loads(text, object_pairs_hook=list))
            except (ValueError, RecursionError) as error:
                raise given.error(f"is not valid JSON: {error}") from None
        found: list[tuple[object, object]] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, address = part.partition("=")
            if not equals:
                raise self.error(given)
            found.append((name.strip(), address))
        return found


class Nodes(Members):
    """Addresses of the nodes of a static cluster; also as a list of mappings with `id` and `grpcAddr`."""

    def _pairs(self, given: Given) -> list[tuple[object, object]]:
        value = given.value
        if isinstance(value, str) and value.strip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise given.error(f"is not valid JSON: {error}") from None
        if not isinstance(value, list):
            return super()._pairs(given)
        for node in value:
            if not isinstance(node, dict) or node.keys() != {"id", "grpcAddr"}:
                raise given.error("each node of the list must have id and grpcAddr, and nothing else")
        return [(node["id"], node["grpcAddr"]) for node in value]


MEMBER: Final = Text(1, pattern=NAME, expects="a name of letters, digits, `.`, `_` and `-`, at most 64")


def _host(text: str) -> str | None:
    """Returns a host without brackets; None: the host is malformed."""
    host = text.removeprefix("[").removesuffix("]")
    if _HOST.fullmatch(text) is None:
        return None
    try:
        return str(host) if ":" not in host or ipaddress.IPv6Address(host) else None
    except ValueError:
        return None


def _is_port(text: str) -> bool:
    return int(text) <= PORT_MAX


def _dialled(text: str) -> str | None:
    """Returns an address to connect to, which needs a host and a port; None: the address is malformed."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not match["host"] or not 0 < int(match["port"]) <= PORT_MAX:
        return None
    return f"{match['host']}:{int(match['port'])}"


def is_loopback(host: str) -> bool:
    """Returns whether a host can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(text: str) -> str | None:
    """Returns an origin as browsers write it, without a path or a default port; None: the text is malformed."""
    origin = text.lower()
    omitted = _DEFAULT_PORTS.get(origin.partition(":")[0], "/")
    return origin if _ORIGIN.fullmatch(origin) and not origin.endswith(omitted) else None


def _base_url(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    plain = parts.scheme in {"http", "https"} and parts.hostname and port != 0 and not parts.query + parts.fragment
    return text.rstrip("/") if plain and "@" not in parts.netloc and not re.search(r"\s", text) else None


SERVERS: Final = Listed(_dialled, "servers", "host:9092", SERVERS_MAX)
ORIGINS: Final = Listed(_origin, "origins", "https://console.example, without a path or a default port", ORIGINS_MAX)
PEERS: Final = Members(_dialled, "host:7000")
PEER_SERVERS: Final = Members(_dialled, "host:9092")
NODES: Final = Nodes(_dialled, "host:9090", SHARDS_MAX)
PEER_URLS: Final = Members(_base_url, "http://host:8080")
