"""Checks of addresses: can the server listen on its ports, do names lead somewhere, do members reach each other?"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from codeq_server.config import (
    Address,
    ClusterSettings,
    GatewaySettings,
    ProcessSettings,
    RaftSettings,
    RestSettings,
    Settings,
    is_loopback,
)
from codeq_server.node.listeners import STREAMS, ListenError, conflicts, refuse_taken

from codeq_cli.doctor.findings import Finding, error, fine, warning

PORTS: Final = "ports"
NAMES: Final = "names"
CLUSTER: Final = "cluster"
TLS: Final = "plaintext"

RESOLVE_SECONDS: Final = 5.0
"""Longest wait for all names; they are resolved at the same time."""

PRIVILEGED_PORTS: Final = 1024
_EPHEMERAL: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EVERYWHERE: Final = {"", "0.0.0.0", "::"}  # noqa: S104 - compared, not bound


def check_ports(listeners: dict[str, Address], *, running: bool, ephemeral: str | None = None) -> Iterator[Finding]:
    """Yields findings about the ports to listen on.

    Args:
        listeners: Addresses by variable.
        running: Whether a server has the store open: then it uses the ports, too.
        ephemeral: Content of the kernel's file with the range of ports of outgoing connections; None: it is read.
    """
    for first, second in conflicts(listeners):
        text = f"{first} and {second} name the same port {listeners[second].port}"
        yield error(PORTS, text, f"give {second} a port of its own")
    least, most = _ephemeral_range(ephemeral)
    for name, address in listeners.items():
        yield _port(name, address, running=running)
        if least <= address.port <= most:
            text = f"{name}: port {address.port} is among those of outgoing connections, {least} to {most}"
            remedy = f"choose a port below {least}: another connection may take this one before a restart"
            yield warning(PORTS, text, remedy)


def _ephemeral_range(text: str | None) -> tuple[int, int]:
    """Returns the range of ports of outgoing connections; an empty range if it is unknown."""
    try:
        least, most = map(int, (_EPHEMERAL.read_text() if text is None else text).split())
    except (OSError, ValueError):
        return 1, 0
    return least, most


def _port(name: str, address: Address, *, running: bool) -> Finding:
    try:
        refuse_taken({name: address})
    except ListenError as problem:
        if running:
            return fine(PORTS, f"{name}: {address} is in use, as is the store: a server is running")
        remedy = (
            f"stop the process that uses the port (`ss -ltnp 'sport = :{address.port}'` shows it), or change {name}"
        )
        if address.host and not is_loopback(address.host):
            remedy += "; the host must be an address of this machine"
        if 0 < address.port < PRIVILEGED_PORTS:
            remedy += f"; ports below {PRIVILEGED_PORTS} need CAP_NET_BIND_SERVICE"
        return error(PORTS, str(problem), remedy)
    return fine(PORTS, f"{name}: {address} is free")


def check_plaintext(settings: ProcessSettings, listeners: dict[str, Address]) -> Iterator[Finding]:
    """Yields a finding about listeners without TLS that other machines can reach."""
    plain: dict[str, bool] = {}
    if isinstance(settings, RestSettings):
        plain["PORT"] = settings.http_tls is None
    if isinstance(settings, Settings):
        plain |= dict.fromkeys(STREAMS, settings.grpc_tls is None)
        plain["CLUSTER_GRPC_ADDR"] = settings.grpc_tls is None
        plain["RAFT_BIND_ADDR"] = settings.raft is not None and settings.raft.tls_cert is None
    exposed = [name for name, each in listeners.items() if plain.get(name) and not is_loopback(each.host)]
    if exposed:
        text = f"other machines reach {', '.join(exposed)} without TLS: tokens and payloads can be read on the wire"
        remedy = "set TLS_CERT_FILE and TLS_KEY_FILE, between members RAFT_TLS_CERT, RAFT_TLS_KEY and RAFT_TLS_CA"
        yield warning(TLS, text, f"{remedy}; or let a proxy terminate TLS")


def check_names(settings: ProcessSettings) -> Iterator[Finding]:
    """Yields findings about the names of other machines in the settings."""
    named = {host: key for key, host in _hosts(settings) if host}
    unresolved = _resolve(named)
    for host, why in unresolved.items():
        remedy = f"correct the name, or add it to DNS or /etc/hosts; `getent hosts {host}` shows what it leads to"
        yield error(NAMES, f"{named[host]}: the name {host} leads nowhere: {why}", remedy)
    if named and not unresolved:
        yield fine(NAMES, f"{len(named)} names of other machines lead to addresses")


def _hosts(settings: ProcessSettings) -> Iterator[tuple[str, str | None]]:
    """Yields the variable and the host of each address to connect to."""
    if isinstance(settings, GatewaySettings):
        for server in settings.server_addrs:
            yield "SERVER_ADDRS", host_of(server)
    if isinstance(settings, Settings):
        raft = settings.raft
        for member in () if raft is None else raft.peers.values():
            yield _peers_variable(raft), host_of(member)
        for node in () if settings.cluster is None else settings.cluster.nodes.values():
            yield "CLUSTER_NODES", host_of(node)
        if settings.webhook_proxy:
            yield "WEBHOOK_PROXY", urlsplit(settings.webhook_proxy).hostname
        if settings.tracing_enabled and settings.tracing_otlp_endpoint:
            endpoint = settings.tracing_otlp_endpoint
            yield "TRACING_OTLP_ENDPOINT", urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").hostname


def _peers_variable(raft: RaftSettings | None) -> str:
    """Returns the variable from which the addresses of the members follow."""
    return "RAFT_PEERS_DNS" if raft is not None and raft.peers_dns else "RAFT_PEERS"


def host_of(address: str) -> str:
    """Returns the host of an address, without brackets."""
    return address.rpartition(":")[0].strip("[]")


def _resolve(hosts: Iterable[str]) -> dict[str, str]:
    """Resolves names at the same time; returns why each that leads nowhere does so."""
    failed = dict.fromkeys(hosts, f"no answer within {RESOLVE_SECONDS:.0f} s")

    def resolve(host: str) -> None:
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError) as problem:
            failed[host] = getattr(problem, "strerror", None) or "malformed"
        else:
            del failed[host]

    # Threads that nobody waits for at the exit: the resolver cannot be interrupted.
    threads = [threading.Thread(target=resolve, args=(host,), daemon=True) for host in failed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(RESOLVE_SECONDS)
    return dict(failed)


def check_members(raft: RaftSettings) -> Iterator[Finding]:
    """Yields findings about the addresses of a cluster's members."""
    if raft.peers_dns:
        return  # the peers are those at which the node looks for a cluster
    if len(raft.peers) % 2 == 0:
        text = f"RAFT_PEERS has {len(raft.peers)} members, which tolerate no more failures than {len(raft.peers) - 1}"
        yield warning(CLUSTER, text, "use 3 or 5 members")
    yield from _check_own(raft.self_id, raft.bind_addr, raft.peers, ("RAFT_BIND_ADDR", "RAFT_PEERS", "RAFT_SELF_ID"))


