"""Python SDK of codeq, a durable multitenant task queue.

The public names are those of `codeq.public`. They are imported when the first of them is used, so that the generated
stubs under `codeq.v1` and the table in `codeq.reasons` can be imported without the SDK.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codeq.public import *  # noqa: F403


def __getattr__(name: str) -> object:
    if name[:1].isupper():  # every public name is; submodules, which Python asks for here too, are not
        public = importlib.import_module("codeq.public")
        if name in public.__all__:
            value: object = getattr(public, name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'codeq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("codeq.public").__all__})
