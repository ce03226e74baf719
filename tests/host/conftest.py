"""Tests that need root or system tools. These tests run only when they are named: `pytest tests/host`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from base_image import BUILD, COMPILING_BUILD, RUNTIME, cached_base
from host_images import Image, Images, shared
from host_tools import need, need_root, run
from small_disk import small_disk

HERE = Path(__file__).resolve().parent
# Walks and clients are in the HTTP tests, the documented environment in the acceptance tests, the chart in deploy.
sys.path += [str(HERE.parent / name) for name in ("http", "acceptance", "deploy")]

CHECKOUT = HERE.parents[1]
NAME = "localhost/codeq:host-test"
COMPILED_VARIABLE = "CODEQ_COMPILED_IMAGE"
"""Set to 1, it has the image of the tests compiled, as a build from the published bases is; that takes minutes."""
KEPT_VARIABLE = "CODEQ_KEPT_IMAGE"
"""Folder in which a build of the image is kept and taken from, for those who change tests rather than the image."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves this folder out unless a pytest argument names it or something in it."""
    start = config.invocation_params.dir
    named = [(start / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves all but the first test of the image to the end: one worker makes the image while the others are busy."""
    of_image = [item for item in items if "image" in getattr(item, "fixturenames", ())]
    others = [item for item in items if item not in of_image]
    items[:] = [*of_image[:1], *others, *of_image[1:]]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of this checkout, with this machine's extension for Raft; the workers of a run share it."""
    need_root()
    need("buildah", "debootstrap", "tar")
    kept = os.environ.get(KEPT_VARIABLE)
    if kept and Path(kept, "settings.json").exists():
        yield Image(Path(kept, "root"), json.loads(Path(kept, "settings.json").read_text()))
        return
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with shared(folder / "images", make_image) as made:
        if kept and not Path(kept).exists():
            Path(kept).mkdir(parents=True)
            run("cp", "-a", made.root, Path(kept, "root"))
            Path(kept, "settings.json").write_text(json.dumps(made.settings))
        yield made


def make_image(images: Images) -> Image:
    """Makes the image of this checkout."""
    images.import_base(cached_base(RUNTIME), "localhost/codeq-base:host-test")
    packages = COMPILING_BUILD if os.environ.get(COMPILED_VARIABLE) == "1" else BUILD
    images.import_base(cached_base(packages), "localhost/codeq-build:host-test")
    base = {"BASE": "localhost/codeq-base:host-test", "RUST": "localhost/codeq-base:host-test"}
    build = base | {"BUILD": "localhost/codeq-build:host-test", "OPT_LEVEL": "0", "REVISION": "of-a-test"}
    images.build(CHECKOUT, NAME, build, {"raft_core": raft_core(images.directory)})
    return images.image(NAME)


def raft_core(directory: Path) -> Path:
    """Returns what the stage raft_core makes: its base has no cargo here, so the extension is the one of the tests."""
    import codeq_raft_core

    out = directory / "raft_core" / "out"
    out.mkdir(parents=True)
    [extension] = Path(codeq_raft_core.__file__).parent.glob("*.abi3.so")
    shutil.copy(extension, out)
    return out.parent


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    with small_disk(tmp_path / "disk") as path:
        yield path
