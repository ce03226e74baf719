"""Plants a bug: replaces an expression in a function of the product for as long as a test wants it."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType


@contextmanager
def planted(function: FunctionType, right: str, wrong: str) -> Iterator[None]:
    """Lets a function, wherever it was imported to, be as if `wrong` stood in its source instead of `right`."""
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(right) == 1, f"{function.__qualname__} has {source.count(right)} times: {right}"
    made: dict[str, FunctionType] = {}
    exec(compile(source.replace(right, wrong), "planted", "exec"), function.__globals__, made)
    original = function.__code__
    function.__code__ = made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original
