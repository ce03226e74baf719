"""Signatures of requests, checked with values from other implementations of HMAC and with the published vector."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from codeq_server.webhooks.signing import headers, is_decodable

BODY = b'{"test": 2432232314}'


def test_signature_of_standard_webhooks_is_the_published_one() -> None:
    found = headers(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY)
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (found["webhook-id"], found["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


def test_documented_signature_is_made_with_the_text_of_the_newest_secret() -> None:
    found = headers(["whsec_bmV3ZXN0", "an older secret"], "id", 7, BODY)
    expected = hmac.new(b"whsec_bmV3ZXN0", b"7." + BODY, hashlib.sha256).hexdigest()
    assert (found["X-CodeQ-Timestamp"], found["X-CodeQ-Signature"]) == ("7", expected)


def test_every_valid_secret_signs_for_standard_webhooks() -> None:
    found = headers(["whsec_bmV3ZXN0", "an older secret", "whsec_not base64"], "id", 7, BODY)
    keys = (b"newest", b"an older secret", b"whsec_not base64")
    digests = [hmac.new(key, b"id.7." + BODY, hashlib.sha256).digest() for key in keys]
    assert found["webhook-signature"] == " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


@pytest.mark.parametrize(
    ("secret", "decodable"),
    [
        ("whsec_bmV3ZXN0", True),
        ("an older secret", True),
        ("whsec_not base64", False),
        ("whsec_bmV3ZXN0Cg", False),
        ("whsec_bmV3-XN0", False),
    ],
)
def test_secret_of_standard_webhooks_must_be_base64(secret: str, decodable: bool) -> None:
    assert is_decodable(secret) is decodable


def test_request_without_a_secret_has_an_id_and_a_time_but_no_signature() -> None:
    assert headers([], "id", 7, BODY) == {"X-CodeQ-Timestamp": "7", "webhook-id": "id", "webhook-timestamp": "7"}
