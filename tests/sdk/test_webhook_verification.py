"""Requests are verified by the Python SDK as the table of all SDKs says, and as the server signs them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import codeq
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
        with pytest.raises(WebhookRejected) as caught:
            verify(body, vector["headers"], secrets, now=now)
        assert caught.value.message == vector["error"]


def test_request_signed_now_is_verified_without_a_time() -> None:
    signed = headers(["a secret of some length"], "1", int(time.time()), b"{}")
    assert verify(b"{}", signed, ["a secret of some length"]) == "1"


def test_time_may_be_a_datetime_with_a_zone() -> None:
    vector = VECTORS[0]
    body, now = vector["body"].encode(), datetime.fromtimestamp(vector["now"], UTC)
    assert verify(body, vector["headers"], vector["secrets"], now=now) == vector["headers"]["webhook-id"]
    with pytest.raises(ValueError, match="now needs a time zone"):
        verify(body, vector["headers"], vector["secrets"], now=now.replace(tzinfo=None))


def test_one_secret_without_a_list_is_a_mistake_of_the_caller() -> None:
    vector = VECTORS[0]
    with pytest.raises(TypeError, match=r"secrets must be a list of str, not str$"):
        verify(vector["body"].encode(), vector["headers"], vector["secrets"][0], now=vector["now"])
    with pytest.raises(TypeError, match=r"secrets must be a list of str, not of bytes$"):
        verify(vector["body"].encode(), vector["headers"], [vector["secrets"][0].encode()], now=vector["now"])


def test_rejection_is_an_error_of_the_sdk() -> None:
    with pytest.raises(codeq.CodeqError) as caught:
        verify(b"{}", {}, ["a secret of some length"])
    assert isinstance(caught.value, codeq.WebhookRejected)
    assert (caught.value.reason, caught.value.retryable) == ("WEBHOOK_REJECTED", False)
