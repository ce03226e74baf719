"""Settings that name files: each is looked up in the same way when the configuration is read, and never opened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from codeq_server.config import ConfigError, load


def tls(path: str) -> dict[str, str]:
    return {"TLS_CERT_FILE": path, "TLS_KEY_FILE": path}


def members(path: str) -> dict[str, str]:
    raft = {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": "127.0.0.1:7000"}
    return {**raft, "RAFT_TLS_CERT": path, "RAFT_TLS_KEY": path, "RAFT_TLS_CA": path}


def tokens(path: str) -> dict[str, str]:
    return {"WORKER_AUTH_PROVIDER": "static", "WORKER_AUTH_CONFIG": json.dumps({"file": path})}


def issuer(path: str) -> dict[str, str]:
    config = {"issuer": "https://id.example", "audience": ["a"], "caFile": path}
    return {"WORKER_AUTH_PROVIDER": "jwks", "WORKER_AUTH_CONFIG": json.dumps(config)}


def issuers(path: str) -> dict[str, str]:
    inner = {"type": "jwks", "config": json.loads(issuer(path)["WORKER_AUTH_CONFIG"])}
    other = {"type": "static", "config": {"token": "t", "raw": {"tenantId": "acme"}}}
    return {"WORKER_AUTH_PROVIDER": "multi", "WORKER_AUTH_CONFIG": json.dumps({"providers": [inner, other]})}


KEYS: list[tuple[Callable[[str], dict[str, str]], str]] = [
    (tls, "TLS_CERT_FILE"),
    (members, "RAFT_TLS_CERT"),
    (tokens, "WORKER_AUTH_CONFIG.file"),
    (issuer, "WORKER_AUTH_CONFIG.caFile"),
    (issuers, "WORKER_AUTH_CONFIG.providers[0].config.caFile"),
]


@pytest.mark.parametrize(("environment", "key"), KEYS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gone", "cannot read {}: No such file or directory"),
        ("folder", "{} is not a regular file"),
        ("pipe", "{} is not a regular file"),
        ("a" * 300, "cannot read {}: File name too long"),
    ],
)
def test_file_that_cannot_be_used_is_named_alike_by_every_setting(
    environment: Callable[[str], dict[str, str]],
    key: str,
    name: str,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a writer
    with pytest.raises(ConfigError) as refused:
        load(None, environment(name), {}, dev=True)
    assert (refused.value.key, refused.value.message) == (key, text.format(tmp_path / name))
