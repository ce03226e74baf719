"""Prints the packages of Python and of Debian in the file system that it runs in, as a CycloneDX document."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

Component = dict[str, Any]

NAME: Final = "codeq"
SERVER: Final = "codeq-server"
DPKG_STATUS: Final = Path("/var/lib/dpkg/status")
OS_RELEASE: Final = Path("/etc/os-release")


def python_packages() -> Iterator[Component]:
    """Yields the distributions that this interpreter can import."""
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        yield component(name, distribution.version, f"pkg:pypi/{name}@{distribution.version}", license_of(distribution))


def license_of(distribution: Distribution) -> str | None:
    """Returns the licence that a distribution declares in one line; None: it declares none."""
    declared = distribution.metadata.get("License-Expression") or distribution.metadata.get("License")
    if declared and "\n" not in declared:
        return declared
    prefix = "License :: OSI Approved :: "
    classifiers = distribution.metadata.get_all("Classifier") or []
    return next((line.removeprefix(prefix) for line in classifiers if line.startswith(prefix)), None)


def debian_packages() -> Iterator[Component]:
    """Yields the packages that dpkg has installed."""
    if not DPKG_STATUS.exists():
        return
    system = dict(line.partition("=")[::2] for line in OS_RELEASE.read_text().splitlines())
    distro = f"{system['ID']}-{system.get('VERSION_ID', '').strip(chr(34))}"
    for paragraph in DPKG_STATUS.read_text().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if re.match(r"[A-Z][\w-]+: ", line))
        if fields["Status"] == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version}?arch={fields['Architecture']}&distro={distro}"
            yield component(name, version, purl, None)


def component(name: str, version: str, purl: str, licence: str | None) -> Component:
    """Returns a component; its package URL identifies it."""
    made: Component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if licence:
        made["licenses"] = [{"license": {"name": licence}}]
    return made


def document() -> dict[str, Any]:
    """Returns the document, with the components sorted: the same packages give the same bytes."""
    found = {each["bom-ref"]: each for each in (*python_packages(), *debian_packages())}
    python = platform.python_version()
    interpreter = component("python", python, f"pkg:generic/python@{python}", "PSF-2.0")
    server = next(each for each in found.values() if each["name"] == SERVER)
    subject = {"type": "container", "bom-ref": NAME, "name": NAME, "version": server["version"]}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": sorted([interpreter, *found.values()], key=lambda each: str(each["purl"])),
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