def check_nodes(cluster: ClusterSettings) -> Iterator[Finding]:
    """Yields findings about the addresses of the nodes of a static cluster."""
    variables = ("CLUSTER_GRPC_ADDR", "CLUSTER_NODES", "CLUSTER_SELF_ID")
    yield from _check_own(cluster.self_id, cluster.grpc_addr, cluster.nodes, variables)


def _check_own(
    self_id: str, bound: Address, nodes: Mapping[str, str], variables: tuple[str, str, str]
) -> Iterator[Finding]:
    """Yields findings about the address at which the other nodes reach this one.

    Args:
        self_id: Name of this node.
        bound: Where it listens.
        nodes: Address of each node.
        variables: Those of the three settings.
    """
    of_bound, of_nodes, of_self = variables
    own = host_of(nodes[self_id])
    others = [host_of(address) for name, address in nodes.items() if name != self_id]
    are_elsewhere = not all(map(is_loopback, others))
    if are_elsewhere and bound.host not in _EVERYWHERE and is_loopback(bound.host):
        text = f"{of_bound}: nodes on other machines cannot reach {bound}"
        yield error(CLUSTER, text, f"set {of_bound}=:{bound.port}")
    elif are_elsewhere and is_loopback(own):
        text = f"{of_nodes}: {self_id}={own} is this machine's loopback, and other nodes are elsewhere"
        yield error(CLUSTER, text, f"give {self_id} an address that the other nodes reach, on every node")
    elif not _is_local(own):
        text = f"{of_nodes}: {own}, the address of {self_id}, is not one of this machine"
        remedy = (
            f"correct it or {of_self}; all is well if the address is translated on the way, as with published ports"
        )
        yield warning(CLUSTER, text, remedy)
    else:
        yield fine(CLUSTER, f"{self_id} is one of {len(nodes)} nodes, at {nodes[self_id]}")


def _is_local(host: str) -> bool:
    """Returns whether a host is an address of this machine; True if it leads nowhere, which is another finding."""
    try:
        family, *_, target = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(target)
    except OSError as problem:
        return problem.errno != errno.EADDRNOTAVAIL
    return True
