"""Fails when the generated files are not what the protos give.

Everything is generated into a temporary folder and compared; the files in place are only
read, so that tests may run at the same time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = (
    ("gateway/codeq_gateway/openapi", "*.openapi.json"),
    ("sdks/go/gen", "*.go"),
    ("sdks/python/src", "*_pb2*.py*"),
    ("sdks/ts/src/gen", "*.ts"),
    ("server/codeq_internal", "*_pb2*.py*"),
)
"""Folders and patterns of the generated files; nothing written by hand matches."""


def files_in(root: Path) -> dict[str, bytes]:
    """Returns the generated files below a root by their path in it."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder, pattern in GENERATED
        for path in (root / folder).rglob(pattern)
        if "__pycache__" not in path.parts
    }


def main(templates: list[str]) -> int:
    """Generates by the templates and compares; returns 1 and names the files when some differ."""
    with tempfile.TemporaryDirectory() as folder:
        for template in templates:
            subprocess.run(["buf", "generate", "--template", template, "-o", folder], cwd=ROOT, check=True)  # noqa: S603, S607
        fresh = files_in(Path(folder))
    present = files_in(ROOT)
    stale = sorted(path for path in fresh.keys() | present.keys() if fresh.get(path) != present.get(path))
    for path in stale:
        print(f"not what the protos give: {path}")
    print(f"{len(fresh)} generated files, {len(stale)} differ" + ("; run `make generate`" if stale else ""))
    return int(bool(stale) or not fresh)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
