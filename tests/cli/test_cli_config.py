"""Settings of the client commands: profile file, precedence, and the check of a server's configuration."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import codeq
import pytest
import yaml
from authority import Authority
from codeq_cli import profile
from codeq_server.config.sources import CLIENT_VARIABLES
from recording_server import Run

URL = "http://localhost:9999"
STATIC = {
    "PRODUCER_AUTH_PROVIDER": "static",
    "PRODUCER_AUTH_CONFIG": '{"token":"hidden-token","subject":"s","raw":{"tenantId":"t1"}}',
    "WORKER_AUTH_PROVIDER": "static",
    "WORKER_AUTH_CONFIG": (
        '{"token":"hidden-token","scopes":["codeq:claim"],"eventTypes":["*"],"raw":{"tenantId":"t1"}}'
    ),
}


def profile_file(tmp_path: Path) -> Path:
    return tmp_path / "profile" / "config.yaml"


def shown(run: Run, *args: str, **environment: str) -> dict[str, tuple[str, str]]:
    done = run(*args, "config", "show", **environment)
    assert done.returncode == 0, done.stderr
    return {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)["settings"]}


def test_set_writes_a_file_that_only_its_owner_can_read(run: Run, tmp_path: Path) -> None:
    assert run("config", "set", "endpoint", URL).returncode == 0
    assert run("config", "set", "token", "secret").returncode == 0
    path = profile_file(tmp_path)
    assert yaml.safe_load(path.read_text()) == {"endpoint": URL, "token": "secret"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]


def test_set_removes_access_by_others_from_an_existing_file(run: Run, tmp_path: Path) -> None:
    profile_file(tmp_path).parent.mkdir()
    profile_file(tmp_path).write_text("endpoint: http://h\n")
    profile_file(tmp_path).chmod(0o644)
    run("config", "set", "token", "secret")
    assert stat.S_IMODE(profile_file(tmp_path).stat().st_mode) == 0o600


def test_set_with_an_empty_value_removes_the_key(run: Run, tmp_path: Path) -> None:
    run("config", "set", "token", "secret")
    assert run("config", "set", "token", "").returncode == 0
    assert run("config", "get", "token").returncode == 1
    assert b"secret" not in profile_file(tmp_path).read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", "localhost:8080"),
        ("endpoint", "ftp://host"),
        ("endpoint", "http://"),
        ("endpoint", "http://host:99999"),
        ("endpoint", "http://user@host"),
        ("endpoint", "http://host/?a=b"),
        ("endpoint", "http://ho st"),
        ("token", "a b"),
        ("token", "ü"),
        ("colour", "red"),
    ],
)
def test_set_with_a_malformed_value_changes_nothing(run: Run, tmp_path: Path, key: str, value: str) -> None:
    done = run("config", "set", key, value)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert not profile_file(tmp_path).exists()


def test_profile_is_in_the_home_directory_by_default(run: Run, tmp_path: Path) -> None:
    run("config", "set", "endpoint", URL, CODEQ_CONFIG_DIR="", HOME=str(tmp_path))
    assert (tmp_path / ".codeq" / "config.yaml").exists()


def test_flags_take_precedence_over_the_environment_then_the_file_then_defaults(run: Run, tmp_path: Path) -> None:
    assert shown(run) == {
        "endpoint": ("http://localhost:8080", "default"),
        "token": (None, "default"),
        "worker-token": (None, "default"),
    }
    run("config", "set", "endpoint", URL)
    run("config", "set", "token", "stored")
    file = str(profile_file(tmp_path))
    unset = (None, "default")
    stored = {"endpoint": (URL, file), "token": ("********", file), "worker-token": unset}
    assert shown(run, CODEQ_TOKEN="") == stored
    environment = {"CODEQ_ENDPOINT": "http://e", "CODEQ_TOKEN": "from-environment"}
    assert shown(run, **environment)["endpoint"] == ("http://e", "CODEQ_ENDPOINT")
    flags = ["--endpoint", "http://f", "--token", "from-flag"]
    given = {"endpoint": ("http://f", "flag"), "token": ("********", "flag"), "worker-token": unset}
    assert shown(run, *flags, **environment) == given
    assert run("config", "get", "token", **environment).stdout == b"from-environment\n"
    assert run("config", "get", "endpoint").stdout == URL.encode() + b"\n"


def test_profiles_are_named_sets_of_settings(run: Run, tmp_path: Path) -> None:
    run("config", "set", "endpoint", URL)
    for key, value in (("endpoint", "http://a,http://b"), ("token", "p"), ("worker-token", "w")):
        assert run("config", "set", key, value, "--profile", "prod").returncode == 0
    named = f"{profile_file(tmp_path)}, profile prod"
    assert shown(run)["endpoint"] == (URL, str(profile_file(tmp_path)))
    assert shown(run, CODEQ_PROFILE="prod")["endpoint"] == ("http://a,http://b", named)
    variable = {"CODEQ_TOKEN": "from-environment", "CODEQ_PROFILE": "prod"}
    assert shown(run, **variable)["token"] == ("********", "CODEQ_TOKEN")  # a variable overrides a profile
    assert shown(run, "--profile", "prod", **variable)["token"] == ("********", named)  # an option overrides variables
    assert run("config", "get", "worker-token", "--profile", "prod").stdout == b"w\n"
    missing = run("--profile", "test", "task", "get", "t1")
    assert (missing.returncode, b"no profile 'test'; it has prod" in missing.stderr) == (2, True)
    for key in ("endpoint", "token", "worker-token"):
        run("--profile", "prod", "config", "set", key, "")
    assert yaml.safe_load(profile_file(tmp_path).read_text()) == {"endpoint": URL}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"endpoint: [", b"not a YAML file"),
        (b"\xff\xfe\xff", b"not a YAML file"),
        (b"- a", b"not a mapping"),
        (b"colour: red", b"unknown key 'colour'"),
        (b"token: 5", b"token must be text"),
        (b"profiles: 5", b"profiles is not a mapping"),
        (b"profiles: {a: 5}", b"profiles: 'a' is not a mapping"),
        (b"profiles: {a: {colour: red}}", b"profile 'a': unknown key 'colour'"),
        (b"endpoint: nowhere", b"'nowhere' is not a URL"),
        (b"token: " + b"x" * 65536, b"larger than 65536 bytes"),
    ],
)
def test_error_names_the_unusable_profile_file(run: Run, tmp_path: Path, content: bytes, part: bytes) -> None:
    profile_file(tmp_path).parent.mkdir()
    profile_file(tmp_path).write_bytes(content)
    done = run("task", "get", "t1")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert part in done.stderr
    assert str(profile_file(tmp_path)).encode() in done.stderr
    assert done.stderr.endswith(b"(CONFIGURATION)\n")


def test_error_names_the_profile_file_if_its_folder_cannot_be_created(run: Run, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("a file")
    done = run("config", "set", "endpoint", URL)
    assert done.returncode == 2
    assert b"Not a directory" in done.stderr


def test_check_shows_the_effective_settings_without_secrets(run: Run, tmp_path: Path) -> None:
    (tmp_path / "codeq.yaml").write_text("port: 8181\nlogLevel: warn\n")
    done = run("config", "check", "--config", "codeq.yaml", LOG_LEVEL="debug", **STATIC)
    assert (done.returncode, done.stderr) == (0, b"")
    settings = json.loads(done.stdout)
    assert (settings["port"], settings["logLevel"]) == (8181, "debug")
    assert b"hidden-token" not in done.stdout


def test_check_reports_an_unknown_key(run: Run, tmp_path: Path) -> None:
    (tmp_path / "codeq.yaml").write_text("prot: 8181\n")
    done = run("config", "check", "--config", "codeq.yaml", "--dev")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: prot: ")
    assert done.stderr.count(b"\n") == 1


def test_check_without_a_token_fails_except_in_dev_mode(run: Run) -> None:
    assert run("config", "check").returncode == 2
    assert run("config", "check", "--dev").returncode == 0


@pytest.mark.parametrize(
    ("args", "environment", "key"),
    [
        (("--port", "70000"), {}, b"--port: "),
        (("--port", "x"), {}, b"--port"),
        (("--log-level", "loud"), {}, b"--log-level: "),
        (("--worker-stream-addr", "nowhere"), {}, b"--worker-stream-addr: "),
        (("--store", ""), {}, b"--store: "),
        (("--store", "x"), {"PERSISTENCE_PROVIDER": "memory"}, b"--store: "),
        (("--no-fsync",), {"PERSISTENCE_PROVIDER": "memory"}, b"--no-fsync: "),
        ((), {"PORT": "x"}, b"PORT: "),
        (("--config", "missing.yaml"), {}, b"--config: "),
    ],
)
def test_serve_reports_an_invalid_setting_in_one_line(
    run: Run, args: tuple[str, ...], environment: dict[str, str], key: bytes
) -> None:
    done = run("serve", "--dev", *args, **environment)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ")
    assert key in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_version_output_matches_the_document(run: Run) -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"codeq version 0.")


@pytest.mark.parametrize(
    ("args", "codes"),
    [
        ((), b"3 nothing to claim"),
        (("--help",), b"3 nothing to claim"),
        (("task", "--help"), b"3 nothing to claim"),
        (("task", "create", "--help"), b""),
        (("serve", "--help"), b"1 could not start or continue"),
        (("store", "--help"), b"1 check found differences"),
        (("config", "--help"), b"1 get: the setting has no value"),
    ],
)
def test_help_lists_the_exit_codes_of_the_command(run: Run, args: tuple[str, ...], codes: bytes) -> None:
    done = run(*args)
    assert (done.returncode, done.stderr) == (0, b"")
    assert codes in done.stdout
    assert (b"nothing to claim" in done.stdout) == (b"nothing to claim" in codes)


def test_client_commands_do_not_import_the_server(run: Run) -> None:
    done = run("task", "get", "t1", CODEQ_ENDPOINT="http://127.0.0.1:1", PYTHONPROFILEIMPORTTIME="1")
    assert b"codeq_cli.rest" in done.stderr
    assert b" codeq_server" not in done.stderr  # not the finder of an editable installation
    assert b"grpc" not in done.stderr


def test_gateway_check_requires_servers_and_their_secret(run: Run) -> None:
    refused = run("config", "check", "--mode", "gateway")
    assert (refused.returncode, refused.stderr.split(b":")[1].strip()) == (2, b"SERVER_ADDRS")
    refused = run("config", "check", "--mode", "gateway", SERVER_ADDRS="a:1")
    assert (refused.returncode, refused.stderr.split(b":")[1].strip()) == (2, b"GATEWAY_SECRET")
    given = {"SERVER_ADDRS": "a:1,b:2", "GATEWAY_SECRET": "0123456789abcdef"}
    checked = run("-o", "json", "config", "check", "--mode", "gateway", **given)
    assert (checked.returncode, json.loads(checked.stdout)["serverAddrs"]) == (0, ["a:1", "b:2"])


def test_check_of_a_server_without_rest_requires_a_grpc_listener(run: Run) -> None:
    silent = {"WORKER_STREAM_ADDR": "", "PRODUCER_STREAM_ADDR": ""}
    assert run("config", "check", "--dev", **silent).returncode == 0
    refused = run("config", "check", "--dev", "--mode", "server", **silent)
    assert (refused.returncode, b"PRODUCER_STREAM_ADDR" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", [["server", "--dev"], ["gateway"]])
def test_startup_error_names_the_missing_address(run: Run, command: list[str]) -> None:
    refused = run(*command, WORKER_STREAM_ADDR="", PRODUCER_STREAM_ADDR="")
    assert refused.returncode == 2
    assert refused.stderr.count(b"_ADDR") >= 1


@pytest.mark.parametrize(
    "command", [["config", "check"], ["config", "check", "--mode", "gateway"], ["serve"], ["gateway"]], ids=" ".join
)
def test_files_of_tls_are_read_by_the_check_and_at_the_start(run: Run, tmp_path: Path, command: list[str]) -> None:
    files = Authority().files(tmp_path / "tls")
    given = files.server_env | {"TLS_CLIENT_CA_FILE": str(tmp_path / "clients.pem"), "SERVER_ADDRS": "localhost:1"}
    (tmp_path / "clients.pem").write_bytes(b"garbage")
    refused = run(*command, "--dev", **given)
    assert refused.returncode == 2
    (line,) = refused.stderr.decode().splitlines()
    assert line.startswith(f"error: TLS_CLIENT_CA_FILE: {tmp_path}/clients.pem contains no certificate")
    assert line.endswith("(CONFIGURATION)")
    assert "garbage" not in line


def test_check_warns_about_settings_without_effect(run: Run) -> None:
    done = run("config", "check", OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4317", **STATIC)
    assert done.returncode == 0
    assert done.stderr.startswith(b"warning: OTEL_EXPORTER_OTLP_ENDPOINT: ")


def test_error_names_the_foreign_distribution_codeq(run: Run, tmp_path: Path) -> None:
    merged = tmp_path / "codeq"  # as left by two installations into one folder
    merged.mkdir()
    for path in Path(codeq.__file__).parent.iterdir():
        (merged / path.name).symlink_to(path)
    (merged / "__init__.py").unlink()
    (merged / "__init__.py").write_text("")
    done = run("serve", "--dev", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert done.returncode == 2
    assert f"{merged}/__init__.py: not the SDK of this server".encode() in done.stderr


def test_servers_know_every_variable_of_the_client() -> None:
    assert {*profile.ENVIRONMENT.values(), profile.PROFILE_VARIABLE} <= CLIENT_VARIABLES
