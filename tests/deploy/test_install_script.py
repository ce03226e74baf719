"""install.sh and the npm wrapper: they verify the files of a release in a folder, install them and run the command."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = json.loads((ROOT / "npm" / "package.json").read_text())["version"]
pytestmark = pytest.mark.timeout(180)  # makes virtual environments

COMMAND = """
import os, signal, sys

def main():
    print("codeq", *sys.argv[1:])
    print(sorted(name for name in os.environ if name.startswith("CODEQ_INSTALL_")))
    sys.exit(int(sys.argv[2]) if sys.argv[1:2] == ["exit"] else 0)
"""


def wheel(folder: Path, distribution: str, tag: str, version: str, files: dict[str, str], script: str = "") -> Path:
    """Writes a wheel; returns its path."""
    name = distribution.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    if script:
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{script}\n"
    record = "".join(f"{path},sha256={_record_digest(text)},{len(text.encode())}\n" for path, text in content.items())
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in content.items():
            archive.writestr(inside, text)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return path


def _record_digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder with the files of a small release, and one for another machine."""
    folder = tmp_path / "release"
    folder.mkdir()
    helper = wheel(folder, "helper", "py3-none-any", "1.0", {"helper.py": ""})
    digest = hashlib.sha256(helper.read_bytes()).hexdigest()
    (folder / "requirements.txt").write_text(f"helper==1.0 --hash=sha256:{digest}\n")
    wheel(folder, "codeq-sdk", "py3-none-any", VERSION, {"codeq.py": ""})
    script = "codeq = codeq_cli:main"
    wheel(folder, "codeq-server", "py3-none-any", VERSION, {"codeq_cli.py": COMMAND}, script)
    wheel(folder, "codeq-raft-core", "cp311-abi3-win_amd64", VERSION, {"codeq_raft_core.py": ""})
    summed(folder)
    return folder


def summed(folder: Path) -> None:
    """Writes the checksums of a release."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def variables(tmp_path: Path, release: Path, **more: str) -> dict[str, str]:
    """Returns the environment of an installation without a network."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "PYTHON": sys.executable,
        "CODEQ_INSTALL_FROM": str(release),
        "CODEQ_INSTALL_OFFLINE": "1",
        **more,
    }


