"""Requests are verified by the Python SDK as the table of all SDKs says, and as the server signs them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from codeq.webhooks import WebhookRejected, verify
from codeq_server.webhooks.signing import headers

VECTORS = json.loads((Path(__file__).resolve().parents[1] / "golden/webhook_signatures.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=[each["name"] for each in VECTORS])
def test_request_is_verified_as_the_table_says(vector: dict[str, Any]) -> None:
    body, secrets, now = vector["body"].encode(), vector["secrets"], vector["now"]
    if vector["valid"]:
        ids = {name.lower(): value for name, value in vector["headers"].items()}
        assert verify(body, vector["headers"], secrets, now=now) == ids.get("webhook-id", "")
    else:
        with pytest.raises(WebhookRejected):
            verify(body, vector["headers"], secrets, now=now)


def test_request_signed_now_is_verified_without_a_time() -> None:
    signed = headers(["a secret of some length"], "1", int(time.time()), b"{}")
    assert verify(b"{}", signed, ["a secret of some length"]) == "1"
