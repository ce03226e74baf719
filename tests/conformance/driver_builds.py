"""How to start each driver; Go and TypeScript are compiled first, once for all processes of a test run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from program_builds import BuildError, build_once

ROOT: Final = Path(__file__).resolve().parents[2]
DRIVERS: Final = Path(__file__).with_name("drivers")


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
    try:
        return _COMMANDS[name](folder)
    except BuildError as failed:
        raise DriverMissing(str(failed)) from None


def _python(name: str) -> Callable[[Path], list[str]]:
    return lambda _: [sys.executable, str(DRIVERS / name / "driver.py")]


def _go(folder: Path) -> list[str]:
    program = folder / "go-driver"
    build_once(program, ["go", "build", "-o", str(program), "."], DRIVERS / "go")
    return [str(program)]


def _ts(folder: Path) -> list[str]:
    build_once(folder / "ts-driver.built", ["npm", "run", "--silent", "build"], ROOT / "sdks" / "ts")
    return ["node", str(DRIVERS / "ts" / "driver.mjs")]


_COMMANDS: Final[Mapping[str, Callable[[Path], list[str]]]] = {
    "python": _python("python"),
    "rest": _python("rest"),
    "go": _go,
    "ts": _ts,
}
