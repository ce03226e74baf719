"""Names of spans' attributes come from one table: the server's, which the SDKs follow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from codeq_server.tracing import names

ROOT = Path(__file__).resolve().parents[2]
SDKS = {
    "python": "sdks/python/src/codeq/tracing.py",
    "go": "sdks/go/codeqotel/codeqotel.go",
    "ts": "sdks/ts/src/opentelemetry.ts",
}
OF_HANDLERS = {
    names.MESSAGING_SYSTEM,
    names.MESSAGING_OPERATION,
    names.MESSAGING_OPERATION_TYPE,
    names.MESSAGING_DESTINATION,
    names.MESSAGING_MESSAGE_ID,
    names.ATTEMPTS,
    names.ERROR_TYPE,
}
_attributes = re.compile(r'"((?:codeq|error|http|messaging|rpc|server|url)\.[a-z_.]+)"').findall


@pytest.mark.parametrize("sdk", SDKS)
def test_sdk_gives_the_spans_of_handlers_the_attributes_of_the_table(sdk: str) -> None:
    assert set(_attributes((ROOT / SDKS[sdk]).read_text())) == OF_HANDLERS


def test_server_names_attributes_nowhere_else() -> None:
    modules = set((ROOT / "server/codeq_server/tracing").glob("*.py"))
    assert modules
    for module in modules - {ROOT / "server/codeq_server/tracing/names.py"}:
        assert _attributes(module.read_text()) == [], module
