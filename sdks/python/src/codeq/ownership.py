"""Which process an object belongs to: what was made before a fork is the parent's, and the child must not use it."""

from __future__ import annotations

import os

from codeq.errors import Forked


class Owner:
    """The process that made an object."""

    __slots__ = ("_name", "_process")

    def __init__(self, name: str) -> None:
        """The present process is the owner.

        Args:
            name: What is owned, for the error: the name of its class.
        """
        self._name = name
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is still the process that made the object."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Refuse the use of an object that came over a fork.

        Raises:
            Forked: Another process made it.
        """
        if os.getpid() != self._process:
            text = f"the {self._name} was made before the fork, by process {self._process}: make one in this process"
            raise Forked(text)
