"""Configuration of rate limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from codeq_server.config import ConfigError, check, load
from codeq_server.config.settings import Settings
from codeq_server.core.limits import Limits, Rate
from codeq_server.core.shard import CONFIGURED
from codeq_server.node.opening import load_shard
from codeq_server.storage.memory import MemoryStore


def loaded(config: object) -> Settings:
    return load(None, {"RATE_LIMIT": json.dumps(config)}, {}, dev=True)


def limits(config: object) -> Limits:
    return load_shard(loaded(config), MemoryStore(), 1).tenants.limits_of("acme")


def rate(per_minute: object, burst: object) -> dict[str, object]:
    return {"requestsPerMinute": per_minute, "burstSize": burst}


def test_configured_rates_are_those_of_each_token_of_every_tenant() -> None:
    assert limits({}) == CONFIGURED
    assert limits(
        {"producer": rate(600, 50), "worker": rate(1, 2), "admin": rate(3, 1_000_000_000)}
    ) == CONFIGURED._replace(producer_token=Rate(600, 50), worker_token=Rate(1, 2), admin_token=Rate(3, 1_000_000_000))


def test_rates_of_the_documented_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "codeq.yaml"
    file.write_text("rateLimit:\n  producer:\n    requestsPerMinute: 600\n    burstSize: 50\n")
    shown = check(str(file), {}, {}, dev=True)["rateLimit"]
    off = rate(0, 0)
    assert shown == {"producer": rate(600, 50), "worker": off, "admin": off, "webhook": off}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"producer": rate(-1, 5)}, "producer.requestsPerMinute"),
        ({"worker": rate(5, 1_000_000_001)}, "worker.burstSize"),
        ({"admin": rate("5", 5)}, "admin.requestsPerMinute"),
        ({"admin": rate(0.5, 5)}, "admin.requestsPerMinute"),
        ({"admin": {"burst": 5}}, "admin.burst"),
        ({"admin": 5}, "admin"),
        ({"viewer": rate(1, 1)}, "viewer"),
    ],
)
def test_error_names_the_malformed_rate(config: object, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(config)
    assert caught.value.key == f"RATE_LIMIT.{key}"


def test_rate_of_webhooks_is_one_of_each_url_and_none_of_tokens() -> None:
    assert loaded({"webhook": rate(600, 50)}).rate_limit.webhook.rate == Rate(600, 50)
    assert limits({"webhook": rate(600, 50)}) == CONFIGURED


@pytest.mark.parametrize("half", [rate(5, 0), rate(0, 5)])
def test_rate_with_one_number_limits_nothing_and_is_reported(half: object) -> None:
    settings = loaded({"worker": half})
    [note] = [note for note in settings.notes if "rate limit" in note.message]
    assert note.key == "RATE_LIMIT.worker"
    assert not settings.rate_limit.worker.rate.limits
