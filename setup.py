"""Builds the distribution codeq-server. Three variables change the result.

CODEQ_COMPILE=1: mypyc compiles the modules that pyproject.toml lists into extensions, from the same sources.
CODEQ_OPT_LEVEL=0 to 3: how far the C compiler optimises; 3 by default.
CODEQ_PUBLISHED=1: the dependencies on this project's other distributions name versions, for an index that serves them;
otherwise they point into this checkout, so that `pip install .` needs none of them published.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any, Final

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT: Final = Path(__file__).resolve().parent
TOOLS: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
INLINE_ACROSS_MODULES: Final = "-fno-semantic-interposition"
"""Lets the C compiler inline functions of one extension into each other: nothing replaces them when it is loaded."""
LAYOUTS: Final = ("deploy/docker-compose", "deploy/observability", "helm/codeq")
"""Folders that `codeq install` makes bundles of; they are there in a checkout, but not where the image is built."""
PACKAGE_DIR: Final[dict[str, str]] = TOOLS["setuptools"]["package-dir"]


def packages() -> list[str]:
    """Returns the names of all packages of the distribution."""
    regular = (find_packages(str(Path(path).parent), include=[top, f"{top}.*"]) for top, path in PACKAGE_DIR.items())
    return [*chain.from_iterable(regular), "codeq_internal", "codeq_internal.v1"]  # the latter have no __init__


def folder(package: str) -> Path:
    """Returns the folder of a package, relative to the checkout."""
    top, *rest = package.split(".")
    return Path(PACKAGE_DIR[top], *rest)


def compiled() -> dict[str, list[str]]:
    """Returns the paths of the modules to compile, by the package that they belong to."""
    listed = TOOLS["codeq"]["compiled"]
    paths = {
        package: [
            str(path)
            for path in sorted(folder(package).glob("*.py"))
            if path.stem != "__init__" and f"{package}.{path.stem}" not in listed["interpreted"]
        ]
        for package in listed["packages"]
    }
    for module in listed["modules"]:
        package, _, name = module.rpartition(".")
        paths.setdefault(package, []).append(str(folder(package) / f"{name}.py"))
    return paths


def extensions() -> list[Extension]:
    """Translates the modules to C; each package becomes one shared library, so that they compile in parallel."""
    from mypyc.build import mypycify  # noqa: PLC0415 - a pure build needs no compiler

    groups = [(paths, f"{package}.compiled") for package, paths in compiled().items()]
    paths = [path for group, _ in groups for path in group]
    level = os.environ.get("CODEQ_OPT_LEVEL", "3")
    cache = "build/compiled/mypy_cache"  # fresh: classes read from the cache of a check or of another build lack parts
    shutil.rmtree(cache, ignore_errors=True)
    options = [f"--cache-dir={cache}", *paths]
    found: list[Extension] = mypycify(options, separate=groups, opt_level=level, target_dir="build/compiled")
    if os.name == "posix":
        for extension in found:
            extension.extra_compile_args.append(INLINE_ACROSS_MODULES)
    return found


class FreshModules(build_py):
    """Copies modules into an empty folder: one that a former build left there would end up in the wheel."""

    def run(self) -> None:
        """Copies them, and the layouts into the package that installs them."""
        for path in Path(self.build_lib).rglob("*.py"):
            path.unlink()
        super().run()
        if not self.editable_mode:
            self._copy_layouts(Path(self.build_lib, "codeq_cli", "install", "layouts"))

    @staticmethod
    def _copy_layouts(target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        for name in LAYOUTS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))


class FreshExtensions(build_ext):
    """Compiles, and removes extensions of modules that are not compiled any more: Python would prefer them."""

    def run(self) -> None:
        """Compiles them."""
        super().run()
        wanted = {self.get_ext_filename(self.get_ext_fullname(each.name)) for each in self.extensions}
        for package in compiled():
            inside = Path(*package.split("."))
            rooms = [Path(self.build_lib, inside), *([folder(package)] if self.inplace else [])]
            for path in (path for room in rooms for path in room.glob("*.so")):
                if str(inside / path.name) not in wanted:
                    path.unlink()


def distribution(name: str, path: str) -> str:
    """Returns the requirement of another distribution of this project."""
    return f"{name}==0.1.0" if os.environ.get("CODEQ_PUBLISHED") == "1" else f"{name} @ {(ROOT / path).as_uri()}"


setup(
    packages=packages(),
    package_data={"": ["py.typed", "*.pyi", "openapi/**/*.json"]},
    install_requires=[distribution("codeq-sdk", "sdks/python"), *TOOLS["codeq"]["requirements"]],
    extras_require={
        "raft": [distribution("codeq-raft-core", "server/raft_core")],
        "tracing": ["opentelemetry-sdk>=1.40,<2", "opentelemetry-exporter-otlp-proto-grpc>=1.40,<2"],
    },
    ext_modules=extensions() if os.environ.get("CODEQ_COMPILE") == "1" else [],
    cmdclass={"build_py": FreshModules, "build_ext": FreshExtensions},
    options={"build_ext": {"parallel": True}},
    zip_safe=False,
)
