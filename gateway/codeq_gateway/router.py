"""Finds the route of a path in a tree of path segments; literals come before variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from codeq.v1 import error_pb2

from codeq_gateway import refusals
from codeq_gateway.dispatch import CallFailed

VARIABLE: Final = "{}"
"""Template segment that matches any one non-empty segment of a path."""

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods known to the server; each path supports some of them."""

_OPTIONS: Final = "OPTIONS"

T = TypeVar("T")


class MethodNotAllowedError(CallFailed):
    """The path has routes, but none for the method.

    Attributes:
        allowed: Methods the path supports, in alphabetical order.
    """

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(error_pb2.ERROR_REASON_METHOD_NOT_ALLOWED, f"this path does not support {method}")
        self.allowed = allowed


class _Node(Generic[T]):
    """A common prefix of paths.

    Attributes:
        targets: Targets by method, if a template ends here.
        literals: Child nodes by literal segment.
        variable: Child node for any other segment.
    """

    __slots__ = ("literals", "targets", "variable")

    def __init__(self) -> None:
        self.targets: dict[str, T] = {}
        self.literals: dict[str, _Node[T]] = {}
        self.variable: _Node[T] | None = None


class Router(Generic[T]):
    """Maps methods and paths to targets."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._literal: dict[tuple[str, bytes], T] = {}
        self._methods = {_OPTIONS}

    @property
    def methods(self) -> list[str]:
        """All methods that at least one path supports, in alphabetical order."""
        return sorted(self._methods)

    def add(self, method: str, segments: Sequence[str], target: T) -> None:
        """Adds a target; each segment is a literal or VARIABLE. A GET route also serves HEAD.

        Raises:
            ValueError: The method and path already have a target.
        """
        node = self._root
        for segment in segments:
            if segment == VARIABLE:
                node.variable = node.variable or _Node()
                node = node.variable
            else:
                node = node.literals.setdefault(segment, _Node())
        path = "/" + "/".join(segments)
        if method in node.targets:
            raise ValueError(f"two routes for {method} {path}")
        for each in (method, "HEAD") if method == "GET" else (method,):
            node.targets[each] = target
            if VARIABLE not in segments:
                self._literal[each, path.encode()] = target
            self._methods.add(each)

    def find(self, method: str, raw_path: bytes) -> tuple[T, list[str]]:
        """Returns the target and the values of the path's variables, percent-decoded.

        If several templates that support the method match the path, the template with the earliest literals wins.

        Args:
            method: HTTP method.
            raw_path: Path as sent.

        Raises:
            CallFailed: No route matches the path (MethodNotAllowedError: none with this method), no path supports the
                method, or the path is not valid UTF-8.
        """
        target = self._literal.get((method, raw_path))  # shortcut: the same result as the walk
        if target is not None:
            return target, []
        if method not in METHODS:
            raise refusals.not_implemented("no path supports this method")
        allowed: set[str] = set()
        values: list[str] = []
        target = _walk(self._root, method, _segments(raw_path), 0, values, allowed)
        if target is not None:
            return target, values
        if allowed:
            raise MethodNotAllowedError(method, sorted({*allowed, _OPTIONS}))
        raise _not_found()

    def methods_of(self, raw_path: bytes) -> list[str]:
        """Returns the methods that a path supports, in alphabetical order.

        Raises:
            CallFailed: No route matches the path, or it is not valid UTF-8.
        """
        allowed: set[str] = set()
        _walk(self._root, _OPTIONS, _segments(raw_path), 0, [], allowed)
        if not allowed:
            raise _not_found()
        return sorted({*allowed, _OPTIONS})


def _not_found() -> CallFailed:
    return CallFailed(error_pb2.ERROR_REASON_ROUTE_NOT_FOUND, "no route matches this path")


def _walk(
    node: _Node[T], method: str, segments: list[str], index: int, values: list[str], allowed: set[str]
) -> T | None:
    """Returns the first target for the rest of a path; appends to `values`, and to `allowed` on a method mismatch."""
    if index == len(segments):
        target = node.targets.get(method)
        if target is None:
            allowed.update(node.targets)
        return target
    segment = segments[index]
    literal = node.literals.get(segment)
    if literal is not None:
        target = _walk(literal, method, segments, index + 1, values, allowed)
        if target is not None:
            return target
    if node.variable is not None and segment:
        values.append(segment)
        target = _walk(node.variable, method, segments, index + 1, values, allowed)
        if target is not None:
            return target
        values.pop()
    return None


def _segments(raw_path: bytes) -> list[str]:
    """Returns the decoded segments of a path; an encoded slash stays within its segment."""
    try:
        if b"%" not in raw_path:
            return raw_path.decode().split("/")[1:]
        return [unquote_to_bytes(part).decode() for part in raw_path.split(b"/")[1:]]
    except UnicodeDecodeError:
        raise refusals.invalid_field("path", "must be valid UTF-8") from None
