"""Configuration: sources and their order, strict values, combinations, and the values that --dev fills in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from codeq_server.auth.static import StaticToken
from codeq_server.config import Address, ConfigError, Settings, check, load
from codeq_server.config.providers import AuthConfig

PRODUCER = '{"token":"p-secret","subject":"producer-dev","raw":{"role":"ADMIN","tenantId":"dev-tenant"}}'
WORKER = '{"token":"w-secret","scopes":["codeq:claim"],"eventTypes":["*"],"raw":{"tenantId":"dev-tenant"}}'
TOKENS = {
    "PRODUCER_AUTH_PROVIDER": "static",
    "PRODUCER_AUTH_CONFIG": PRODUCER,
    "WORKER_AUTH_PROVIDER": "static",
    "WORKER_AUTH_CONFIG": WORKER,
}


def load_env(environment: Mapping[str, str]) -> Settings:
    return load(None, {**TOKENS, **environment}, {}, dev=False)


def only(auth: AuthConfig) -> StaticToken:
    [(_, token)] = auth.tokens
    return token


def write(path: Path, text: str) -> str:
    file = path / "codeq.yaml"
    file.write_text(text)
    return str(file)


def refusal(environment: Mapping[str, str], *, dev: bool = True) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(None, environment, {}, dev)
    assert "\n" not in str(caught.value)
    return caught.value


def test_load_with_only_tokens_returns_the_documented_defaults() -> None:
    settings = load_env({})
    assert settings.http == Address("", 8080)
    assert settings.worker_stream_addr == Address("", 9091)
    assert settings.producer_stream_addr == Address("", 9092)
    assert settings.allowed_hosts == frozenset()
    assert settings.persistence_provider == "rocksdb"
    assert settings.persistence.path == Path("data")
    assert settings.persistence.fsync_on_commit
    assert (settings.default_lease_seconds, settings.max_attempts_default) == (60, 5)
    assert settings.backoff_policy == "exp_full_jitter"
    assert (settings.backoff_base_seconds, settings.backoff_max_seconds) == (5, 900)
    assert (settings.retention_seconds, settings.dlq_retention_seconds) == (86400, 1209600)
    assert not any(each.rate.limits for each in (settings.rate_limit.producer, settings.rate_limit.worker))
    assert not any(each.rate.limits for each in (settings.rate_limit.admin, settings.rate_limit.webhook))
    assert (settings.queues_per_tenant_max, settings.queue_idle_seconds) == (10_000, 3600)
    assert (settings.log_level, settings.log_format) == ("info", None)
    assert settings.shutdown_grace_seconds == 10
    assert settings.disk_reserve_bytes == 256 << 20


def test_load_accepts_every_variable_from_the_container_guide() -> None:
    settings = load(
        None,
        TOKENS
        | {
            "PORT": "8090",
            "LOG_LEVEL": "info",
            "LOG_FORMAT": "json",
            "PERSISTENCE_PROVIDER": "pebble",
            "PERSISTENCE_CONFIG": '{"path":"/var/lib/codeq/pebble"}',
            "WORKER_STREAM_ADDR": ":9191",
            "PRODUCER_STREAM_ADDR": ":9192",
            "LOCAL_ARTIFACTS_DIR": "/var/lib/codeq/artifacts",
            "RAFT_ENABLED": "false",
            "PATH": "/usr/bin",
            "OTEL_SERVICE_NAME": "codeq",
        },
        {},
        dev=False,
    )
    assert settings.http.port == 8090
    assert settings.persistence_provider == "rocksdb"
    assert settings.persistence.path == Path("/var/lib/codeq/pebble")
    assert settings.worker_stream_addr == Address("", 9191)
    assert settings.producer_stream_addr == Address("", 9192)
    assert settings.artifacts_path == Path("/var/lib/codeq/artifacts")
    assert settings.log_format == "json"
    assert only(settings.auth.producer).raw == {"role": "ADMIN", "tenantId": "dev-tenant"}
    assert only(settings.auth.worker).scopes == {"codeq:claim"}


def test_flags_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "port: 1001\nlogLevel: warn\nmaxAttemptsDefault: 7\n")
    settings = load(file, {"PORT": "1002", "LOG_LEVEL": "error"}, {"port": 1003, "log_level": None}, dev=True)
    assert (settings.http.port, settings.log_level, settings.max_attempts_default) == (1003, "error", 7)


def test_load_reads_mappings_from_the_file_named_in_the_environment(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "persistenceConfig: {path: /srv/codeq, fsyncOnCommit: false}\n"
        "producerAuthProvider: static\nproducerAuthConfig: {token: abc, raw: {tenantId: acme}}\n"
        "workerAuthProvider: static\n"
        "workerAuthConfig: {token: other, scopes: [codeq:claim], eventTypes: ['*']}\nraft: {enabled: false}\n",
    )
    settings = load(None, {"CODEQ_CONFIG_PATH": file}, {}, dev=False)
    assert settings.persistence.path == Path("/srv/codeq")
    assert not settings.persistence.fsync_on_commit
    assert only(settings.auth.producer).token == "abc"
    assert only(settings.auth.worker).token == "other"
    assert only(settings.auth.worker).subject == "static"


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_stream_address_disables_its_listener(value: str) -> None:
    settings = load_env({"WORKER_STREAM_ADDR": value, "PRODUCER_STREAM_ADDR": value})
    assert settings.worker_stream_addr is None
    assert settings.producer_stream_addr is None


def test_any_other_empty_variable_keeps_the_default() -> None:
    assert load_env({"PORT": "", "LOG_LEVEL": " "}).http.port == 8080


def test_brackets_are_stripped_from_an_ipv6_address() -> None:
    address = load_env({"WORKER_STREAM_ADDR": "[::1]:0"}).worker_stream_addr
    assert address == Address("::1", 0)
    assert str(address) == "[::1]:0"


def test_artifacts_are_stored_beside_the_store_if_no_folder_is_set() -> None:
    assert load_env({}).artifacts_path == Path("artifacts")
    assert load_env({"PERSISTENCE_CONFIG": '{"path":"/srv/codeq/store"}'}).artifacts_path == Path(
        "/srv/codeq/artifacts"
    )
    shards = {"PERSISTENCE_CONFIG": '{"path":"/srv/codeq/store","numShards":2}'}
    assert check(None, shards, {}, dev=True)["localArtifactsDir"] == "/srv/codeq/store/artifacts"
    assert load_env({"PERSISTENCE_PROVIDER": "memory"}).artifacts_path is None


def test_artifact_folder_is_rejected_with_the_memory_provider() -> None:
    assert refusal({"PERSISTENCE_PROVIDER": "memory", "LOCAL_ARTIFACTS_DIR": "/a"}).key == "LOCAL_ARTIFACTS_DIR"


def test_memory_provider_has_no_path_and_no_fsync() -> None:
    settings = load_env({"PERSISTENCE_PROVIDER": "memory"})
    assert settings.persistence_provider == "memory"
    assert (settings.persistence.path, settings.persistence.fsync_on_commit) == (None, False)


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("1", True), ("YES", True), ("0", False)])
def test_load_accepts_several_spellings_of_booleans(text: str, expected: bool) -> None:
    assert load_env({"ALLOW_PRODUCER_AS_WORKER": text}).auth.allow_producer_as_worker is expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "http"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("HTTP_HOST", "a b"),
        ("WORKER_STREAM_ADDR", "9091"),
        ("WORKER_STREAM_ADDR", "host:port"),
        ("WORKER_STREAM_ADDR", ":65536"),
        ("WORKER_STREAM_ADDR", "[1:2]:80"),
        ("PRODUCER_STREAM_ADDR", ":8080"),
        ("PERSISTENCE_PROVIDER", "redis"),
        ("PERSISTENCE_PROVIDER", "mysql"),
        ("PERSISTENCE_CONFIG", "{path"),
        ("PERSISTENCE_CONFIG", "[]"),
        ("PRODUCER_AUTH_PROVIDER", "oauth"),
        ("PRODUCER_AUTH_PROVIDER", "static"),
        ("PRODUCER_AUTH_CONFIG", '"token"'),
        ("WORKER_AUTH_CONFIG", "not json"),
        ("ALLOW_PRODUCER_AS_WORKER", "maybe"),
        ("DEFAULT_LEASE_SECONDS", "0"),
        ("DEFAULT_LEASE_SECONDS", "43201"),
        ("MAX_ATTEMPTS_DEFAULT", "1001"),
        ("MAX_ATTEMPTS_DEFAULT", "2.5"),
        ("BACKOFF_POLICY", "random"),
        ("BACKOFF_BASE_SECONDS", "0"),
        ("BACKOFF_MAX_SECONDS", "4"),
        ("RETENTION_SECONDS", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("CODEQ_PORT", "8080"),
        ("CODEQ_PPROF", "maybe"),
        ("CODEQ_PPROF_ADDR", "0.0.0.0:6060"),
        ("CODEQ_PPROF_ADDR", ":6060"),
        ("CODEQ_CONFIG_PATH", "/nowhere/codeq.yaml"),
        ("TRACING_SAMPLE_RATIO", "1.5"),
        ("TRACING_SAMPLE_RATIO", "nan"),
        ("TRACING_OTLP_ENDPOINT", "ftp://collector"),
        ("TRACING_OTLP_ENDPOINT", "http://user:secret@collector:4317"),
        ("TRACING_RATIO", "1"),
        ("WEBHOOK_HMAC_SECRET", "too-short"),
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/33"),
        ("WEBHOOK_ALLOWED_HOSTS", "a b"),
        ("WEBHOOK_ALLOWED_PORTS", "9-8"),
        ("WEBHOOK_PROXY", "ftp://proxy:1"),
        ("SUBSCRIPTION_MIN_INTERVAL_SECONDS", "3601"),
        ("REDIS_ADDR", "localhost:6379"),
    ],
)
def test_error_names_an_unusable_variable(variable: str, value: str) -> None:
    assert refusal({variable: value}).key == variable


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ('{"path":""}', "path"),
        ('{"path":5}', "path"),
        ('{"numShards":33}', "numShards"),
        ('{"numShards":0}', "numShards"),
        ('{"numShards":"1"}', "numShards"),
        ('{"fsyncOnCommit":"yes"}', "fsyncOnCommit"),
        ('{"pth":"/data"}', "pth"),
    ],
)
def test_error_names_an_unusable_persistence_key(config: str, key: str) -> None:
    assert refusal({"PERSISTENCE_CONFIG": config}).key == f"PERSISTENCE_CONFIG.{key}"


@pytest.mark.parametrize("config", ['{"path":"/data"}', '{"fsyncOnCommit":true}'])
def test_disk_settings_are_rejected_with_the_memory_provider(config: str) -> None:
    key = refusal({"PERSISTENCE_PROVIDER": "memory", "PERSISTENCE_CONFIG": config}).key
    assert key.startswith("PERSISTENCE_CONFIG.")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("{}", "token"),
        ('{"token":"  "}', "token"),
        ('" "', "token"),
        ('{"token":"t","scope":"x"}', "scope"),
        ('{"token":"t","scopes":"codeq:claim"}', "scopes"),
        ('{"token":"t","eventTypes":["two words"]}', "eventTypes"),
        ('{"token":"t","raw":[]}', "raw"),
    ],
)
def test_error_names_the_key_of_invalid_static_auth_settings(config: str, key: str) -> None:
    error = refusal({"WORKER_AUTH_PROVIDER": "static", "WORKER_AUTH_CONFIG": config})
    assert error.key == f"WORKER_AUTH_CONFIG.{key}"


@pytest.mark.parametrize(
    "config",
    ['"s3cret"', '{"token":"t"}', '{"token":"t","scopes":["codeq:claim"]}', '{"token":"t","eventTypes":["*"]}'],
)
def test_worker_without_scopes_or_commands_is_rejected(config: str) -> None:
    error = refusal({"WORKER_AUTH_PROVIDER": "static", "WORKER_AUTH_CONFIG": config})
    assert error.key == "WORKER_AUTH_CONFIG"
    assert "scopes and eventTypes" in error.message


@pytest.mark.parametrize(
    "config", ['{"token":"t","subject":"Shop 1"}', '{"token":"t","raw":{"tid":"a-1","tenantId":"b-1"}}']
)
def test_token_without_a_tenant_is_rejected(config: str) -> None:
    error = refusal({"PRODUCER_AUTH_PROVIDER": "static", "PRODUCER_AUTH_CONFIG": config})
    assert error.key == "PRODUCER_AUTH_CONFIG"
    assert "tenantId" in error.message


def test_unsupported_variable_is_accepted_if_it_is_turned_off() -> None:
    load_env({"RAFT_ENABLED": "False", "TRACING_ENABLED": "0", "CLUSTER_ENABLED": "no", "RAFT_PEERS": ""})


def test_load_accepts_the_variables_of_container_platforms() -> None:
    load_env(
        {
            "CODEQ_PORT": "tcp://10.0.0.1:8080",
            "CODEQ_SERVICE_HOST": "10.0.0.1",
            "CODEQ_SERVICE_PORT_HTTP": "8080",
            "CODEQ_PORT_8080_TCP_ADDR": "10.0.0.1",
            "CODEQ_UDP_PORT": "udp://10.0.0.1:53",
            "CODEQ_SCTP_PORT": "SCTP://10.0.0.1:9",
            "CODEQ_PORT_8080_UDP_START": "8080",
            "CODEQ_PORT_8080_TCP_PORT_START": "8080",
            "CODEQ_ENV_PATH": "/usr/bin",
            "CODEQ_SERVER_ENV_LANG": "C",
            "CODEQ_NAME": "/web/codeq",
            "RAFT_PORT": "tcp://10.0.0.2:7000",
            "RAFT_SERVICE_PORT": "7000",
        }
    )


@pytest.mark.parametrize(
    "config",
    ['{"path":"a","path":"b"}', '{"fsyncOnCommit":true,"path":"a","fsyncOnCommit":false}', '{"a":[{"b":1,"b":2}]}'],
)
def test_error_names_the_variable_with_a_duplicate_json_key(config: str) -> None:
    error = refusal({"PERSISTENCE_CONFIG": config})
    assert error.key == "PERSISTENCE_CONFIG"
    assert "duplicate key" in error.message


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
@pytest.mark.parametrize("name", ["local_artifacts_dir", "backup_dir", "ready_file"])
def test_error_names_the_key_of_an_impossible_path(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {name: text}, dev=True)
    assert caught.value.key == "--" + name.replace("_", "-")


@pytest.mark.parametrize("escaped", ["a\\u0000b", "\\ud800"])
def test_impossible_store_path_is_rejected_with_a_one_line_error(escaped: str) -> None:
    error = refusal({"PERSISTENCE_CONFIG": f'{{"path":"{escaped}"}}'})
    assert error.key.startswith("PERSISTENCE_CONFIG")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("colour: red\n", "colour"),
        ("port: '8080'\n", "port"),
        ("port: true\n", "port"),
        ("persistenceConfig: {paths: x}\n", "persistenceConfig.paths"),
        ("persistenceConfig: text\n", "persistenceConfig"),
        ('producerAuthProvider: static\nproducerAuthConfig: \'{"token":"x"}\'\n', "producerAuthConfig"),
        ("5: five\n", "5"),
        ("port: 1\nport: 2\n", "--config"),
        ("port: [\n", "--config"),
        ("- port\n", "--config"),
        ("port: !!python/object:os.system x\n", "--config"),
    ],
)
def test_error_names_the_unusable_key_of_a_file(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), {}, {}, dev=True)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_load_of_an_empty_file_returns_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "# nothing\n"), {}, {}, dev=True).http.port == 8080


@pytest.mark.parametrize(
    ("flags", "key"), [({"port": "x"}, "--port"), ({"log_level": "loud"}, "--log-level"), ({"foo": 1}, "--foo")]
)
def test_error_names_an_unusable_flag(flags: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, flags, dev=True)
    assert caught.value.key == key


@pytest.mark.parametrize("role", ["PRODUCER", "WORKER"])
def test_missing_producer_or_worker_token_is_rejected(role: str) -> None:
    environment = {name: value for name, value in TOKENS.items() if not name.startswith(role)}
    assert refusal(environment, dev=False).key == f"{role}_AUTH_PROVIDER"


def test_dev_mode_fills_in_tokens_and_binds_loopback() -> None:
    settings = load(None, {}, {}, dev=True)
    assert (only(settings.auth.producer).token, only(settings.auth.worker).token) == ("dev-token", "dev-token")
    assert only(settings.auth.producer).raw == {"role": "ADMIN", "tenantId": "dev-tenant"}
    assert len(only(settings.auth.worker).scopes) == 6
    assert only(settings.auth.worker).event_types == {"*"}
    assert settings.worker_stream_addr is not None
    assert settings.producer_stream_addr is not None
    assert {settings.http.host, settings.worker_stream_addr.host, settings.producer_stream_addr.host} == {"127.0.0.1"}
    assert settings.allowed_hosts == {"localhost", "127.0.0.1", "[::1]"}


def test_dev_mode_keeps_configured_values() -> None:
    environment = {name: value for name, value in TOKENS.items() if name.startswith("PRODUCER")}
    settings = load(None, environment | {"WORKER_STREAM_ADDR": "[::1]:7"}, {}, dev=True)
    assert only(settings.auth.producer).token == "p-secret"
    assert only(settings.auth.worker).token == "dev-token"
    assert settings.worker_stream_addr == Address("::1", 7)


@pytest.mark.parametrize(("variable", "value"), [("HTTP_HOST", "0.0.0.0"), ("WORKER_STREAM_ADDR", "queue.example:1")])
def test_dev_mode_rejects_interfaces_other_than_loopback(variable: str, value: str) -> None:
    assert refusal({variable: value}).key == variable


def test_config_check_masks_tokens_and_names_the_keys_in_the_file() -> None:
    shown = check(None, TOKENS, {}, dev=False)
    assert "secret" not in json.dumps(shown)
    assert shown["port"] == 8080
    assert shown["persistenceConfig"] == {"numShards": 1, "path": "data", "fsyncOnCommit": True}
    assert shown["workerStreamAddr"] == ":9091"


def test_printed_settings_contain_no_tokens() -> None:
    assert "secret" not in repr(load_env({}))


@pytest.mark.parametrize(
    "text",
    [
        'gatewaySecret: "s3cret\\q"',
        "gatewaySecret: s3cret: x",
        "producerAuthConfig: {token: s3cret",
        "gatewaySecret: !s3cret",
        "gatewaySecret: !s3cret!x",
        "gatewaySecret: *s3cret",
        "gatewaySecret: !!int s3cret",
        "gatewaySecret: !!bool s3cret",
        "gatewaySecret: !!timestamp s3cret",
        "gatewaySecret: !!map [s3cret]",
        "? [s3cret]\n: 1",
    ],
)
def test_error_about_a_malformed_file_repeats_none_of_its_values(tmp_path: Path, text: str) -> None:
    file = tmp_path / "codeq.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not valid YAML: ") as caught:
        load(str(file), {}, {}, dev=True)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("raw", ["{tenantId: ten, since: 2026-01-01}", "&claims {tenantId: ten, more: *claims}"])
def test_config_check_shows_claims_that_json_cannot_represent(tmp_path: Path, raw: str) -> None:
    file = tmp_path / "codeq.yaml"
    file.write_text(f"producerAuthProvider: static\nproducerAuthConfig:\n  token: t\n  raw: {raw}\n")
    assert json.dumps(check(str(file), {}, {}, dev=True))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, (False, "", None, 1.0, "")),
        (
            {
                "TRACING_ENABLED": "true",
                "TRACING_OTLP_ENDPOINT": "http://collector:4317",
                "TRACING_OTLP_INSECURE": "yes",
                "TRACING_SAMPLE_RATIO": "0.01",
                "TRACING_SERVICE_NAME": "queue",
            },
            (True, "http://collector:4317", True, 0.01, "queue"),
        ),
        (
            {"TRACING_OTLP_ENDPOINT": "collector:4317", "TRACING_SAMPLE_RATIO": "0"},
            (False, "collector:4317", None, 0.0, ""),
        ),
    ],
)
def test_settings_of_tracing_have_the_documented_names(given: dict[str, str], shown: tuple[object, ...]) -> None:
    settings = load_env(given)
    assert shown == (
        settings.tracing_enabled,
        settings.tracing_otlp_endpoint,
        settings.tracing_otlp_insecure,
        settings.tracing_sample_ratio,
        settings.tracing_service_name,
    )


@pytest.mark.parametrize("address", ["127.0.0.1:6061", "localhost:0", "[::1]:6060"])
def test_port_for_profiles_is_on_loopback(address: str) -> None:
    settings = load_env({"CODEQ_PPROF": "1", "CODEQ_PPROF_ADDR": address})
    assert settings.codeq_pprof
    assert str(settings.codeq_pprof_addr) == address


def test_port_for_profiles_leaves_room_for_those_of_all_shards() -> None:
    shards = {"PERSISTENCE_CONFIG": '{"numShards": 3}', "CODEQ_PPROF": "1"}
    settings = load_env(shards | {"CODEQ_PPROF_ADDR": "127.0.0.1:65533"})
    assert [address.port for address in settings.pprof_addrs] == [65533, 65534, 65535]
    with pytest.raises(ConfigError, match=r"CODEQ_PPROF_ADDR.*3 shards.*65536 is none"):
        load_env(shards | {"CODEQ_PPROF_ADDR": "127.0.0.1:65534"})
    assert {address.port for address in load_env(shards | {"CODEQ_PPROF_ADDR": "127.0.0.1:0"}).pprof_addrs} == {0}
