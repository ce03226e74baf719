"""Python SDK of codeq, a durable multitenant task queue.

The public names live in `codeq.public` and are imported on first use, so that the generated stubs under `codeq.v1` and
the table in `codeq.reasons` can be imported without the SDK.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from codeq.version import __version__ as __version__

if TYPE_CHECKING:
    from codeq.public import *  # noqa: F403


def __getattr__(name: str) -> object:
    if name == "__all__":
        return importlib.import_module("codeq.public").__all__
    # Public names are capitalised, but one; Python also asks here for submodules, which are not.
    if name[:1].isupper() or name == "defaults":
        public = importlib.import_module("codeq.public")
        if name in public.__all__:
            # All at once: __del__ may need another name at interpreter shutdown, when imports no longer work.
            globals().update({each: getattr(public, each) for each in public.__all__})
            value: object = globals()[name]
            return value
    raise AttributeError(f"module 'codeq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *importlib.import_module("codeq.public").__all__})
