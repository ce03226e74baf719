"""Keeps an issuer's keys: fresh while tokens come, and in use through the issuer's outages up to a bound."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from codeq_server.auth.jwks.config import KEYS_FETCHED
from codeq_server.auth.jwks.keys import Key, KeySet
from codeq_server.auth.jwks.tokens import Need

REFETCH_SECONDS: Final = 10.0
"""Shortest time between the beginnings of two fetches, whatever they are for."""

ABSENT_SECONDS: Final = 60.0
"""How long a key that the issuer does not have is not looked for again, unless another fetch happens to bring it."""

SOUGHT_KEYS_MAX: Final = 1024
"""Maximum number of such keys; when it is reached, the oldest is forgotten."""

OVERDUE_WAIT_SECONDS = 1.0
"""How long a token waits for fresh keys if there are only old ones; then these are used. It is far shorter than the
longest validation, of which other providers need a part, too."""

Lookup = Callable[[], Awaitable[Key | None]]
"""Returns the key after a fetch; None: the issuer has no such key."""


class KeysUnavailableError(Exception):
    """The keys cannot be fetched at the moment, so a token can neither be accepted nor rejected."""


class KeyStore:
    """The keys of one issuer. It belongs to an event loop."""

    def __init__(
        self,
        load: Callable[[], Awaitable[KeySet]],
        *,
        refresh_seconds: float,
        stale_seconds: float,
        clock: Callable[[], float],
        report: Callable[[str, str], None],
    ) -> None:
        """Creates an empty store.

        Args:
            load: Fetches the keys.
            refresh_seconds: How long keys count as fresh; they are fetched anew after half of it.
            stale_seconds: How long they are used if they cannot be fetched anew.
            clock: Returns the Unix time in seconds.
            report: Called with an event and its details, at most once per fetch and event.
        """
        self._load = load
        self._refresh_seconds = refresh_seconds
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._report = report
        self._keys: KeySet | None = None
        self._keys_as_of = -math.inf
        self._began_at = -math.inf
        self._failure = ""
        """Why the latest fetch failed; empty: it did not."""
        self._fetching: asyncio.Task[None] | None = None
        self._sought: dict[Need, float] = {}
        """When each missing key was first needed, in that order: a fetch that began later tells that it is absent."""

    async def warm_up(self) -> None:
        """Fetches the keys before a token needs them; a failure is only reported."""
        fetching = self._fetch(self._clock())
        if fetching is not None:
            await asyncio.wait([fetching])

    def find(self, need: Need) -> Key | Lookup | None:
        """Looks for the one key that fits.

        Returns:
            The key; None if the issuer has no such key, or several; or, if this cannot be told yet, what to await.

        Raises:
            KeysUnavailableError: It cannot be told, and a fetch failed or ended just now.
        """
        now = self._clock()
        fitting = self._fitting(need, now)
        if len(fitting) > 1:
            return None
        if not fitting:
            return self._search(need, now)
        age = now - self._keys_as_of
        if 0 <= age < self._refresh_seconds / 2:
            return fitting[0]
        is_down = bool(self._failure) and 0 <= now - self._began_at < self._refresh_seconds
        fetching = self._fetch(now)
        if fetching is None or is_down or 0 <= age < self._refresh_seconds:
            return fitting[0]  # the fetch goes on in the background
        return lambda: self._found(need, now, fetching, OVERDUE_WAIT_SECONDS)

    def _search(self, need: Need, now: float) -> Lookup | None:
        """Looks for a key that is not there."""
        since = self._sought.get(need, math.inf)
        if not 0 <= now - since < ABSENT_SECONDS:
            since = now
            self._sought.pop(need, None)
            if len(self._sought) >= SOUGHT_KEYS_MAX:
                del self._sought[next(iter(self._sought))]
            self._sought[need] = since
        elif since <= self._keys_as_of <= now:
            return None
        fetching = self._fetch(now)
        if fetching is None:
            raise self._unavailable()
        return lambda: self._found(need, since, fetching, None)

    async def _found(
        self, need: Need, since: float, fetching: asyncio.Task[None], patience: float | None
    ) -> Key | None:
        """Returns the key after a fetch.

        Args:
            need: The key.
            since: When it was first needed. The issuer may have published it since, so only a later fetch tells that it
                is absent.
            fetching: The fetch.
            patience: How long to wait for it, in seconds; None: until it ends.
        """
        await asyncio.wait([fetching], timeout=patience)
        now = self._clock()
        fitting = self._fitting(need, now)
        if fitting:
            return fitting[0] if len(fitting) == 1 else None
        if not since <= self._keys_as_of <= now:
            raise self._unavailable()
        return None

    def _fitting(self, need: Need, now: float) -> tuple[Key, ...]:
        """Returns the keys that fit, unless all are too old."""
        if self._keys is None or now - self._keys_as_of >= self._stale_seconds:
            return ()
        return self._keys.fitting(*need)

    def _unavailable(self) -> KeysUnavailableError:
        return KeysUnavailableError(self._failure or "a key is unknown, and the keys were fetched only just now")

    def _fetch(self, now: float) -> asyncio.Task[None] | None:
        """Returns the fetch in flight, a new one, or None if the latest began only just now."""
        if self._fetching is None and not 0 <= now - self._began_at < REFETCH_SECONDS:
            self._began_at = now
            self._fetching = asyncio.get_running_loop().create_task(self._fetched(now), name="jwks-fetch")
        return self._fetching

    async def _fetched(self, now: float) -> None:
        """Replaces the keys by those of the issuer. If that fails, they stay."""
        try:
            keys = await self._load()
        except Exception as problem:  # noqa: BLE001 - whatever the issuer does must not end the keys
            self._failure = str(problem) or type(problem).__name__
            self._report("keys_not_fetched", self._failure)
            return
        finally:
            self._fetching = None
        if keys.ignored and (self._keys is None or keys.ignored != self._keys.ignored):
            self._report("keys_ignored", "; ".join(keys.ignored))
        if self._failure:
            self._report(KEYS_FETCHED, "its keys can be fetched again")
        self._keys, self._keys_as_of, self._failure = keys, now, ""
        self._sought = {need: since for need, since in self._sought.items() if not keys.fitting(*need)}
