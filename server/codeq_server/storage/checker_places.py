"""Checker rules about places: a task that waits away from its home has a pointer there, and only there."""

from __future__ import annotations

from collections.abc import Iterator

from codeq_server.core import keys

from .checker_homes import pack


class PlaceRows:
    """Places at which tasks wait according to their state rows, until a pointer confirms them."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, dict[int, tuple[int, int]]] = {keys.TASKS: {}, keys.RETURNED: {}}
        """By table and place: home and attempts. Table "t" has pointers in lanes, "u" the returned tasks."""

    def waits(self, table: bytes, place: int, home: int, attempts: int) -> Iterator[str]:
        """Processes the place of a waiting task; yields a problem if another task has it."""
        places = self._waiting[table]
        if place in places:
            yield f"shares its place with task {keys.packed_key(keys.TASKS, places[place][0]).hex()}"
        places[place] = (home, attempts)

    def pointer(self, key: bytes, value: bytes) -> bool:
        """Processes a pointer; returns whether the task that it leads to waits there."""
        places, place = self._waiting[key[:1]], keys.split_packed_key(key)
        home_lane, home_position, attempts = keys.split_pointer(value)
        if places.get(place) != (pack(place >> 56, home_lane, home_position), attempts):
            return False
        del places[place]
        return True

    def finish(self) -> Iterator[tuple[bytes, str]]:
        """Yields key and problem of tasks without a pointer."""
        for table, places in self._waiting.items():
            for place, (home, _) in places.items():
                yield (
                    keys.packed_key(keys.STATES, home),
                    f"waits at {keys.packed_key(table, place).hex()}, where there is no pointer to it",
                )
