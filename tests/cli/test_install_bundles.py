"""codeq install writes bundles that Compose, helm and the server accept, and overwrites nothing."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from codeq_cli import env_files
from codeq_cli.install.bundle import LIST
from codeq_server.config import load
from recording_server import Run

SECRET = "a-secret-of-callbacks"
ROOT = Path(__file__).resolve().parents[2]


def with_tls(folder: Path) -> Path:
    """Makes a folder with files of TLS."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tls.crt", "tls.key"):
        (folder / name).touch()
    return folder


def installed(run: Run, *args: str) -> dict[str, Any]:
    """Runs the command; returns what it tells."""
    done = run("install", *args)
    assert (done.returncode, done.stderr) == (0, b"")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_docker_for_development_is_the_default(run: Run, tmp_path: Path) -> None:
    told = installed(run)
    folder = tmp_path / "codeq-install"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    started = "docker compose --project-directory codeq-install --file codeq-install/compose.yaml up --detach"
    assert told["next"] == [started]
    assert "build" not in compose["services"]["codeq"]
    assert all(each.startswith("127.0.0.1:") for each in compose["services"]["codeq"]["ports"])
    settings = load(None, env_files.read(folder / "codeq.env"), {}, dev=False)
    assert len(settings.webhook_hmac_secret) == 64
    assert settings.notes == ()


@pytest.mark.parametrize(
    ("size", "way"),
    [
        ("dev", ()),
        *product(["small", "medium", "large"], [("--domain", "queue.example.com"), ("--tls-dir", "own")]),
    ],
)
def test_every_file_that_a_compose_project_mounts_is_in_its_folder(
    run: Run, tmp_path: Path, size: str, way: tuple[str, ...]
) -> None:
    with_tls(tmp_path / "own")
    told = installed(run, "--size", size, "--output-dir", "out", *way)
    folder = tmp_path / "out"
    files = env_files.read(folder / ".env").get("COMPOSE_FILE", "compose.yaml").split(":")
    words = told["next"][0].split()
    assert [after for word, after in pairwise(words) if word == "--file"] == [f"out/{name}" for name in files]
    for name in files:
        text = (folder / name).read_text()
        assert "../" not in text
        for service in yaml.safe_load(text)["services"].values():
            sources = [each.partition(":")[0] for each in service.get("volumes", [])]
            sources += service.get("env_file", [])
            assert [each for each in sources if each.startswith(".") and not (folder / each).exists()] == []


def test_production_has_random_secrets_that_only_the_owner_reads(run: Run, tmp_path: Path) -> None:
    secrets = []
    for folder in ("one", "two"):
        installed(run, "--size", "small", "--output-dir", folder, "--domain", "queue.example.com", "--tenant", "acme")
        path = tmp_path / folder / ".env"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        variables = env_files.read(path)
        assert (variables["TENANT"], variables["CODEQ_DOMAIN"]) == ("acme", "queue.example.com")
        secrets += [variables[name] for name in ("PRODUCER_TOKEN", "WORKER_TOKEN", "WEBHOOK_HMAC_SECRET")]
    assert len(set(secrets)) == 6
    assert all(len(each) == 64 for each in secrets)
    shown = b"".join(
        path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file() and path.name != ".env"
    )
    assert not any(each.encode() in shown for each in secrets)
    assert b"env.example" not in shown + (tmp_path / "one" / ".env").read_bytes()


def test_production_without_a_name_says_what_is_missing_and_is_not_started(run: Run, tmp_path: Path) -> None:
    assert "--domain" in installed(run, "--size", "small")["missing"]
    done = run("install", "--size", "small", "--output-dir", "other", "--execute")
    assert (done.returncode, b"--execute needs" in done.stderr) == (2, True)
    assert not (tmp_path / "other").exists()


def test_memory_of_a_size_is_that_of_the_chart(run: Run, tmp_path: Path) -> None:
    installed(run, "--size", "large", "--domain", "queue.example.com")
    values = yaml.safe_load((ROOT / "helm" / "codeq" / "values-large.yaml").read_text())
    limit = yaml.safe_load((tmp_path / "codeq-install" / "size.yaml").read_text())["services"]["codeq"]["mem_limit"]
    assert values["resources"]["limits"]["memory"].lower() == f"{limit}i"


def test_image_release_and_secret_are_taken_over(run: Run, tmp_path: Path) -> None:
    given = ["--image", "registry.local:5000/queue:2.0", "--release", "jobs", "--webhook-hmac-secret", SECRET]
    installed(run, *given)
    folder = tmp_path / "codeq-install"
    assert env_files.read(folder / ".env") == {"COMPOSE_PROJECT_NAME": "jobs", "CODEQ_TAG": "2.0"}
    assert "image: &image registry.local:5000/queue:${CODEQ_TAG" in (folder / "compose.yaml").read_text()
    assert env_files.read(folder / "codeq.env")["WEBHOOK_HMAC_SECRET"] == SECRET
    installed(run, "--target", "kubernetes", "--output-dir", "k8s", "--domain", "queue.example.com", *given)
    values = yaml.safe_load((tmp_path / "k8s" / "values.yaml").read_text())
    assert values["image"] == {"repository": "registry.local:5000/queue", "tag": "2.0"}
    assert values["ingress"]["host"] == "queue.example.com"


