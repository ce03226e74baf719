"""The command `docker`, as far as documents use it, for images whose file systems lie in a folder.

Containers share the network of the caller, so a port is published by being the same on both sides. Their file systems
are read-only but for their volumes and, unless --read-only is given, /tmp: the image must not need more. A new named
volume gets the owner of the image's folder, as with the engine; a folder of the host stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codeq_cli import env_files
from confined import Confined, Mount, init_of, is_alive, stop

STATE_VARIABLE = "DOCKER_STAND_IN"
STOP_SECONDS = 10.0
"""Time that the engine gives a container before it kills it."""


class Engine:
    """Images, volumes and containers below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("containers", "volumes"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def image(self, name: str) -> tuple[Path, dict[str, Any]]:
        """Returns the file system and the settings of an image."""
        images = json.loads((self._folder / "images.json").read_text())
        if name not in images:
            sys.exit(f"no such image: {name}")
        return Path(images[name]["root"]), images[name]["settings"]

    def run(self, options: argparse.Namespace) -> int:
        """Makes a container and starts it.

        Returns:
            The exit code: 0 if it is detached, else that of its command.
        """
        options.name = options.name or f"unnamed-{secrets.token_hex(4)}"
        root, settings = self.image(options.image)
        for published in options.publish:
            outer, inner = published.split(":")[-2:]
            assert outer == inner, f"-p {published}: the stand-in has no mapping of ports"
        env = dict(each.split("=", 1) for each in settings["Env"])
        for file in options.env_file:
            env |= env_files.read(Path(file), quotes=False)
        env |= dict(each.split("=", 1) for each in options.env)
        user, group = map(int, settings["User"].split(":"))
        command = [*([options.entrypoint] if options.entrypoint else settings["Entrypoint"]), *options.arguments]
        spec = Confined(
            root=str(root),
            command=command,
            env=env,
            user=(user, group),
            mounts=[*self._volumes(options, root, settings), *self._files(options)],
            hostname=options.hostname or options.name,
            workdir=settings.get("WorkingDir") or "/",
        )
        state = self._state(options.name)
        if state.exists():
            sys.exit(f"the name {options.name} is in use")
        state.write_text(json.dumps({"spec": asdict(spec), "pid": None}))
        self.start(options.name)
        if options.detach:
            print(options.name)
            return 0
        code = self._started[options.name].wait()
        sys.stdout.write(self.log(options.name))
        if options.rm:
            self.remove(options.name)
        return code

    def start(self, name: str) -> None:
        """Starts a container."""
        held = self._held(name)
        started = self._started[name] = _spec(held).start(self._log(name))
        self._state(name).write_text(json.dumps(held | {"pid": started.pid}))

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends a container, by force after the time that the engine gives it."""
        pid = self._held(name)["pid"]
        if pid is not None:
            stop(pid, STOP_SECONDS, number)

    def remove(self, name: str) -> None:
        """Removes a container that does not run. Its log stays for the test."""
        pid = self._held(name)["pid"]
        if pid is not None and is_alive(pid):
            sys.exit(f"{name} is running")
        self._state(name).unlink()

    def execute(self, name: str, command: list[str]) -> int:
        """Runs a command in a container and returns its exit code."""
        held = self._held(name)
        done = _spec(held).run(init_of(held["pid"]), *command)
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.returncode

    def process_of(self, name: str) -> int:
        """Returns the first process of a container."""
        return init_of(self._held(name)["pid"])

    def is_running(self, name: str) -> bool:
        """Returns whether a container runs."""
        return is_alive(self._held(name)["pid"])

    def log(self, name: str) -> str:
        """Returns the output of a container."""
        return self._log(name).read_text(errors="replace")

    def _volumes(self, options: argparse.Namespace, root: Path, settings: dict[str, Any]) -> list[Mount]:
        named = dict(reversed(given.split(":")[:2]) for given in options.volume)
        for target in settings.get("Volumes") or {}:
            named.setdefault(target, f"{options.name}-{target.replace('/', '-')}")
        writable = [] if options.read_only else ["/tmp"]
        mounts = [Mount("tmpfs", target) for target in (*options.tmpfs, *writable)]
        for target, source in named.items():
            place = Path(source) if source.startswith("/") else self._folder / "volumes" / source
            if not place.exists():
                place.mkdir()
                inside = (root / target.lstrip("/")).stat()
                shutil.chown(place, inside.st_uid, inside.st_gid)
            mounts.append(Mount(str(place.resolve()), target))
        return mounts

    def _files(self, options: argparse.Namespace) -> list[Mount]:
        hosts = self._folder / "containers" / f"{options.name}.hosts"
        given = (each.split(":", 1) for each in options.add_host)
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in given))
        return [Mount(str(hosts), "/etc/hosts", read_only=True)]

    def _held(self, name: str) -> dict[str, Any]:
        if not self._state(name).exists():
            sys.exit(f"no such container: {name}")
        held: dict[str, Any] = json.loads(self._state(name).read_text())
        return held

    def _state(self, name: str) -> Path:
        return self._folder / "containers" / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self._folder / "containers" / f"{name}.log"


def _spec(held: dict[str, Any]) -> Confined:
    spec = dict(held["spec"])
    spec["mounts"] = [Mount(**each) for each in spec["mounts"]]
    spec["user"] = tuple(spec["user"])
    return Confined(**spec)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("docker", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pull").add_argument("image")
    run = commands.add_parser("run", allow_abbrev=False)
    run.add_argument("-d", "--detach", action="store_true")
    for switch in ("--read-only", "--rm"):
        run.add_argument(switch, action="store_true")
    for flag in ("--name", "--hostname", "--entrypoint", "--memory"):
        run.add_argument(flag)
    for flag in (
        ("-p", "--publish"),
        ("-e", "--env"),
        ("-v", "--volume"),
        ("--env-file",),
        ("--tmpfs",),
        ("--add-host",),
    ):
        run.add_argument(*flag, action="append", default=[])
    run.add_argument("image")
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    for name in ("start", "stop", "restart", "kill", "rm", "logs"):
        commands.add_parser(name).add_argument("name")
    execute = commands.add_parser("exec")
    execute.add_argument("name")
    execute.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def main() -> int:
    """Runs a command line and returns its exit code."""
    options = _parser().parse_args()
    engine = Engine(Path(os.environ[STATE_VARIABLE]))
    match options.command:
        case "pull":
            engine.image(options.image)
        case "run":
            return engine.run(options)
        case "start":
            engine.start(options.name)
        case "stop":
            engine.stop(options.name)
        case "restart":
            engine.stop(options.name)
            engine.start(options.name)
        case "kill":
            engine.stop(options.name, signal.SIGKILL)
        case "rm":
            engine.remove(options.name)
        case "logs":
            sys.stdout.write(engine.log(options.name))
        case "exec":
            return engine.execute(options.name, options.arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
