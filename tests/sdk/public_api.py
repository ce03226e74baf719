"""Describes the public names of the Python SDK, one line each: what programs may rely on.

python tests/sdk/public_api.py      writes sdks/python/api.txt
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_origin

import codeq
from codeq import testing, webhooks

GOLDEN = Path(__file__).resolve().parents[2] / "sdks" / "python" / "api.txt"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def describe() -> str:
    """Returns the description."""
    lines = [*_module("codeq", codeq), *_module("codeq.testing", testing), *_module("codeq.webhooks", webhooks)]
    return "\n".join(lines) + "\n"


def _module(name: str, module: ModuleType) -> Iterator[str]:
    for each in sorted(module.__all__):
        value = getattr(module, each)
        path = f"{name}.{each}"
        if inspect.isclass(value) and get_origin(value) is None:
            yield from _class(path, value)
        elif inspect.isfunction(value):
            yield f"def {path}{_signature(value)}"
        else:
            yield f"{path} = {value!r}"


def _class(path: str, kind: type) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base.__module__ != "typing")
    yield f"class {path}({bases})"
    if issubclass(kind, enum.Enum):
        yield from (f"  {path}.{member.name} = {member.value!r}" for member in kind)
        return
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    if "__init__" in vars(kind) or any("__init__" in vars(base) for base in kind.__mro__[1:-1]):
        yield f"  {path}{_signature(kind)}"
    for name in sorted(dir(kind)):
        if name.startswith("_") or name in fields:
            continue
        value = inspect.getattr_static(kind, name)
        if any(name in vars(base) for base in (Exception, BaseException, object, str, bytes)):
            continue
        if isinstance(value, property):
            yield f"  {path}.{name}: {inspect.signature(value.fget).return_annotation}"
        elif inspect.isroutine(value):
            yield f"  {path}.{name}{_signature(getattr(kind, name))}"


def _signature(function: object) -> str:
    try:
        shown = str(inspect.signature(function))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
    return _ADDRESS.sub("", shown)


if __name__ == "__main__":
    GOLDEN.write_text(describe())
    sys.stdout.write(f"wrote {GOLDEN.name}\n")
