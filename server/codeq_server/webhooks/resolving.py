"""Resolves names for the sender, in threads of its own, and lets only allowed addresses through."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from codeq_server.webhooks.guard import Guard

THREADS_MAX: Final = 8
"""Names that are looked up at a time: slow name servers hold up other requests, but nothing else."""

Lookup = Callable[[str, int], Sequence[tuple[Any, ...]]]
"""Looks a name up like `socket.getaddrinfo`, given the name and the port."""


def system_lookup(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """Asks the system's resolver."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class GuardedResolver(AbstractResolver):
    """A resolver that refuses a name if one of its addresses is refused.

    Args:
        guard: The guard; None: every address is allowed.
        lookup: Looks names up; called in a thread.
    """

    def __init__(self, guard: Guard | None, lookup: Lookup) -> None:
        self._guard, self._lookup = guard, lookup
        self._threads = ThreadPoolExecutor(THREADS_MAX, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Returns the addresses of a name.

        Raises:
            OSError: There are none; RefusedAddressError: one of them is refused.
        """
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port)
        addresses = [(kind, str(address[0])) for kind, _, _, _, address in found if family in {kind, socket.AF_UNSPEC}]
        if not addresses:
            raise OSError("the name has no address")
        if self._guard is not None:
            self._guard.check_addresses([address for _, address in addresses])
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=socket.IPPROTO_TCP, flags=flags)
            for kind, address in addresses
        ]

    async def close(self) -> None:
        """Ends the threads; those that still wait for an answer end with it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