@pytest.mark.parametrize("size", ["dev", "small", "medium", "large"])
def test_kubernetes_gets_the_chart_values_and_a_secret(run: Run, tmp_path: Path, size: str) -> None:
    told = installed(run, "--target", "kubernetes", "--size", size, "--namespace", "queues", "--output-dir", "out")
    folder = tmp_path / "out"
    namespace, secret = yaml.safe_load_all((folder / "secret.yaml").read_text())
    values = yaml.safe_load((folder / "values.yaml").read_text())
    assert stat.S_IMODE((folder / "secret.yaml").stat().st_mode) == 0o600
    assert (namespace["metadata"]["name"], secret["metadata"]["namespace"]) == ("queues", "queues")
    assert values["auth"]["existingSecret"] == secret["metadata"]["name"]
    apply, upgrade = told["next"]
    assert apply == "kubectl apply --filename out/secret.yaml"
    assert f"--values out/chart/values-{size}.yaml --values out/values.yaml" in upgrade
    content = secret["stringData"]
    env = {f"{role.upper()}_AUTH_PROVIDER": "static" for role in ("producer", "worker")}
    env |= {f"{role.upper()}_AUTH_CONFIG": content[f"{role}s.json"] for role in ("producer", "worker")}
    assert load(None, env, {}, dev=False).notes == ()
    assert json.loads(content["producers.json"])[0]["token"] == content["producer-token"]


def test_the_chart_in_a_bundle_is_that_of_the_checkout(run: Run, tmp_path: Path) -> None:
    installed(run, "--target", "kubernetes")
    chart = ROOT / "helm" / "codeq"
    copied = tmp_path / "codeq-install" / "chart"
    for path in chart.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (copied / path.relative_to(chart)).read_bytes() == path.read_bytes()


def test_nothing_is_overwritten_without_force(run: Run, tmp_path: Path) -> None:
    installed(run, "--size", "small", "--domain", "a.example.com")
    path = tmp_path / "codeq-install" / ".env"
    before = path.read_text()
    done = run("install", "--size", "small", "--domain", "b.example.com")
    assert (done.returncode, done.stdout, b"--force" in done.stderr) == (2, b"", True)
    assert path.read_text() == before
    installed(run, "--size", "small", "--domain", "b.example.com", "--force")
    assert env_files.read(path)["CODEQ_DOMAIN"] == "b.example.com"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_with_other_files_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "codeq-install").mkdir()
    (tmp_path / "codeq-install" / "notes.txt").touch()
    for options in ((), ("--force",)):
        done = run("install", *options)
        assert (done.returncode, b"has other files, and no earlier bundle" in done.stderr) == (2, True)
        assert [path.name for path in (tmp_path / "codeq-install").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "listed", ["", "compose.yaml\n", "# other\n.env\n", "{head}\n../aim\n", "{head}\n/aim\n", "\0"]
)
def test_a_list_of_files_that_is_not_ours_lets_nothing_be_replaced(run: Run, tmp_path: Path, listed: str) -> None:
    installed(run)
    (tmp_path / "aim").touch()
    folder = tmp_path / "codeq-install"
    head = (folder / LIST).read_text().splitlines()[0]
    (folder / LIST).write_text(listed.format(head=head))
    before = (folder / "codeq.env").read_text()
    done = run("install", "--force")
    assert (done.returncode, b"does not list the files of a bundle" in done.stderr) == (2, True)
    assert (tmp_path / "aim").exists()
    assert (folder / "codeq.env").read_text() == before


