"""gRPC options: the library silently ignores unknown names and uses its defaults."""

from __future__ import annotations

import re
from pathlib import Path

from grpc._cython import cygrpc

ROOT = Path(__file__).resolve().parents[2]
OPTION = re.compile(r'\("(grpc\.[a-z0-9_.]+)", ')


def test_grpc_library_knows_the_options_of_every_channel_and_server() -> None:
    known = Path(cygrpc.__file__).read_bytes()
    sources = [path for room in ("server", "gateway", "cli", "sdks/python/src") for path in (ROOT / room).rglob("*.py")]
    used = {name for path in sources for name in OPTION.findall(path.read_text())}
    assert len(used) > 5
    assert sorted(name for name in used if name.encode() not in known) == []
