"""Names of members that differ only in a number, as the pods of a StatefulSet have, and the addresses they imply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from codeq_server.config.addresses import PEERS_MAX

_NUMBERED: Final = re.compile(r"(?P<base>[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)-(?P<number>0|[1-9][0-9]{0,2})")


@dataclass(frozen=True, slots=True)
class NumberedNames:
    """Members BASE-0, BASE-1 and so on, each with a name in one DNS domain and the same port.

    Attributes:
        base: Name of a member without its number.
        number: Number of this node.
        domain: Domain and port, as domain:port.
    """

    base: str
    number: int
    domain: str

    @classmethod
    def of(cls, name: str, domain: str) -> NumberedNames | None:
        """Returns the names to which a node's name belongs; None: it does not end in a number below PEERS_MAX."""
        match = _NUMBERED.fullmatch(name)
        if match is None or int(match["number"]) >= PEERS_MAX:
            return None
        return cls(match["base"], int(match["number"]), domain)

    def first(self, count: int) -> dict[str, str]:
        """Returns the addresses of the first members by name."""
        return {f"{self.base}-{number}": f"{self.base}-{number}.{self.domain}" for number in range(count)}

    def address_of(self, name: str) -> str:
        """Returns the address of a member; empty: its name is not one of these."""
        return self.first(PEERS_MAX).get(name, "")
