"""A process in the file system of an image, as a container engine would start it, but without an engine.

It has namespaces of its own for mounts, processes and the host name; the file system is read-only but for its mounts;
its user has no capabilities. It is process 1, as in a container, so signals without a handler do not reach it. The
network is that of a namespace by name, or of the caller.

As a program, this module is the first process in the namespaces: it mounts, drops its rights, and becomes the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

POLL_SECONDS = 0.02
START_SECONDS_MAX = 20.0
DEVICES = ("null", "zero", "random", "urandom")
STARTERS = {"unshare", "prlimit", "setpriv", "env"}
"""Programs that the first process inside is before it becomes the command."""
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc")


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host in the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Confined:
    """What a container is started with.

    Attributes:
        root: File system of the image, on the host.
        command: Command and its arguments.
        env: All its variables.
        user: Ids of user and group.
        groups: Ids of further groups.
        mounts: Its volumes and files.
        hostname: Its host name.
        workdir: Its working directory.
        network: Name of a network namespace; None: that of the caller.
        limits: Arguments of prlimit, such as "--nofile=1024".
    """

    root: str
    command: Sequence[str]
    env: Mapping[str, str]
    user: tuple[int, int]
    groups: Sequence[int] = ()
    mounts: Sequence[Mount] = ()
    hostname: str = "container"
    workdir: str = "/"
    network: str | None = None
    limits: Sequence[str] = field(default=())

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Starts the container and returns the process that waits for it; `init_of` finds the first process inside."""
        inside = ["ip", "netns", "exec", self.network] if self.network is not None else []
        command = [*inside, "unshare", *NAMESPACES, "--fork", "--kill-child", sys.executable, __file__]
        with log.open("ab") as output:
            started = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        assert started.stdin is not None
        with started.stdin as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(json.dumps(asdict(self)).encode())
        return started

    def run(self, pid: int, *command: str, seconds: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Runs a command in a started container, given its first process, as its user.

        Raises:
            subprocess.TimeoutExpired: The command took longer.
        """
        enter = ["nsenter", "--target", str(pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--root", "--wd"]
        env = ["env", "-i", *(f"{name}={value}" for name, value in self.env.items())]
        enter += [*rights(self.user, self.groups), *env, *command]
        return subprocess.run(enter, check=False, capture_output=True, text=True, timeout=seconds)


def rights(user: tuple[int, int], groups: Sequence[int]) -> list[str]:
    """Returns the command that gives all rights away but those of a user."""
    given = [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    dropped = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    return ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", *given, *dropped]


def init_of(pid: int) -> int:
    """Returns the first process of a container, given the one that waits for it, once it runs the command.

    Raises:
        AssertionError: The container ended, or did not start in time.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            waiting = psutil.Process(pid)
            assert waiting.status() != psutil.STATUS_ZOMBIE, "the container has ended"
            for child in waiting.children():
                if __file__ not in child.cmdline() and child.name() not in STARTERS:
                    return child.pid
        time.sleep(POLL_SECONDS)
    raise AssertionError("the container did not start")


def is_alive(pid: int) -> bool:
    """Returns whether a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(waiting: int, seconds: float, number: signal.Signals = signal.SIGTERM) -> bool:
    """Sends the first process of a container a signal, and kills it when it has not ended in time.

    Returns:
        Whether it ended in time.
    """
    if not is_alive(waiting):
        return True
    os.kill(init_of(waiting), number)
    deadline = time.monotonic() + seconds
    while is_alive(waiting):
        if time.monotonic() > deadline:
            kill(waiting)
            return False
        time.sleep(POLL_SECONDS)
    return True


def kill(waiting: int) -> None:
    """Kills a container, however far its start has come. The kernel ends all of it with its first process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (*psutil.Process(waiting).children(), psutil.Process(waiting)):
            process.kill()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _make_place(target: Path, *, like: str) -> None:
    """Makes what is mounted over, as engines do, if the image has no such file or folder."""
    if like == "tmpfs" or Path(like).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


def _become(spec: Confined) -> None:
    root = spec.root
    _mount("--make-rprivate", "/")
    for mount in spec.mounts:
        _make_place(Path(root + mount.target), like=mount.source)
    _mount("--bind", root, root)
    _mount("-o", "remount,bind,ro", root)
    _mount("-t", "proc", "proc", f"{root}/proc")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{root}/dev")
    for device in DEVICES:
        Path(root, "dev", device).touch()
        _mount("--bind", f"/dev/{device}", f"{root}/dev/{device}")
    Path(root, "dev/shm").mkdir()
    Path(root, "dev/fd").symlink_to("/proc/self/fd")
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}/dev/shm")
    for mount in spec.mounts:
        target = root + mount.target
        if mount.source == "tmpfs":
            _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", target)
            continue
        _mount("--bind", mount.source, target)
        if mount.read_only:
            _mount("-o", "remount,bind,ro", target)
    subprocess.run(["hostname", spec.hostname], check=True)
    search = os.environ["PATH"]
    os.chroot(root)
    os.chdir(spec.workdir)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    limits = ["prlimit", *spec.limits] if spec.limits else []
    env = ["env", "-i", *(f"{name}={value}" for name, value in spec.env.items())]
    command = [*limits, *rights(spec.user, spec.groups), *env, *spec.command]
    os.environ["PATH"] = search + ":/usr/sbin:/usr/bin:/sbin:/bin"
    os.execvp(command[0], command)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    given["mounts"] = [Mount(**each) for each in given["mounts"]]
    given["user"] = tuple(given["user"])
    _become(Confined(**given))
