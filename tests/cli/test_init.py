"""codeq init writes a configuration that the server accepts, and a profile that its tokens are in."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from codeq_server.config import load
from recording_server import Run


def test_init_writes_a_configuration_with_random_tokens(run: Run, tmp_path: Path) -> None:
    assert run("init", "--tenant", "acme").returncode == 0
    path = tmp_path / "codeq.yaml"
    settings = load(str(path), {}, {}, dev=False)
    assert settings.notes == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tokens = [token for auth in (settings.auth.producer, settings.auth.worker) for _, token in auth.tokens]
    assert [len(each.token) for each in tokens] == [64, 64]
    assert [each.raw["tenantId"] for each in tokens] == ["acme", "acme"]
    assert (settings.persistence.path, settings.backup_dir) == (tmp_path / "data", tmp_path / "backups")


def test_init_has_no_options_for_a_server(run: Run) -> None:
    shown = run("init", "--help").stdout.decode()
    assert "--profile" in shown
    for other in ("--endpoint", "--token", "--ca", "--cert", "--output", "get:"):
        assert other not in shown


def test_init_puts_the_tokens_into_a_profile(run: Run, tmp_path: Path) -> None:
    assert run("init", "--profile", "prod").returncode == 0
    written = yaml.safe_load((tmp_path / "codeq.yaml").read_text())
    for key, config in (("token", "producerAuthConfig"), ("worker-token", "workerAuthConfig")):
        stored = run("--profile", "prod", "config", "get", key).stdout.decode().strip()
        assert stored == written[config]["token"]


def test_init_replaces_neither_files_nor_tokens_without_force(run: Run, tmp_path: Path) -> None:
    run("init")
    before = (tmp_path / "codeq.yaml").read_text()
    for options in ((), ("--file", "other.yaml"), ("--no-profile",)):
        done = run("init", *options)
        assert (done.returncode, b"--force" in done.stderr) == (2, True)
    assert not (tmp_path / "other.yaml").exists()
    assert (tmp_path / "codeq.yaml").read_text() == before
    assert run("init", "--force").returncode == 0
    assert (tmp_path / "codeq.yaml").read_text() != before


def test_init_writes_variables_that_a_shell_reads(plain_environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "a server's"
    folder.mkdir()
    command = [sys.executable, "-m", "codeq_cli.main", "init", "--file", "codeq.env", "--no-profile"]
    subprocess.run(command, cwd=folder, env=plain_environment, check=True)
    assert not (tmp_path / "profile").exists()
    script = "set -a; . ./codeq.env; set +a; env"
    shown = subprocess.run(["/bin/sh", "-c", script], cwd=folder, env={}, capture_output=True, text=True, check=True)
    variables = dict(line.partition("=")[::2] for line in shown.stdout.splitlines())
    settings = load(None, variables, {}, dev=False)
    assert settings.notes == ()
    assert (settings.persistence.path, settings.backup_dir) == (folder / "data", folder / "backups")


@pytest.mark.parametrize("file", ["codeq.yaml", "codeq.env"])
def test_init_refuses_a_current_folder_that_cannot_be_written_on_a_line(
    plain_environment: dict[str, str], tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "a\nb"
    folder.mkdir()
    command = [sys.executable, "-m", "codeq_cli.main", "init", "--file", file, "--no-profile"]
    done = subprocess.run(command, cwd=folder, env=plain_environment, check=False, capture_output=True)
    assert (done.returncode, b"the current folder" in done.stderr, done.stderr.count(b"\n")) == (2, True, 1)
    assert [*folder.iterdir()] == []


@pytest.mark.parametrize("file", ["codeq.yaml", "codeq.env"])
def test_head_of_the_file_names_the_commands(run: Run, tmp_path: Path, file: str) -> None:
    run("init", "--file", file)
    head = (tmp_path / file).read_text().splitlines()[:4]
    assert any(file in line and "codeq doctor" in line for line in head)


@pytest.mark.parametrize("tenant", ["x'; touch PWNED; '", "Acme", "a", "_default", "a\n"])
@pytest.mark.parametrize("file", ["codeq.yaml", "codeq.env"])
def test_init_refuses_what_is_no_name_of_a_tenant(run: Run, tmp_path: Path, tenant: str, file: str) -> None:
    done = run("init", "--file", file, "--tenant", tenant)
    assert (done.returncode, b"--tenant" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["a\ntouch PWNED\n.env", "a\r.yaml", "d\udcff.yaml", "d\udcff.env"])
def test_init_refuses_control_characters_and_other_encodings_in_the_name_of_the_file(
    run: Run, tmp_path: Path, file: str
) -> None:
    done = run("init", "--file", file)
    assert (done.returncode, b"error: --file: " in done.stderr, done.stderr.count(b"\n")) == (2, True, 1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_in_the_head_works_for_every_name_of_the_file(run: Run, tmp_path: Path) -> None:
    for file in ("with space; touch PWNED.env", str(tmp_path / "it's $HOME.env")):
        assert run("init", "--no-profile", "--file", file).returncode == 0
        path = tmp_path / file
        sourcing = path.read_text().splitlines()[1].removeprefix("#").partition("set +a;")[0]
        script = f"{sourcing} echo $PORT"
        shown = subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, env={}, capture_output=True, check=True)
        assert shown.stdout == b"8080\n"
    assert not (tmp_path / "PWNED").exists()


def identity(path: Path) -> tuple[int, int, int]:
    """Returns what shows that a file was neither replaced nor written; reading a link changes its other times."""
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_mtime_ns


def test_force_replaces_only_regular_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "aim").write_text("mine")
    (tmp_path / "link.yaml").symlink_to("aim")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("link.yaml", "folder.yaml", "pipe.yaml"):
        before = identity(tmp_path / name)
        done = run("init", "--force", "--file", name)
        assert (done.returncode, name.encode() in done.stderr) == (2, True)
        assert identity(tmp_path / name) == before
    assert (tmp_path / "aim").read_text() == "mine"
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("name", ["f" * 300, "file/codeq.yaml"])
def test_a_place_that_cannot_be_written_is_told_in_one_line(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    done = run("init", "--file", name)
    assert (done.returncode, done.stderr.count(b"\n"), b"cannot write" in done.stderr) == (2, 1, True)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("fault", ["name", "content", "folder"])
def test_an_unusable_profile_is_found_before_anything_is_written(run: Run, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "profile"
    if fault == "content":
        folder.mkdir()
        (folder / "config.yaml").write_text("[")
    elif fault == "folder":
        folder.symlink_to("/proc/none")
    done = run("init", *(["--profile", "a b"] if fault == "name" else []))
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert not (tmp_path / "codeq.yaml").exists()


def test_init_uses_the_profile_that_the_environment_names(run: Run, tmp_path: Path) -> None:
    done = run("init", CODEQ_PROFILE="prod")
    assert done.stdout.endswith(b", profile prod\n")
    stored = yaml.safe_load((tmp_path / "profile" / "config.yaml").read_text())
    assert (list(stored), list(stored["profiles"])) == (["profiles"], ["prod"])


def test_a_profile_file_that_is_a_link_stays_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "profile").mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "profile" / "config.yaml").symlink_to("../kept/codeq.yaml")
    for options in ((), ("--force",)):
        assert run("init", *options).returncode == 0
        assert (tmp_path / "profile" / "config.yaml").is_symlink()
        assert list(yaml.safe_load((tmp_path / "kept" / "codeq.yaml").read_text())) == ["token", "worker-token"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["codeq.yaml"]
