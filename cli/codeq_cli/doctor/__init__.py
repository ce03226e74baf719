"""What `codeq doctor` looks at: a configuration, and the machine that a server with it would run on.

Each module yields findings of one kind, and `examination` runs them all. They bind ports and write a small file to
measure the disk, and undo both; nothing else is changed.
"""

from __future__ import annotations

from codeq_cli.doctor.examination import examine
from codeq_cli.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
