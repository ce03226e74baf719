"""Circuits: a host that keeps failing is left alone for a while, then tried with one request at a time."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

FAILURES_MAX: Final = 5
"""Failures in a row that open a host's circuit."""

FIRST_PROBE_MS: Final = 5_000
"""Time from the opening of a circuit to the first probe; it doubles with each probe that fails."""

LAST_PROBE_MS: Final = 60_000
"""Longest time between two probes."""

PER_HOST_MAX: Final = 16
"""Maximum number of requests to a host at a time."""

FULL_WAIT_MS: Final = 20
"""Time after which a host with as many requests as it may have is looked at again."""

HOSTS_MAX = 10_000
"""Hosts that are remembered; beyond, the one that was used least recently is forgotten, unless a request is running."""


class _Host:
    """One host.

    Attributes:
        running: Requests in flight.
        failures: Failures since the last success.
        probe_ms: Time of the next probe, in milliseconds; 0: the circuit is closed.
    """

    __slots__ = ("failures", "probe_ms", "running")

    def __init__(self) -> None:
        self.running = 0
        self.failures = 0
        self.probe_ms = 0


class Circuits:
    """The circuits of all hosts. Times are milliseconds of a monotonic clock, passed by the caller."""

    def __init__(self) -> None:
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._open = 0

    def __len__(self) -> int:
        """Returns the number of hosts that are remembered."""
        return len(self._hosts)

    @property
    def open(self) -> int:
        """Number of open circuits."""
        return self._open

    def wait_ms(self, host: str, now_ms: int) -> int:
        """Returns the time until a request to the host may begin; 0: now."""
        known = self._hosts.get(host)
        if known is None:
            return 0
        if not known.probe_ms:
            return FULL_WAIT_MS if known.running >= PER_HOST_MAX else 0
        if known.running:
            return max(FULL_WAIT_MS, known.probe_ms - now_ms)
        return max(0, known.probe_ms - now_ms)

    def left_alone_until_ms(self, host: str) -> int:
        """Returns the time of the next probe of a host that keeps failing; 0: it is not left alone."""
        known = self._hosts.get(host)
        return 0 if known is None else known.probe_ms

    def probe_now(self, host: str, now_ms: int) -> None:
        """Allows the next probe of a host at once, if it is left alone."""
        known = self._hosts.get(host)
        if known is not None and known.probe_ms > now_ms:
            known.probe_ms = max(now_ms, 1)

    def begin(self, host: str) -> None:
        """Counts a request that begins."""
        known = self._hosts.get(host)
        if known is None:
            self._make_room()
            known = self._hosts[host] = _Host()
        self._hosts.move_to_end(host)
        known.running += 1

    def end(self, host: str, now_ms: int, *, failed: bool | None) -> None:
        """Counts the end of a request.

        Args:
            host: The host.
            now_ms: The time.
            failed: Whether it failed; None: that is not known, since the request was given up.
        """
        known = self._hosts[host]
        known.running -= 1
        if failed is None:
            return
        if not failed:
            self._open -= known.probe_ms > 0
            known.failures = known.probe_ms = 0
            return
        if now_ms < known.probe_ms:
            return  # a request that was running when the circuit opened is no probe
        known.failures += 1
        steps = known.failures - FAILURES_MAX
        if steps >= 0:
            self._open += known.probe_ms == 0
            known.probe_ms = now_ms + min(LAST_PROBE_MS, FIRST_PROBE_MS << min(steps, 8))

    def _make_room(self) -> None:
        """Forgets the host that was used least recently, unless requests to it are running."""
        for _ in range(len(self._hosts)):
            if len(self._hosts) < HOSTS_MAX:
                return
            host, known = self._hosts.popitem(last=False)
            if known.running:
                self._hosts[host] = known
            else:
                self._open -= known.probe_ms > 0
