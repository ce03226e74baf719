"""The user guide "Run In Docker": its commands as printed, and its environment of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from codeq_cli import env_files

TOKEN: Final = "dev-token"

PARTS: Final = {
    part.partition("\n")[0].strip(): part.partition("\n")[2]
    for part in Path(__file__).with_name("run_in_docker.sh").read_text().split("\n### ")[1:]
}
"""Commands of the guide by the name of their part."""

_FILE: Final = PARTS["env"].partition("<<'EOF'\n")[2].partition("\nEOF\n")[0]
ENVIRONMENT: Final = env_files.parsed(_FILE, quotes=False)
"""Variables of the guide's codeq.env; tests change the store's path and the ports."""
