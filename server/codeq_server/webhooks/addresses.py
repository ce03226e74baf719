"""Which network addresses are public.

The list is our own, since `ipaddress.is_global` lets several internal addresses through.
"""

from __future__ import annotations

import ipaddress
from typing import Final

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_INTERNAL: Final = [
    (ipaddress.IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "cloud metadata"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "AMT relay"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmark"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
]
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_INTERNAL_V6: Final = [
    (ipaddress.IPv6Network(network), kind)
    for network, kind in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112"),
        ("3ffe::/16", "reserved"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
]
_EMBEDDING: Final = [
    (ipaddress.IPv6Network(network), kind)
    for network, kind in (("::ffff:0:0/96", "IPv4-mapped"), ("64:ff9b::/96", "NAT64"))
]
"""Networks whose addresses stand for the IPv4 address in their last four bytes, and lead there."""


def internal_kind(address: Ip) -> str:
    """Returns why an address is not a public one, such as "private"; empty: it is public."""
    if isinstance(address, ipaddress.IPv4Address):
        return next((kind for network, kind in _INTERNAL if address in network), "")
    inner, through = _embedded(address)
    if inner is not None:
        kind = internal_kind(inner)
        return kind and f"{through} of {inner}, {kind}"
    kind = next((kind for network, kind in _INTERNAL_V6 if address in network), "")
    if kind or address in _GLOBAL_UNICAST:
        return kind
    return "reserved"


def is_within(address: Ip, networks: tuple[Network, ...]) -> bool:
    """Returns whether an address, or the IPv4 address that it stands for, is in one of the networks."""
    inner = _embedded(address)[0] if isinstance(address, ipaddress.IPv6Address) else None
    return any(each in network for network in networks for each in (address, inner) if each is not None)


def _embedded(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address | None, str]:
    """Returns the IPv4 address that an IPv6 address leads to, and through what."""
    for network, kind in _EMBEDDING:
        if address in network:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF), kind
    return None, ""