def test_force_removes_what_only_the_earlier_bundle_had_and_keeps_files_of_others(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "codeq-install"
    installed(run, "--target", "kubernetes")
    (folder / "notes.txt").write_text("mine")
    (folder / "chart" / "mine.yaml").write_text("mine")
    installed(run, "--force", "--size", "small", "--domain", "a.example.com")
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    told = installed(run, "--size", "small", "--domain", "a.example.com", "--output-dir", "new")
    assert left == {LIST, "notes.txt", "chart/mine.yaml", *told["files"]}
    assert (folder / LIST).read_text() == (tmp_path / "new" / LIST).read_text()
    assert sorted(path.name for path in (folder / "chart").iterdir()) == ["mine.yaml"]


def test_force_replaces_neither_a_file_of_others_nor_anything_but_regular_files(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "codeq-install"
    installed(run)
    (tmp_path / "aim").mkdir()
    (tmp_path / "aim" / "load.py").write_text("mine")
    (folder / "size.yaml").write_text("mine")
    before = (folder / "codeq.env").read_text()
    given = ("install", "--force", "--size", "small", "--domain", "a.example.com")
    done = run(*given)
    assert (done.returncode, b"size.yaml is not of the earlier bundle" in done.stderr) == (2, True)
    (folder / "size.yaml").unlink()
    (folder / ".env").unlink()
    (folder / ".env").symlink_to(tmp_path / "aim" / "load.py")
    done = run(*given)
    assert (done.returncode, b".env is a symbolic link" in done.stderr) == (2, True)
    (folder / ".env").unlink()
    shutil.rmtree(folder / "grafana")
    (folder / "grafana").symlink_to(tmp_path / "aim")
    done = run(*given)
    assert (done.returncode, b"grafana is a symbolic link" in done.stderr) == (2, True)
    assert (folder / "codeq.env").read_text() == before
    assert (tmp_path / "aim" / "load.py").read_text() == "mine"


def test_what_is_left_of_an_interrupted_install_can_be_replaced(run: Run, tmp_path: Path) -> None:
    installed(run)
    folder = tmp_path / "codeq-install"
    for name in ("compose.yaml", "codeq.env"):
        (folder / name).unlink()
    installed(run, "--force")
    assert (folder / "compose.yaml").exists()


@pytest.mark.parametrize("place", ["x" * 300, "file", "file/sub", "a\nb", "d\udcff", "-x"])
def test_a_folder_that_cannot_be_written_is_told_in_one_line(run: Run, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    for options in ((), ("--force",)):
        done = run("install", *options, f"--output-dir={place}")
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
        assert done.stderr.startswith(b"error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_certificates_that_cannot_be_read_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (with_tls(tmp_path / "half") / "tls.key").unlink()
    (tmp_path / "folder" / "tls.crt").mkdir(parents=True)
    places = {"empty": "tls.crt", "half": "tls.key", "folder": "tls.crt is not a file", "x" * 300: "too long"}
    for place, told in places.items():
        done = run("install", "--size", "small", "--tls-dir", place)
        assert (done.returncode, done.stderr.count(b"\n"), told in done.stderr.decode()) == (2, 1, True)
    assert not (tmp_path / "codeq-install").exists()


def test_the_folder_of_certificates_is_quoted_for_compose(run: Run, tmp_path: Path) -> None:
    folder = with_tls(tmp_path / 'of mine #1 $HOME "é"')
    installed(run, "--size", "small", "--tls-dir", folder.name)
    assert env_files.read(tmp_path / "codeq-install" / ".env")["TLS_DIR"] == str(folder)
    for name in ("it's", "a:b", "a\\b", "a\nb", "d\udcff"):
        with_tls(tmp_path / name)
        done = run("install", "--size", "small", "--tls-dir", name, "--output-dir", "other")
        assert (done.returncode, b"error: --tls-dir: " in done.stderr, done.stderr.count(b"\n")) == (2, True, 1)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "given", [("--domain", "a.example.com"), ("--tenant", "acme"), ("--tls-dir", "."), ("--namespace", "queues")]
)
def test_an_option_that_the_bundle_would_ignore_is_refused(run: Run, tmp_path: Path, given: tuple[str, str]) -> None:
    done = run("install", "--size", "dev", *given)
    assert (done.returncode, done.stderr.decode().startswith(f"error: {given[0]} is ")) == (2, True)
    assert not (tmp_path / "codeq-install").exists()


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_the_secret_of_callbacks_need_not_be_on_the_command_line(run: Run, tmp_path: Path, way: str) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    value = "@secret" if way == "file" else "-"
    done = run("install", "--webhook-hmac-secret", value, stdin=f"{SECRET}\n".encode())
    assert done.returncode == 0
    assert env_files.read(tmp_path / "codeq-install" / "codeq.env")["WEBHOOK_HMAC_SECRET"] == SECRET


def test_a_digest_of_the_image_is_taken_over(run: Run, tmp_path: Path) -> None:
    digest = f"sha256:{'0a' * 32}"
    installed(run, "--image", f"registry.local:5000/queue:2.0@{digest}")
    assert env_files.read(tmp_path / "codeq-install" / ".env")["CODEQ_TAG"] == f"2.0@{digest}"
    installed(run, "--target", "kubernetes", "--image", f"queue@{digest}", "--output-dir", "k8s")
    image = yaml.safe_load((tmp_path / "k8s" / "values.yaml").read_text())["image"]
    assert (image["repository"], image["digest"]) == ("queue", digest)


def test_without_an_answer_it_ends_in_one_line(plain_environment: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "codeq_cli.main", "install"]
    with subprocess.Popen(command, stdin=theirs, stderr=theirs, env=plain_environment, cwd=tmp_path) as asking:
        os.close(theirs)
        os.write(ours, b"\x04")
        assert asking.wait(timeout=30) == 2
    told = b""
    with suppress(OSError):  # a terminal that nobody has open
        while part := os.read(ours, 4096):
            told += part
    os.close(ours)
    assert b"the input ended before an answer" in told
    assert b"Traceback" not in told


def test_on_a_terminal_it_asks_for_what_is_not_given(plain_environment: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "codeq_cli.main", "install"]
    with subprocess.Popen(
        command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=plain_environment, cwd=tmp_path
    ) as asking:
        os.close(theirs)
        os.write(ours, b"moon\ndocker\nsmall\nqueue.example.com\n")
        assert asking.wait(timeout=30) == 0
        assert asking.stdout is not None
        assert json.loads(asking.stdout.read())["missing"] == ""
    os.close(ours)
    assert env_files.read(tmp_path / "codeq-install" / ".env")["CODEQ_DOMAIN"] == "queue.example.com"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--release", "No"),
        ("--namespace", "-a"),
        ("--tenant", "a b"),
        ("--image", "a b"),
        ("--image", ".."),
        ("--image", "-rm"),
        ("--image", "x:é"),
        ("--image", "x/../y"),
        ("--image", "x:"),
        ("--image", "x@sha256:0a"),
        ("--output-dir", "-x"),
        ("--domain", "localhost"),
        ("--tls-dir", "missing"),
        ("--webhook-hmac-secret", "short"),
        ("--webhook-hmac-secret", ""),
        ("--webhook-hmac-secret", "@missing"),
        ("--webhook-hmac-secret", "-"),
        ("--webhook-hmac-secret", "with $signs and spaces"),
        ("--size", "huge"),
        ("--target", "moon"),
    ],
)
def test_a_malformed_choice_writes_nothing(run: Run, tmp_path: Path, option: str, value: str) -> None:
    done = run("install", f"{option}={value}")
    assert (done.returncode, done.stdout, option.encode() in done.stderr) == (2, b"", True)
    assert not (tmp_path / "codeq-install").exists()


def test_certificates_of_a_folder_are_refused_for_kubernetes(run: Run, tmp_path: Path) -> None:
    done = run("install", "--target", "kubernetes", "--tls-dir", ".")
    assert (done.returncode, b"--tls-dir is for --target docker" in done.stderr) == (2, True)
    assert list(tmp_path.glob("codeq-install")) == []


def test_execute_without_the_tools_writes_the_bundle_and_names_the_missing_one(run: Run, tmp_path: Path) -> None:
    done = run("install", "--execute", PATH=str(tmp_path / "nothing"))
    assert (done.returncode, b"docker is not installed" in done.stderr) == (1, True)
    assert (tmp_path / "codeq-install" / "compose.yaml").exists()
    done = run("install", "--execute", "--target", "kubernetes", "--output-dir", "k8s", PATH=str(tmp_path / "nothing"))
    assert (done.returncode, b"kubectl and helm are not installed" in done.stderr) == (1, True)
    both = b"kubectl apply --filename k8s/secret.yaml && helm upgrade --install codeq k8s/chart "
    assert both in done.stderr


def test_execute_with_docker_names_a_missing_compose_plugin(run: Run, tmp_path: Path) -> None:
    docker = tmp_path / "tools" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\n[ -n "$PLUGIN" ] && echo "$@" || { echo \'unknown flag\' >&2; exit 125; }\n')
    docker.chmod(0o755)
    path = f"{docker.parent}:/usr/bin:/bin"
    done = run("install", "--execute", PATH=path)
    assert (done.returncode, b"error: docker has no Compose plugin" in done.stderr) == (1, True)
    assert b"unknown flag" not in done.stderr
    done = run("install", "--execute", "--force", PATH=path, PLUGIN="yes")
    assert (done.returncode, b"up --detach" in done.stdout) == (0, True)


def test_execute_runs_the_next_commands_in_order_and_reports_a_failure(run: Run, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("kubectl", "helm"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $1" >> {tmp_path}/calls\n[ "$FAILING" != {name} ]\n')
        (tools / name).chmod(0o755)
    given = ["install", "--target", "kubernetes", "--execute", "--force"]
    path = f"{tools}:/usr/bin:/bin"
    assert run(*given, PATH=path).returncode == 0
    assert (tmp_path / "calls").read_text() == "kubectl apply\nhelm upgrade\n"
    done = run(*given, PATH=path, FAILING="kubectl")
    assert (done.returncode, b"kubectl has failed with exit code 1" in done.stderr) == (1, True)
    assert (tmp_path / "calls").read_text().count("helm") == 1
