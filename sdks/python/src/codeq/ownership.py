"""Tracks which process owns an object. An object from before a fork belongs to the parent, not to the child."""

from __future__ import annotations

import os

from codeq.errors import Forked


class Owner:
    """The process that created an object."""

    __slots__ = ("_name", "_process")

    def __init__(self, name: str) -> None:
        """Makes the current process the owner.

        Args:
            name: Name of the object's class, for errors.
        """
        self._name = name
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether the current process created the object."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Checks that the current process created the object.

        Raises:
            Forked: Another process created the object, before a fork.
        """
        if os.getpid() != self._process:
            text = f"the {self._name} was created by process {self._process}, before a fork: create one in this process"
            raise Forked(text)