def install(tmp_path: Path, release: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs install.sh."""
    command = ["sh", str(ROOT / "install.sh")]
    env = variables(tmp_path, release, **more)
    return subprocess.run(command, env=env, check=False, capture_output=True, text=True, cwd=tmp_path)


def test_a_release_is_installed_for_the_user_and_both_names_run_it(tmp_path: Path, release: Path) -> None:
    done = install(tmp_path, release)

    assert done.returncode == 0, done.stderr
    assert "only single nodes" in done.stdout
    for name in ("codeq", "codeq-cli"):
        command = [tmp_path / "home/.local/bin" / name, "task", "list"]
        env = variables(tmp_path, release)
        ran = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        assert ran.stdout.splitlines()[0] == "codeq task list"
    assert (tmp_path / "home/.local/share/codeq" / VERSION / ".complete").exists()


def test_a_file_that_differs_from_its_checksum_is_rejected_and_nothing_is_installed(
    tmp_path: Path, release: Path
) -> None:
    with (release / f"codeq_server-{VERSION}-py3-none-any.whl").open("ab") as file:
        file.write(b"more")
    done = install(tmp_path, release)

    assert done.returncode == 1
    assert f"codeq_server-{VERSION}-py3-none-any.whl is not what SHA256SUMS says" in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["requirements.txt", "codeq_sdk", "codeq_server", "codeq_raft_core"])
def test_a_valid_file_with_another_checksum_is_never_installed(tmp_path: Path, release: Path, name: str) -> None:
    wheel(release, "codeq-raft-core", native_tag(), VERSION, {"codeq_raft_core.py": ""})
    summed(release)
    script = "codeq = codeq_cli:main"
    if name == "requirements.txt":
        (release / name).write_text("")
    elif name == "codeq_server":
        replaced = wheel(release, name, "py3-none-any", VERSION, {"codeq_cli.py": f"{COMMAND}\n"}, script)
    else:
        tag = native_tag() if name == "codeq_raft_core" else "py3-none-any"
        replaced = wheel(release, name, tag, VERSION, {"other.py": ""})
    told = name if name == "requirements.txt" else replaced.name
    done = install(tmp_path, release)

    assert (done.returncode, f"{told} is not what SHA256SUMS says" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["requirements.txt", "codeq_sdk", "codeq_server"])
@pytest.mark.parametrize("spoil", ["", "0"], ids=["missing", "short"])
def test_a_file_without_a_checksum_is_never_installed(tmp_path: Path, release: Path, name: str, spoil: str) -> None:
    lines = (release / "SHA256SUMS").read_text().splitlines(keepends=True)
    changed = [f"{spoil}  {line.split()[1]}\n" * bool(spoil) if f"  {name}" in line else line for line in lines]
    (release / "SHA256SUMS").write_text("".join(changed))
    done = install(tmp_path, release)

    wanted = "no server for this machine" if name == "codeq_server" else f"SHA256SUMS has no {name}"
    assert (done.returncode, wanted in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["SHA256SUMS", f"codeq_sdk-{VERSION}-py3-none-any.whl"])
def test_a_file_that_the_release_lacks_is_named(tmp_path: Path, release: Path, name: str) -> None:
    (release / name).unlink()
    done = install(tmp_path, release)

    assert (done.returncode, f"has no {name}" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("has_digest", [True, False], ids=["wrong", "missing"])
def test_a_dependency_with_a_wrong_or_no_checksum_is_never_installed(
    tmp_path: Path, release: Path, has_digest: bool
) -> None:
    (release / "requirements.txt").write_text(
        f"helper==1.0 --hash=sha256:{'0' * 64}\n" if has_digest else "helper==1.0\n"
    )
    summed(release)
    done = install(tmp_path, release)

    assert (done.returncode, "hash" in done.stderr.lower()) == (1, True), done.stderr
    folder = tmp_path / "home/.local/share/codeq" / VERSION
    assert [*folder.rglob("helper.py")] == []
    assert not (folder / ".complete").exists()
    assert not (tmp_path / "home/.local/bin").exists()


def native_tag() -> str:
    """Returns the tag of the wheels with an extension for this machine."""
    system = f"macosx_11_0_{platform.machine()}" if sys.platform == "darwin" else f"linux_{platform.machine()}"
    return f"cp311-abi3-{system}"


def test_pinned_checksums_are_verified(tmp_path: Path, release: Path) -> None:
    done = install(tmp_path, release, CODEQ_INSTALL_SHA256="0" * 64)

    assert done.returncode == 1
    assert "CODEQ_INSTALL_SHA256" in done.stderr


def test_a_release_without_a_server_for_this_machine_is_rejected(tmp_path: Path, release: Path) -> None:
    server = release / f"codeq_server-{VERSION}-py3-none-any.whl"
    server.rename(release / f"codeq_server-{VERSION}-cp311-cp311-win_amd64.whl")
    summed(release)
    done = install(tmp_path, release)

    assert done.returncode == 1
    assert "no server for this machine" in done.stderr


def test_names_of_files_outside_the_release_are_never_fetched(tmp_path: Path, release: Path) -> None:
    with (release / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  ../codeq_x-1-none-any.whl\n{'0' * 64}  codeq_x-1/../../y-none-any.whl\n")

    assert install(tmp_path, release).returncode == 0


def test_a_script_that_breaks_off_runs_nothing(tmp_path: Path, release: Path) -> None:
    text = (ROOT / "install.sh").read_text()
    begun = text[: text.rindex('main "$@"')]
    command = ["sh", "-c", begun]
    done = subprocess.run(command, env=variables(tmp_path, release), check=False, capture_output=True, text=True)

    assert done.returncode == 0
    assert not (tmp_path / "home").exists()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The npm package as `npm pack` makes it."""
    folder = tmp_path / "package"
    shutil.copytree(ROOT / "npm", folder, ignore=shutil.ignore_patterns("install.sh", "LICENSE", "node_modules"))
    shutil.copy(ROOT / "install.sh", folder)
    return folder


def test_the_npm_package_installs_its_version_once_and_passes_arguments_and_exit_codes(
    tmp_path: Path, release: Path, package: Path
) -> None:
    command = ["node", str(package / "bin" / "codeq.js")]
    env = variables(tmp_path, release)
    first = subprocess.run([*command, "exit", "7"], env=env, check=False, capture_output=True, text=True)
    shutil.rmtree(release)
    second = subprocess.run([*command, "queue", "list"], env=env, check=False, capture_output=True, text=True)

    assert first.returncode == 7, first.stderr
    assert first.stdout.splitlines() == ["codeq exit 7", "[]"]
    assert second.stdout.splitlines()[0] == "codeq queue list"
    assert second.returncode == 0
    assert not (tmp_path / "home/.local/bin").exists()


def test_a_failed_installation_runs_no_command(tmp_path: Path, release: Path, package: Path) -> None:
    (release / "requirements.txt").write_text("changed\n")
    command = ["node", str(package / "bin" / "codeq.js"), "queue", "list"]
    env = variables(tmp_path, release)
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stdout == ""
    assert "requirements.txt is not what SHA256SUMS says" in done.stderr
