"""Settings of the provider `jwks`: what is accepted, what is rejected by name, and the validator they make."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import yaml
from codeq_server.auth.jwks.config import ALGORITHMS
from codeq_server.auth.jwks.validator import JwksValidator
from codeq_server.config.declaration import shown
from codeq_server.config.durations import Duration
from codeq_server.config.given import ConfigError, Given
from codeq_server.config.jwks_settings import JWKS, JwksAuthSettings, jwks_validator

KEY = "WORKER_AUTH_CONFIG"
GOOD = {"issuer": "https://id.example/", "audience": "codeq"}


def read(**mapping: Any) -> JwksAuthSettings:
    return JWKS.read(Given(GOOD | mapping, KEY))


def test_two_keys_are_enough_and_the_others_have_documented_defaults() -> None:
    config = read().config
    assert (config.issuer, config.audience) == ("https://id.example/", ("codeq",))
    assert (config.jwks_url, config.algorithms, config.tenant_claim, config.ca_file) == ("", ALGORITHMS, "", None)
    assert (config.clock_skew, config.http_timeout) == (60, 5)
    assert (config.refresh_seconds, config.stale_seconds) == (300, 86400)


@pytest.mark.parametrize(
    ("given", "seconds"), [("60s", 60), ("1m", 60), (60, 60), ("60", 60), (0.5, 0.5), ("1.5m", 90), ("500ms", 0.5)]
)
def test_duration_is_a_number_of_seconds_or_has_a_unit(given: object, seconds: float) -> None:
    assert read(allowedClockSkewSeconds=given).config.clock_skew == seconds
    assert read(clockSkew=given).config.clock_skew == seconds


@pytest.mark.parametrize(
    "given", ["", "soon", "-1s", -1, True, [], {}, 601, "11m", "1e3", float("nan"), float("inf"), 60_000_000_000, "6 0"]
)
def test_duration_that_is_malformed_or_out_of_bounds_is_rejected_by_name(given: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read(allowedClockSkewSeconds=given)
    assert str(caught.value) == (
        "WORKER_AUTH_CONFIG.allowedClockSkewSeconds: must be a duration from 0s to 10m, such as 60s or 5m, or a number "
        "of seconds"
    )


def test_durations_are_shown_with_their_largest_unit() -> None:
    form = Duration(0, 10**7)
    shown_as = [form.show(each) for each in (86400, 5400.0, 60, 1, 0.25, 0)]
    assert shown_as == ["1d", "90m", "1m", "1s", "0.25s", "0s"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("issuer", "", "must be a text"),
        ("issuer", None, "must be a text"),
        ("audience", [], "must be a text that is not empty, or a list"),
        ("audience", "", "must be a text that is not empty"),
        ("audience", ["a", 5], "must be a text that is not empty"),
        ("audience", ["a"] * 17, "list of 1 to 16"),
        ("jwksUrl", "id.example/keys", "must be a URL that starts with https:// or http://"),
        ("jwksUrl", "file:///etc/passwd", "must be a URL"),
        ("jwksUrl", "https://", "must be a URL"),
        ("jwksUrl", "https://user:secret@id.example/keys", "without a user name"),
        ("jwksUrl", "https://id.example/keys#x", "must be a URL"),
        ("jwksUrl", "https://id.example:99999/keys", "must be a URL"),
        ("jwksUrl", "https://id.example/ke ys", "must be a URL"),
        ("jwksUrl", "https://id.example/\r\nX: y", "must be a URL"),
        ("algorithms", ["RS256", "HS256"], "must be algorithms such as RS256 or ES256; got 'HS256'"),
        ("algorithms", "none", "got 'none'"),
        ("algorithms", [], "must name at least one"),
        ("httpTimeout", 0, "must be a duration from 0.1s to 1m"),
        ("jwksStaleSeconds", 60, "must be at least jwksRefreshSeconds, 300 s"),
        ("clockSkew", "1h", "must be a duration"),
        ("caFile", "", "must be a valid path"),
        ("tenantClaim", 5, "must be a text"),
        ("jwksUri", "https://id.example", "unknown key; did you mean jwksUrl?"),
    ],
)
def test_malformed_setting_is_rejected_by_name(key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**{key: value})
    assert caught.value.key == f"{KEY}.{key}"
    assert words in caught.value.message
    assert "secret" not in str(caught.value)


def test_issuer_and_audience_are_required() -> None:
    for key in GOOD:
        with pytest.raises(ConfigError, match=f"{KEY}.{key}: is required"):
            JWKS.read(Given({name: value for name, value in GOOD.items() if name != key}, KEY))


@pytest.mark.parametrize("issuer", ["acme", "urn:acme", "https://id.example/?realm=acme", "https://u:p@id.example"])
def test_url_of_the_keys_is_required_if_the_issuer_is_no_url_to_ask(issuer: str) -> None:
    with pytest.raises(ConfigError, match=f"{KEY}.jwksUrl: is required"):
        read(issuer=issuer)
    assert read(issuer=issuer, jwksUrl="https://id.example/keys").issuer == issuer


def test_clock_skew_has_two_names_of_which_one_may_be_given() -> None:
    with pytest.raises(ConfigError, match=f"{KEY}.clockSkew: is another name of allowedClockSkewSeconds"):
        read(clockSkew=5, allowedClockSkewSeconds=5)


def test_settings_are_shown_as_an_operator_writes_them() -> None:
    settings = read(audience=["a", "b"], algorithms="ES256", caFile="/etc/ca.pem", tenantClaim="app.tenant")
    assert JWKS.read(Given({k: v for k, v in shown(settings).items() if v not in ("", None)}, KEY)) == settings


def test_settings_make_a_validator(tmp_path: Path) -> None:
    assert isinstance(jwks_validator(read(), KEY).validator, JwksValidator)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file or directory"), ("", "no valid cert"), ("x", "no valid cert")]
)
def test_file_of_authorities_that_cannot_be_used_is_rejected_by_name(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        jwks_validator(read(caFile=str(path)), KEY)
    assert caught.value.key == f"{KEY}.caFile"


def test_reading_settings_does_not_import_the_http_client() -> None:
    code = "import sys, codeq_server.config.jwks_settings; sys.exit('aiohttp' in sys.modules or 'jwt' in sys.modules)"
    run([sys.executable, "-c", code], check=True)


def test_examples_of_the_document_are_accepted() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/authentication.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) == 3
    for block in blocks:
        [(key, config)] = [(key, value) for key, value in block.items() if key.endswith("AuthConfig")]
        assert JWKS.read(Given(config, key)).issuer == config["issuer"]
