"""Plants a bug: replaces an expression in a function of the product for the length of a block."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType


@contextmanager
def planted(function: FunctionType, right: str, wrong: str) -> Iterator[None]:
    """Replaces `right` with `wrong` in a function's source, wherever the function is imported, within the block."""
    assert isinstance(function, FunctionType), "a compiled function is fixed: `make clean-compiled` leaves the sources"
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
