"""Setting declarations: everything about a setting follows from its single declaration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from codeq_server.config import ConfigError, Settings, check, load
from codeq_server.config.declaration import Group, Setting, read_all, setting, settings_of, shown
from codeq_server.config.forms import Boolean, Choice, Text, Whole
from codeq_server.config.given import Given
from codeq_server.config.sources import SETTINGS

TOKEN = {"token": "secret", "scopes": ["codeq:claim"], "eventTypes": ["*"], "raw": {"tenantId": "acme"}}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    per_minute: int = setting(Whole(1, 60), 6, "calls")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    name: str = setting(Text(1), "a", "name")
    password: str = setting(Text(), "", "password", secret=True)
    old: bool = setting(Boolean(), False, "no effect", ignored=True)
    producer: Limit = setting(Group(Limit), Limit(), "limit of producers")
    note: str = ""


def every_setting() -> Iterator[Setting]:
    for each in SETTINGS.values():
        yield each
        if isinstance(each.form, Group):
            yield from each.form.settings.values()


def has_default(each: Setting) -> bool:
    return each.default not in (None, dataclasses.MISSING) and not each.unset and each.name != "self_id"


@pytest.mark.parametrize("each", [each for each in every_setting() if has_default(each)], ids=lambda each: each.name)
def test_displayed_default_is_valid_input(each: Setting) -> None:
    assert each.form.read(Given(each.form.show(each.default), "key")) == each.default


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a", "RAFT_BIND_ADDR": "h:1"},
        {"RAFT_ENABLED": "true", "RAFT_SELF_ID": "a-0", "RAFT_PEERS_DNS": "b:1", "RAFT_EXPECTED_NODES": "3"},
    ],
)
def test_reloading_displayed_settings_gives_the_same_settings(tmp_path: Path, environment: dict[str, str]) -> None:
    file = tmp_path / "codeq.yaml"
    tokens = {f"{role}AuthConfig": TOKEN for role in ("producer", "worker")}
    secrets = {"gatewaySecret": "0123456789abcdef"}
    given = {"port": 81, "producerAuthProvider": "static", "workerAuthProvider": "static", **tokens, **secrets}
    file.write_text(yaml.safe_dump(given))
    before = check(str(file), environment, {}, dev=False)
    raft = {name: value for name, value in dict(before["raft"]).items() if name != "clusterSecret"}  # type: ignore[call-overload]
    again = {**before, **tokens, **secrets, "raft": raft}
    if environment:
        del again["localArtifactsDir"]
    file.write_text(yaml.safe_dump(again))
    assert check(str(file), {}, {}, dev=False) == before


def test_nested_group_is_read_and_shown() -> None:
    read = Group(Limits).read(Given({"name": "b", "password": "p", "producer": {"perMinute": 7}}, "limits"))
    assert read == Limits(name="b", password="p", producer=Limit(per_minute=7))
    assert shown(read) == {"name": "b", "password": "***", "producer": {"perMinute": 7}}
    assert "p'" not in repr(read)
    assert list(settings_of(Limits)) == ["name", "password", "old", "producer"]


def test_error_names_the_path_and_file_of_a_malformed_value_in_a_group() -> None:
    given = Given({"producer": {"perMinute": 61}}, "limits", file="codeq.yaml")
    with pytest.raises(ConfigError) as refused:
        Group(Limits).read(given)
    text = "limits.producer.perMinute: must be a whole number from 1 to 60 (in codeq.yaml)"
    assert str(refused.value) == text


def test_error_about_an_unknown_key_in_a_group_suggests_the_intended_key() -> None:
    with pytest.raises(ConfigError) as refused:
        Group(Limits).read(Given({"producer": {"perMinutes": 1}}, "limits"))
    assert str(refused.value) == "limits.producer.perMinutes: unknown key; did you mean perMinute?"


@pytest.mark.parametrize(
    ("file", "environment", "text"),
    [
        ("prot: 1", {}, "prot: unknown key; did you mean port?"),
        ("raft: {selfID: a}", {}, "raft.selfID: unknown key; did you mean selfId?"),
        ("xyzzy: 1", {}, "xyzzy: unknown key ("),
        ("", {"RAFT_PEER": "a=b:1"}, "RAFT_PEER: unknown variable; did you mean RAFT_PEERS?"),
        ("", {"CODEQ_PORT": "1"}, "CODEQ_PORT: unknown variable; did you mean PORT?"),
        ("port: '1'", {}, "port: must be a whole number from 0 to 65535 ("),
        ("", {"PORT": "x"}, "PORT: must be a whole number from 0 to 65535"),
        ("", {"ARTIFACT_BYTES_MAX": "0"}, "ARTIFACT_BYTES_MAX: must be a whole number of bytes from 1 to 6291456"),
        ("", {"LOG_FORMAT": "xml"}, "LOG_FORMAT: must be text or json"),
        ("", {"PERSISTENCE_PROVIDER": "redis"}, "PERSISTENCE_PROVIDER: redis is not supported by this version"),
        ("", {"SERVER_ADDRS": "a:1,b"}, "SERVER_ADDRS: must be servers such as host:9092; got 'b'"),
        (
            "persistenceConfig: {numShards: 33}",
            {},
            "persistenceConfig.numShards: must be a whole number from 1 to 32 (",
        ),
        (
            "persistenceConfig: {numShards: 2}\npersistenceProvider: memory",
            {},
            "persistenceConfig.numShards: must be 1 with the provider memory (",
        ),
    ],
)
def test_error_names_the_setting_its_required_form_and_the_file(
    tmp_path: Path, file: str, environment: dict[str, str], text: str
) -> None:
    path = tmp_path / "codeq.yaml"
    path.write_text(file)
    with pytest.raises(ConfigError) as refused:
        load(str(path), environment, {}, dev=True)
    message = str(refused.value)
    assert message.startswith(text)
    assert message.endswith(f"(in {path})") == bool(file)


def test_flag_overrides_one_setting_of_a_mapping() -> None:
    environment = {"PERSISTENCE_CONFIG": '{"path": "a", "fsyncOnCommit": false}'}
    settings = load(None, environment, {"persistence_config.path": "b"}, dev=True)
    assert (settings.persistence.path, settings.persistence.fsync_on_commit) == (Path("b"), False)


def test_variable_replaces_the_mapping_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "codeq.yaml"
    path.write_text("persistenceConfig: {path: a, fsyncOnCommit: false}")
    settings = load(str(path), {"PERSISTENCE_CONFIG": '{"path": "b"}'}, {}, dev=True)
    assert (settings.persistence.path, settings.persistence.fsync_on_commit) == (Path("b"), True)


def test_null_in_the_file_leaves_an_optional_setting_unset(tmp_path: Path) -> None:
    path = tmp_path / "codeq.yaml"
    path.write_text("backupDir: ~\ngatewaySecret: ~\nproducerAuthConfig: ~\nraft: ~\n")
    assert load(str(path), {}, {}, dev=True) == load(None, {}, {}, dev=True)
    path.write_text("port: ~")
    with pytest.raises(ConfigError, match="port: must be a whole number"):
        load(str(path), {}, {}, dev=True)


@pytest.mark.parametrize("text", ["1e3", "007", "+5", "1_000", "٣", " ", "0x10", "5.0"])
def test_number_must_be_written_in_plain_digits(text: str) -> None:
    declared = {"per_minute": settings_of(Limit)["per_minute"]}
    assert read_all(declared, {"per_minute": Given("5", "LIMIT", is_text=True)}) == {"per_minute": 5}
    with pytest.raises(ConfigError):
        read_all(declared, {"per_minute": Given(text, "LIMIT", is_text=True)})


def test_alias_is_read_as_the_word_it_stands_for() -> None:
    assert Choice(["a", "b"], {"c": "a"}).read(Given("c", "key")) == "a"
    assert load(None, {"PERSISTENCE_PROVIDER": "pebble"}, {}, dev=True).persistence_provider == "rocksdb"


def test_every_setting_has_a_unique_name_in_file_and_environment() -> None:
    assert len({each.key for each in SETTINGS.values()}) == len(SETTINGS)
    assert set(settings_of(Settings)) < set(SETTINGS)
