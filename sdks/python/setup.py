"""Builds the distribution codeq-sdk as pyproject.toml describes it, without modules that a former build left behind."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class FreshModules(build_py):
    """Copies modules into an empty folder: `pip install` builds in the checkout, where removed ones lie about."""

    def run(self) -> None:
        """Copies them."""
        for path in Path(self.build_lib).rglob("*.py"):
            path.unlink()
        super().run()


setup(cmdclass={"build_py": FreshModules})
