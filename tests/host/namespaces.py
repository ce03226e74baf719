"""Network namespaces on a bridge, which the test can reach too."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from host_tools import run


class Namespaces:
    """Network namespaces, by the name of the node that runs in each.

    Attributes:
        hosts: Address of each node. An address is used once, so a node that comes again has another one.
        gateway: Address of the test on the bridge.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        pid = os.getpid()
        self._bridge = f"cq{pid}"
        self._net = f"10.{64 + pid % 128}.{pid // 128 % 256}"
        self._names = names
        self._numbers = itertools.count(1)
        self.hosts: dict[str, str] = {}
        self.gateway = f"{self._net}.254"

    def __enter__(self) -> Self:
        try:
            run("ip", "link", "add", self._bridge, "type", "bridge")
            run("ip", "addr", "add", f"{self.gateway}/24", "dev", self._bridge)
            run("ip", "link", "set", self._bridge, "up")
            for name in self._names:
                self.add(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # which goes on if one cannot be removed
            stack.callback(self._remove_link, self._bridge)
            for name in list(self.hosts):
                stack.callback(self.remove, name)

    def add(self, name: str) -> str:
        """Makes the namespace of a node and returns its address."""
        number = next(self._numbers)
        assert number < 254, "no address is left"
        space, outer, inner = self.space(name), f"{self._bridge}o{number}", f"{self._bridge}i{number}"
        host = self.hosts[name] = f"{self._net}.{number}"
        run("ip", "netns", "add", space)
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        run("ip", "link", "set", inner, "netns", space)
        run("ip", "link", "set", outer, "master", self._bridge, "up")
        self._in(name, "ip", "addr", "add", f"{host}/24", "dev", inner)
        self._in(name, "ip", "link", "set", inner, "up")
        self._in(name, "ip", "link", "set", "lo", "up")
        return host

    def remove(self, name: str) -> None:
        """Removes the namespace of a node, and with it the node's end of the network."""
        number = int(self.hosts.pop(name).rpartition(".")[2])
        try:
            # At once; the kernel removes a namespace when it gets around to it.
            self._remove_link(f"{self._bridge}o{number}")
        finally:
            if Path("/run/netns", self.space(name)).exists():
                run("ip", "netns", "del", self.space(name))

    def space(self, name: str) -> str:
        """Returns the name of the namespace of a node."""
        return f"{self._bridge}-{name}"

    def prefix(self, name: str) -> list[str]:
        """Returns the prefix of a command that runs in the namespace of a node."""
        return ["ip", "netns", "exec", self.space(name)]

    def drop(self, rules: dict[str, list[str]]) -> None:
        """Sets the packets that each node drops on input, given as nft matches by node."""
        for name in self.hosts:
            self._in(name, "nft", "flush", "ruleset")
            if rules.get(name):
                self._in(name, "nft", "add", "table", "inet", "faults")
                chain = "{ type filter hook input priority 0 ; }"
                self._in(name, "nft", "add", "chain", "inet", "faults", "input", chain)
                for match in rules[name]:
                    self._in(name, "nft", "add", "rule", "inet", "faults", "input", *match.split(), "drop")

    def _remove_link(self, link: str) -> None:
        if Path("/sys/class/net", link).exists():
            run("ip", "link", "del", link)

    def _in(self, name: str, *command: str) -> None:
        run(*self.prefix(name), *command)
