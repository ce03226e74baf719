"""How to start each driver; Go and TypeScript are compiled first, once for all processes of a test run."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DRIVERS: Final = Path(__file__).with_name("drivers")
BUILD_SECONDS_MAX: Final = 300


class DriverMissing(Exception):  # noqa: N818 - what is wrong
    """There is no such driver, or it does not compile."""


def command(name: str, folder: Path) -> list[str]:
    """Returns the command that starts a driver.

    Args:
        name: Name of the driver.
        folder: Folder that all processes of the test run share.

    Raises:
        DriverMissing: It is not there, or does not compile.
    """
    if not (DRIVERS / name).is_dir():
        raise DriverMissing(f"there is no driver {name}: no folder {name} in {DRIVERS.relative_to(ROOT)}")
    return _COMMANDS[name](folder)


def _python(name: str) -> Callable[[Path], list[str]]:
    return lambda _: [sys.executable, str(DRIVERS / name / "driver.py")]


def _go(folder: Path) -> list[str]:
    program = folder / "go-driver"
    _once(folder / "go-driver.lock", program, ["go", "build", "-o", str(program), "."], DRIVERS / "go")
    return [str(program)]


def _ts(folder: Path) -> list[str]:
    built = folder / "ts-driver.built"
    _once(folder / "ts-driver.lock", built, ["npm", "run", "--silent", "build"], ROOT / "sdks" / "ts")
    built.touch()
    return ["node", str(DRIVERS / "ts" / "driver.mjs")]


def _once(lock: Path, product: Path, build: list[str], where: Path) -> None:
    """Runs a build unless another process of the run has done it."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if product.exists():
            return
        try:
            done = subprocess.run(build, cwd=where, capture_output=True, timeout=BUILD_SECONDS_MAX, check=False)
        except OSError as error:
            raise DriverMissing(f"{build[0]}: {error}") from None
        if done.returncode:
            raise DriverMissing(f"{' '.join(build)}: {(done.stderr or done.stdout).decode(errors='replace')}")
        product.touch()


_COMMANDS: Final[Mapping[str, Callable[[Path], list[str]]]] = {
    "python": _python("python"),
    "rest": _python("rest"),
    "go": _go,
    "ts": _ts,
}
